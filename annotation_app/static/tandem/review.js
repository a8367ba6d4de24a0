// The review page: a key for each decision, and feedback asked for where it is needed.
const SETTLE_MS = 500; // a second press of the key for the last answer must not decide on this one

const review = document.getElementById("review");
const feedback = document.getElementById("feedback");
const hint = document.getElementById("hint");
const edit = document.getElementById("edit");
const shownAt = performance.now();
let wanted = null; // the button that waits for its feedback
let isSent = false;

function lacksWhy(button) {
  return "needsWhy" in button.dataset && !feedback.value.trim();
}

function askWhy(button) {
  wanted = button;
  hint.textContent = hint.dataset.why;
  feedback.focus();
}

function press(element) {
  if (element === edit?.querySelector("summary")) {
    edit.open = !edit.open;
    if (edit.open) (edit.querySelector("input:checked") ?? edit.querySelector("input[type=radio]")).focus();
  } else if (lacksWhy(element)) {
    askWhy(element);
  } else {
    element.click();
  }
}

addEventListener("keydown", (event) => {
  if (event.repeat || event.isComposing || event.altKey) return;
  const box = event.target.closest("textarea");
  if (box) {
    if (event.key === "Escape") box.blur();
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    const button = box === feedback ? wanted : box.form.querySelector("button");
    if (button) press(button);
    event.preventDefault();
    return;
  }
  if (!("keys" in review.dataset) || event.ctrlKey || event.metaKey) return;
  if (performance.now() - shownAt < SETTLE_MS) return;
  const key = event.key.toLowerCase();
  if (edit?.open && key !== "e") return;
  const found = [...review.querySelectorAll("[data-key]")].find((element) => element.dataset.key === key);
  if (!found) return;
  event.preventDefault();
  press(found);
});

edit?.addEventListener("toggle", () => {
  const box = document.getElementById("edit-feedback");
  if (edit.open) box.value ||= feedback.value;
});

for (const form of review.querySelectorAll("form")) {
  form.addEventListener("submit", (event) => {
    if (isSent) return event.preventDefault();
    if (event.submitter && lacksWhy(event.submitter)) {
      event.preventDefault();
      return askWhy(event.submitter);
    }
    isSent = true;
  });
}
addEventListener("pageshow", () => { isSent = false; });

review.addEventListener("click", (event) => {
  const tab = event.target.closest("[data-look]");
  if (tab) document.getElementById(tab.dataset.look).scrollIntoView({ inline: "start", block: "nearest" });
});
