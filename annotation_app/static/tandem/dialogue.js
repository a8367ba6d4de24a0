// A live dialogue: sends a message, shows both answers as they come, and goes on to judge them.
import { post } from "./judge/outbox.js";
import { events, sentence } from "./stream.js";
import { isOpenInTab, openInTab } from "./veil.js";

const find = (id) => document.getElementById(id);
const live = find("live");
const form = find("message");
const box = form.elements.text;
const { origin, ask, person } = live.dataset;
const draft = `tandem.message.${person}.${ask}`;
const LOST = "The connection was lost while the models answered. Nothing was stored; your message is kept here: send it again.";
const UNREACHABLE = "The models' service cannot be reached right now. Nothing was stored; your message is kept here: try again in a minute, or tell your researcher.";

let running = null; // {turn: its id once the models are asked, stopped}

// --- the message -------------------------------------------------------------------------

box.value = sessionStorage.getItem(draft) || box.value;
box.addEventListener("input", () => keep(box.value));
box.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) return;
  if (box.value.trim()) converse();
  else refuse("Write a message first.");
});

function keep(text) {
  try {
    sessionStorage.setItem(draft, text);
  } catch {
    // Longer than a browser keeps; it stands in the box.
  }
}

async function converse() {
  const fields = Object.fromEntries(new FormData(form));
  begin(fields.text);
  try {
    const answer = await post(origin + ask, fields, { credentials: "include" });
    if (!answer.ok) return refuse(await sentence(answer));
    for await (const event of events(answer.body)) {
      told[event.event](event);
      if (event.event === "done" || event.event === "refused") return;
    }
    refuse(LOST);
  } catch {
    refuse(running?.turn ? LOST : UNREACHABLE);
  }
}

// --- what happens ------------------------------------------------------------------------

const told = {
  start: ({ turn }) => {
    running.turn = turn;
    if (running.stopped) sendStop();
  },
  text: ({ left, right }) => {
    find("left-text").append(left);
    find("right-text").append(right);
  },
  resampling: ({ side }) => {
    find(`${side}-text`).textContent = "";
    say(`The ${side} answer could not be judged and is asked for again.`);
  },
  done: ({ annotation }) => {
    sessionStorage.removeItem(draft);
    say("Done. Now judge the two answers.");
    location.assign(`/annotations/${annotation}${isVeiled() ? "" : "?show=1"}`);
  },
  refused: (event) => refuse(event.sentence),
};

function begin(text) {
  running = { turn: null, stopped: false };
  keep(text);
  find("asked").textContent = text;
  for (const side of ["left", "right"]) find(`${side}-text`).textContent = "";
  show(true);
  find("stop").focus();
  say("Both are answering …");
}

function refuse(words) {
  running = null;
  show(false);
  say("");
  find("error").textContent = words;
  find("error").hidden = false;
  box.focus();
}

function show(isAnswering) {
  find("answers").hidden = !isAnswering;
  form.hidden = isAnswering;
  find("error").hidden = true;
  find("stop").disabled = false;
  veil();
}

const say = (words) => { find("status").textContent = words; };

// --- the stop ----------------------------------------------------------------------------

function stop() {
  if (!running || running.stopped) return;
  running.stopped = true;
  find("stop").disabled = true;
  say("Stopping both …");
  if (running.turn) sendStop();
}

async function sendStop() {
  try {
    await post(`${origin}/live/turns/${running.turn}/stop`, {}, { credentials: "include" });
  } catch {
    if (!running) return;
    running.stopped = false;
    find("stop").disabled = false;
    say("The stop did not get through; press again.");
  }
}

find("stop").addEventListener("click", stop);
addEventListener("keydown", (event) => { if (event.key === "Escape") stop(); });

// --- safety texts are hidden until asked for, as on the judging page -----------------------

const isVeiled = () => find("veil")?.hasAttribute("data-veils") ?? false;

function veil() {
  find("answers").classList.toggle("veiled", isVeiled());
}

function unveil() {
  if (find("unveil-all").checked) openInTab();
  find("veil").removeAttribute("data-veils");
  find("unveil").parentElement.remove();
  veil();
}

if (isVeiled()) {
  find("unveil").addEventListener("click", unveil);
  if (isOpenInTab()) unveil();
}

addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
find("send").disabled = false;
box.focus();
