// The playground: a talk with one chat model or with two. It lives in this page alone; each message
// takes along all that was said before.
import { post } from "./judge/outbox.js";
import { events, sentence } from "./stream.js";

const find = (id) => document.getElementById(id);
const { origin, ask } = find("playground").dataset;
const settings = find("settings");
const form = find("message");
const box = form.elements.text;
const SIDES = ["left", "right"];
const LONGEST_LINK = 3000; // characters of an address that every server takes
const LOST = "The connection was lost while the models answered: regenerate, or edit the message.";
const UNREACHABLE = "The models' service cannot be reached right now. Your message is kept here: try again in a minute.";
const TOO_LONG = "The talk has become too long for one message. Start anew, or edit an earlier message.";
const ENDS = { stop: "", length: "cut off at the limit", stopped: "stopped" };

const turns = []; // {text, before: what each side was told, answers, picked: a side or null, element}
let running = null; // {turn: the one being answered, place: its id once the models are asked, stopped, scoring, leave}
let edited = null; // the turn that the next message replaces, with all after it

// --- settings, which the address keeps -----------------------------------------------------

function link() {
  const fields = new URLSearchParams(new FormData(settings));
  const whole = fields.toString().length <= LONGEST_LINK;
  if (!whole) fields.delete("system");
  history.replaceState(null, "", `?${fields}`);
  find("link").textContent = whole ? "" : "The system message is too long for the address, which leaves it out.";
  draw();
}

settings.addEventListener("input", link);
settings.addEventListener("submit", (event) => event.preventDefault());

const isAlone = () => !settings.elements.right.value;
const nameOf = (side) => settings.elements[side].selectedOptions[0]?.text ?? "";

// --- what was said --------------------------------------------------------------------------

// The dialogue behind each answer of a turn; null for one that nobody can go on from.
function lines(turn) {
  return turn.answers.map((answer, side) => answer.isWhole && answer.text.trim()
    ? [...turn.before[side], { role: "user", content: turn.text }, { role: "assistant", content: answer.text }]
    : null);
}

// What both sides are told before the next message; null where no answer can be gone on from.
function before() {
  const last = turns.at(-1);
  if (!last) return [[], []];
  const found = lines(last);
  const [left, right] = last.picked === null ? found : [found[last.picked], found[last.picked]];
  const told = [left ?? right, right ?? left];
  return told[0] ? told : null;
}

function pick(turn, side) {
  turn.picked = turn.picked === side ? null : side;
  draw();
  box.focus();
}

function edit(turn) {
  edited = turn;
  box.value = turn.text;
  box.focus();
  draw();
}

// Takes a turn and all after it away; returns them.
function drop(turn) {
  const gone = turns.splice(turns.indexOf(turn));
  for (const one of gone) one.element.remove();
  return gone;
}

// --- a message ------------------------------------------------------------------------------

box.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  form.requestSubmit();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) send();
});

function send() {
  const text = box.value;
  if (!text.trim()) return refuse("Write a message first.");
  const told = edited ? edited.before : before();
  if (!told) return refuse("No answer can be gone on from: regenerate the last ones, or edit your message.");
  const replaced = edited ? drop(edited) : [];
  const wasEdited = edited;
  edited = null;
  box.value = "";
  converse(text, told, { replaced, wasEdited });
}

function regenerate() {
  const last = turns.at(-1);
  edited = null;
  converse(last.text, last.before, { replaced: drop(last), changed: { seed: "" } });
}

// `replaced`: the turns whose place it takes; `wasEdited`: the first of them, where its text was.
async function converse(text, told, { replaced = [], wasEdited = null, changed = {} }) {
  const turn = begin(text, told);
  const leave = new AbortController();
  running = { turn, place: null, stopped: false, scoring: false, leave, replaced, wasEdited };
  draw();
  say(isAlone() ? "It is answering …" : "Both are answering …");
  try {
    const answer = await post(origin + ask, fields(turn, changed), { credentials: "include", signal: leave.signal });
    if (!answer.ok) return withdraw(turn, answer.status === 413 ? TOO_LONG : await sentence(answer));
    for await (const event of events(answer.body)) {
      hear[event.event](turn, event);
      if (event.event === "done" || event.event === "refused") return;
    }
    breakOff(turn, LOST);
  } catch {
    if (leave.signal.aborted) end("Stopped without scores.");
    else if (running.place) breakOff(turn, LOST);
    else withdraw(turn, UNREACHABLE);
  }
}

