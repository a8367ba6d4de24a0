// Keys, the lease's heartbeat and the time spent, on the judging page.
"use strict";
const judge = document.querySelector(".judge");
const form = document.getElementById("judgement");

if (form) {
  const opened = performance.now();
  form.addEventListener("submit", () => {
    document.getElementById("seconds").value = ((performance.now() - opened) / 1000).toFixed(1);
    document.getElementById("submit").disabled = true;
  });
  addEventListener("pageshow", () => { document.getElementById("submit").disabled = false; });

  const toggleRaw = () => {
    for (const raw of document.querySelectorAll(".side .raw")) {
      raw.hidden = !raw.hidden;
      raw.previousElementSibling.hidden = !raw.hidden;
    }
  };
  document.getElementById("raw").addEventListener("click", toggleRaw);

  const actions = {
    enter: () => form.requestSubmit(),
    s: () => document.getElementById("skip").requestSubmit(),
    f: () => {
      document.getElementById("flag-details").open = true;
      document.getElementById("flag-reason").focus();
    },
    m: toggleRaw,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const target = event.target;
    if (target.closest("textarea, select, summary, a, button")) return;
    if (target.matches("input") && target.type !== "radio") return;
    const key = event.key.toLowerCase();
    const radio = form.querySelector(`input[data-key="${CSS.escape(key)}"]`);
    if (radio) {
      radio.checked = true;
      radio.focus({ preventScroll: true });
    } else if (actions[key]) {
      actions[key]();
    } else {
      return;
    }
    event.preventDefault();
  });

  const beat = async () => {
    if (document.hidden) return;
    const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
    const lease = document.getElementById("lease");
    try {
      const answer = await fetch(judge.dataset.heartbeat, {
        method: "POST",
        headers: { "X-CSRFToken": token },
      });
      lease.textContent = answer.status === 409 ? await answer.text() : "";
    } catch {
      lease.textContent = "The server cannot be reached; your choice stays on this page.";
    }
  };
  setInterval(beat, 1000 * Number(judge.dataset.heartbeatSeconds));
}
