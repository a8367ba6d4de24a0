// What is being written stays on this device until it is stored; it is never sent by itself.
"use strict";
const form = document.getElementById("draft");
const stored = document.getElementById("stored");

if (form) {
  const key = form.dataset.key;
  const fields = [...form.querySelectorAll("textarea, select")];
  const read = () => Object.fromEntries(fields.map((field) => [field.name, field.value]));
  const blank = JSON.stringify(Object.fromEntries(fields.map((field) => [field.name, before(field)])));
  const kept = localStorage.getItem(key);
  const news = document.getElementById("draft-news");
  const discard = document.getElementById("discard");

  // After a refusal the page holds what was sent, which is newer than the draft.
  if (kept && !("sent" in form.dataset)) {
    const draft = JSON.parse(kept);
    for (const field of fields) field.value = draft[field.name] ?? field.value;
    news.textContent = "Your draft is back; it was kept on this device.";
    discard.hidden = false;
  }
  form.addEventListener("input", () => {
    const now = JSON.stringify(read());
    if (now === blank) localStorage.removeItem(key);
    else localStorage.setItem(key, now);
    news.textContent = now === blank ? "" : "The draft is kept on this device.";
    discard.hidden = now === blank;
  });
  discard.addEventListener("click", () => {
    localStorage.removeItem(key);
    form.reset();
    news.textContent = "The draft is discarded.";
    discard.hidden = true;
    fields[0].focus();
  });
  form.addEventListener("submit", () => { form.querySelector("button").disabled = true; });
  addEventListener("pageshow", () => { form.querySelector("button").disabled = false; });
}

// The page of what was stored: a draft of the same text has done its duty.
if (stored) {
  const text = JSON.parse(stored.textContent);
  for (const key of Object.keys(localStorage).filter((name) => name.startsWith("tandem.draft."))) {
    if (JSON.parse(localStorage.getItem(key)).text.trim() === text) localStorage.removeItem(key);
  }
}

function before(field) {
  return field.matches("select") ? [...field.options].find((o) => o.defaultSelected)?.value ?? field.options[0].value : field.defaultValue;
}