function fields(turn, changed) {
  const said = { role: "user", content: turn.text };
  const messages = turn.answers.map((_, side) => [`${SIDES[side]}_messages`, JSON.stringify([...turn.before[side], said])]);
  return { ...Object.fromEntries(new FormData(settings)), ...Object.fromEntries(messages), ...changed };
}

// The turn on the screen, with empty answers.
function begin(text, told) {
  const element = find("exchange").content.cloneNode(true).firstElementChild;
  const sides = isAlone() ? ["left"] : SIDES;
  const turn = { text, before: told, picked: null, element };
  element.querySelector(".asked").textContent = text;
  element.querySelector(".edit").addEventListener("click", () => edit(turn));
  turn.answers = sides.map((side, number) => {
    const shown = find("answer").content.cloneNode(true).firstElementChild;
    shown.classList.add(sides.length > 1 ? side : "alone");
    shown.setAttribute("aria-label", `${sides.length > 1 ? side : "one"} answer to message ${turns.length + 1}`);
    shown.querySelector("h2").textContent = nameOf(side);
    shown.querySelector(".go-on").addEventListener("click", () => pick(turn, number));
    element.querySelector(".sides").append(shown);
    return { text: "", isOver: false, isWhole: false, seed: null, shown };
  });
  element.querySelector(".sides").classList.toggle("one", sides.length === 1);
  turns.push(turn);
  find("exchanges").append(element);
  scrollTo(0, document.documentElement.scrollHeight);
  return turn;
}

// --- what the models and the rewards say ------------------------------------------------------

const hear = {
  start: (turn, { turn: place, seeds }) => {
    seeds.forEach((seed, side) => { turn.answers[side].seed = seed; });
    running.place = place;
    if (running.stopped) sendStop();
  },
  text: (turn, { side, text }) => {
    const answer = turn.answers[side];
    answer.text += text;
    following(() => answer.shown.querySelector(".said").append(text));
  },
  ended: (turn, { side, reason, seconds }) => {
    const answer = turn.answers[side];
    const count = [...answer.text].length;
    const facts = [`${count} character${count === 1 ? "" : "s"}`, seconds === undefined ? "" : `${seconds} s`, `seed ${answer.seed}`, ENDS[reason] ?? reason];
    answer.isOver = answer.isWhole = true;
    answer.shown.querySelector(".facts").textContent = facts.filter(Boolean).join(", ");
    if (!answer.text.trim()) fail(answer, reason === "stopped" ? "Stopped before it had begun." : "The answer is empty.");
  },
  failed: (turn, { side, sentence: why }) => fail(turn.answers[side], why),
  scoring: () => {
    running.scoring = true;
    say("The reward models score …");
    draw();
  },
  scores: (turn, { sides, missing }) => {
    following(() => { for (const scores of sides) score(turn.answers[scores.side], scores); });
    find("missing").textContent = missing.join(" ");
    find("missing").hidden = !missing.length;
  },
  done: () => end("Done."),
  refused: (turn, event) => breakOff(turn, event.sentence),
};

// Who reads the end of the page goes on reading its end.
function following(change) {
  const page = document.documentElement;
  const isAtEnd = scrollY + innerHeight > page.scrollHeight - 40;
  change();
  if (isAtEnd) scrollTo(0, page.scrollHeight);
}

function score({ shown }, scores) {
  const table = shown.querySelector(".scores");
  for (const row of table.querySelectorAll("[data-score]")) {
    const raw = scores[row.dataset.score];
    const isKnown = typeof raw === "number";
    row.hidden = !isKnown;
    if (isKnown) row.querySelector(".share").textContent = (1 / (1 + Math.exp(-raw))).toFixed(3);
    if (isKnown) row.querySelector(".logit").textContent = raw.toFixed(2).replace("-", "−");
  }
  if (scores.by) table.querySelector(".by").textContent = `, ${scores.by} decides`;
  table.hidden = ![...table.querySelectorAll("[data-score]")].some((row) => !row.hidden);
}

