// The page of a running attempt: keys, the time that is left, and a text stored while it is written.
import { Veil } from "./veil.js";

{
  const find = (id) => document.getElementById(id);
  const page = find("attempt");
  const form = find("answer");
  const SAVE_AFTER_MS = 3000;
  const veil = new Veil(find("card"));

  // --- keys -----------------------------------------------------------------------------

  function listen(keys) {
    const actionOf = Object.fromEntries(Object.entries(keys).map(([action, key]) => [key.toLowerCase(), action]));
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
      const target = event.target;
      if (target.closest("textarea, select")) return;
      if (event.key === "Enter" && target.closest("a, button, summary")) return;
      const digit = /^Digit\d$/.test(event.code) ? event.code.slice(5) : null; // AZERTY and the like
      const action = actionOf[event.key.toLowerCase()] ?? actionOf[digit];
      const radio = action && form.querySelector(`input[data-action="${action}"]`);
      if (radio) radio.checked = true;
      else if (action === "submit") form.requestSubmit(find("submit"));
      else if (action === "unveil") veil.lift();
      else return;
      event.preventDefault();
    });
  }

  // --- safety texts: what was chosen without reading them is held back, until the time is over ---

  function hold(event) {
    const chosen = form.querySelector("input[name=preference]:checked");
    const isOver = form.querySelector("input[name=go]");
    if (!veil.isDown() || !chosen || isOver || event.submitter?.value === "previous") return;
    event.preventDefault();
    const line = Object.assign(document.createElement("p"), { className: "error", textContent: find("veil").dataset.first });
    line.setAttribute("role", "alert");
    find("errors").replaceChildren(line);
  }

  function watchVeil() {
    veil.draw();
    form.addEventListener("submit", hold);
    find("veil").querySelector("[data-action=unveil]").addEventListener("click", (event) => {
      event.preventDefault();
      veil.lift();
    });
  }

  // --- the time, by the server's clock as the page left it --------------------------------

  const NEWS = [[300, "5 minutes left."], [60, "1 minute left."], [0, "The time is over."]];

  function count(secondsLeft) {
    const end = performance.now() + 1000 * secondsLeft;
    const told = new Set(NEWS.filter(([at]) => at >= secondsLeft && at > 0).map(([at]) => at));
    const tick = () => {
      const left = Math.max(0, (end - performance.now()) / 1000);
      const shown = Math.ceil(left);
      find("clock").textContent = `${Math.floor(shown / 60)}:${String(shown % 60).padStart(2, "0")} left`;
      for (const [at, sentence] of NEWS) {
        if (left > at || told.has(at)) continue;
        told.add(at);
        find("time-news").textContent = sentence;
        find("time-news").hidden = false;
      }
      if (left > 0) return;
      clearInterval(timer);
      over();
    };
    const timer = setInterval(tick, 500);
    tick();
  }

  // What stands on the page is sent as it is; the server takes it for a few seconds more.
  function over() {
    if (!form) return location.assign(page.dataset.over);
    const go = Object.assign(document.createElement("input"), { type: "hidden", name: "go", value: "over" });
    form.append(go);
    form.requestSubmit();
  }

  // --- a text -----------------------------------------------------------------------------

  function keep(text) {
    let timer = null;
    const length = find("length");
    const measure = () => {
      length.textContent = `${text.value.length} of ${length.dataset.most} characters at most`;
    };
    const save = async () => {
      timer = null;
      try {
        const answer = await fetch(location.href, {
          method: "POST",
          body: new FormData(form),
          headers: { Accept: "application/json" },
        });
        const reply = await answer.json();
        find("saved").textContent = answer.ok ? reply.saved : reply.errors.join(" ");
      } catch {
        find("saved").textContent = "The server cannot be reached; going on will try again.";
      }
    };
    text.addEventListener("input", () => {
      measure();
      timer ??= setTimeout(save, SAVE_AFTER_MS);
    });
    form.addEventListener("submit", () => clearTimeout(timer));
    measure();
  }

  if (find("veil")) watchVeil();
  if (form) listen(JSON.parse(find("keys").textContent));
  if (page.dataset.secondsLeft) count(Number(page.dataset.secondsLeft));
  if (form?.elements.text) keep(form.elements.text);
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
}