function fail(answer, why) {
  answer.isOver = true;
  answer.isWhole = false;
  const failed = answer.shown.querySelector(".failed");
  failed.textContent = why;
  failed.hidden = false;
}

// An end that nobody asked for: what stands there stays, without going on from it.
function breakOff(turn, why) {
  const coming = turn.answers.filter((one) => !one.isOver);
  for (const answer of coming) fail(answer, why);
  end("");
  if (!coming.length) refuse(why);
}

// A message that was never asked leaves everything as it was before it.
function withdraw(turn, why) {
  drop(turn);
  turns.push(...running.replaced);
  find("exchanges").append(...running.replaced.map((one) => one.element));
  edited = running.wasEdited;
  if (edited || !running.replaced.length) box.value ||= turn.text;
  end("");
  refuse(why);
}

function end(words) {
  running = null;
  say(words);
  following(draw);
}

// --- the page ---------------------------------------------------------------------------------

const say = (words) => { find("status").textContent = words; };

function refuse(words) {
  find("error").textContent = words;
  find("error").hidden = false;
}

function draw() {
  const last = turns.at(-1);
  find("send").disabled = Boolean(running);
  find("stop").disabled = !running || running.stopped && !running.scoring;
  find("again").disabled = Boolean(running) || !last;
  find("anew").disabled = Boolean(running) || !last;
  if (running) for (const id of ["error", "missing"]) find(id).hidden ||= !running.scoring;
  const from = edited ? turns.indexOf(edited) : turns.length;
  turns.forEach((turn, number) => {
    turn.element.classList.toggle("dropped", number >= from);
    turn.element.querySelector(".edit").disabled = Boolean(running);
    const found = lines(turn);
    turn.answers.forEach((answer, side) => {
      const button = answer.shown.querySelector(".go-on");
      button.hidden = Boolean(running) || turn !== last || turn.answers.length === 1 || !found[side];
      button.setAttribute("aria-pressed", turn.picked === side);
    });
  });
  find("from").textContent = whereFrom(last);
  find("from").hidden = !find("from").textContent;
}

// What the next message goes on from, in words.
function whereFrom(last) {
  if (edited) return `Message ${turns.indexOf(edited) + 1} is being edited; what stands after it goes when you send it. Esc leaves it as it was.`;
  if (running || !last) return "";
  if (last.answers.length === 1) return isAlone() ? "" : "The next message goes on from the answer above, for both models.";
  const whole = SIDES.filter((_, side) => lines(last)[side]);
  if (!whole.length) return "";
  const only = last.picked !== null ? SIDES[last.picked] : whole.length === 1 ? whole[0] : null;
  if (only) return `The next message goes on from the ${only} answer${isAlone() ? "" : ", for both models"}.`;
  return isAlone() ? "The next message goes on from the left answer." : "The next message goes on from both answers, each model from its own.";
}

function anew() {
  drop(turns[0]);
  edited = null;
  for (const id of ["error", "missing"]) find(id).hidden = true;
  say("");
  draw();
  box.focus();
}

// --- the stop ---------------------------------------------------------------------------------

function stop() {
  if (running?.scoring) return running.leave.abort();
  if (!running || running.stopped) return;
  running.stopped = true;
  say("Stopping …");
  draw();
  if (running.place) sendStop();
}

async function sendStop() {
  try {
    await post(`${origin}/live/turns/${running.place}/stop`, {}, { credentials: "include" });
  } catch {
    if (!running) return;
    running.stopped = false;
    say("The stop did not get through; press again.");
    draw();
  }
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (running) stop();
  else if (edited) {
    edited = null;
    box.value = "";
    draw();
  }
});
find("stop").addEventListener("click", stop);
find("again").addEventListener("click", regenerate);
find("anew").addEventListener("click", anew);
link();
box.focus({ preventScroll: true });
