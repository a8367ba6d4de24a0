// The judging page: keys, one comparison after the other without loading a page, and undo.
import { showDifference } from "./difference.js";
import { Outbox, post } from "./outbox.js";
import { Watch } from "./watch.js";
import { Veil } from "../veil.js";

const judge = document.getElementById("judge");
const form = document.getElementById("judgement");
const find = (id) => document.getElementById(id);
const read = (id) => JSON.parse(find(id).textContent);
const address = (id, verb) => `/annotations/${id}/${verb}`;
const NOTED = ["left_rating", "right_rating", "left_tags", "right_tags", "comment"];
const PHONE = matchMedia("(max-width: 48rem)");

if (form) {
  const keys = read("keys");
  const sentences = read("sentences");
  const actionOf = Object.fromEntries(Object.entries(keys).map(([action, key]) => [key.toLowerCase(), action]));
  const isSafety = Boolean(form.querySelector(".safety"));
  const watch = new Watch();
  const veil = new Veil(find("card"));
  const outbox = new Outbox(judge.dataset.person, told);
  const drafts = new Drafts(`tandem.drafts.${judge.dataset.person}`);

  // What is on the screen, and what comes after it: {id, html, verb, done?}
  let shown = { id: Number(find("card").firstElementChild.dataset.annotation), html: find("card").innerHTML, verb: form.action.endsWith("/revise") ? "revise" : "record" };
  let ahead = [];
  const within = judge.dataset.dialogue; // a turn of a live dialogue stands alone
  let ended = within ? "The dialogue goes on." : ""; // why nothing comes after
  let asking = false;
  let last = null; // the answer that undo takes back: {card, url, fields, id once it is stored}
  const seen = new Set(); // sides
  const answered = new Set(); // annotations; the server may offer one whose answer is on its way

  // --- going on -------------------------------------------------------------------------

  function show(card) {
    shown = card;
    find("card").innerHTML = card.html;
    const version = form.elements.guideline_version.value;
    form.reset();
    form.elements.guideline_version.value = version;
    leaveNote();
    for (const verb of ["skip", "flag"]) find(verb).action = address(card.id, verb);
    form.action = address(card.id, card.verb ?? "record");
    find("flag-reason").value = "";
    complain([]);
    fillIn(drafts.of(card.id));
    seen.clear();
    veil.draw();
    watch.start();
    watchSides();
    applyViews();
    if (card.guidelines && card.guidelines !== Number(form.elements.guideline_version.value)) renewGuidelines();
    find("submit").disabled = false;
    scrollTo({ top: 0 });
  }

  function goOn() {
    drafts.drop(shown.id);
    shown.done = true;
    find("review-note")?.remove();
    if (ahead.length) show(ahead.shift());
    else if (ended && !outbox.items().length) location.href = judge.dataset.done;
    else {
      find("submit").disabled = true;
      find("card").setAttribute("aria-busy", "true");
      askAhead();
    }
  }

  function take(reply) {
    if (within) reply = { next: null, why: ended };
    ended = reply.next ? "" : reply.why;
    const known = (card) => card.id === reply.next.id;
    const isNew = reply.next && !answered.has(reply.next.id) && !known(shown) && !ahead.some(known);
    if (isNew) ahead.push(reply.next);
    if (!shown.done) return;
    find("card").removeAttribute("aria-busy");
    if (ahead.length) show(ahead.shift()), askAhead();
    else if (ended && !outbox.items().length) location.href = judge.dataset.done;
    else if (!ended && !outbox.items().length) setTimeout(askAhead);
  }

  async function askAhead() {
    if (asking || ahead.length || ended) return;
    asking = true;
    try {
      const answer = await post(judge.dataset.next, { shown: shown.done ? "" : shown.id });
      if (answer.ok) take(await answer.json());
    } catch {
      // Without a network the next answer that gets through brings it.
    } finally {
      asking = false;
    }
  }

  function told({ item, reply, refusal, waiting }) {
    const saved = find("saved");
    saved.classList.toggle("waiting", Boolean(waiting));
    if (waiting) {
      saved.textContent = waiting;
    } else if (refusal) {
      saved.textContent = `#${item.id} was not stored. ${refusal}`;
      answered.delete(item.id);
      saved.classList.add("waiting");
      askAhead();
    } else {
      saved.textContent = reply.saved.sentence;
      if (last?.url === item.url) offerUndo(reply.saved.id);
      if (item.criterion === judge.dataset.criterion) take(reply);
    }
  }

  // --- answers --------------------------------------------------------------------------

  function faults() {
    if (veil.isDown()) return [sentences.veiled];
    const chosen = form.elements.preference.value;
    if (!chosen) return [sentences.choose];
    if (PHONE.matches && seen.size < 2) return [sentences.look];
    if (!isSafety) return [];
    const safe = form.elements.safe.value;
    if (!safe) return [sentences.safe];
    const contradicts = ["left", "right"].includes(safe) && !chosen.startsWith(safe);
    return contradicts ? [sentences.contradiction] : [];
  }

  function complain(found) {
    find("errors").replaceChildren(...found.map((sentence) => {
      const line = document.createElement("p");
      Object.assign(line, { className: "error", textContent: sentence });
      line.setAttribute("role", "alert");
      return line;
    }));
  }

  function send(url, fields, undoable) {
    find("saved").textContent = "Saving …";
    const after = ahead[0]?.id ?? "";
    last = undoable ? { card: shown, url, fields } : null;
    answered.add(shown.id);
    find("undo").disabled = !undoable;
    outbox.put({ id: shown.id, url, criterion: judge.dataset.criterion, fields: { ...fields, shown: after, dialogue: within ?? "" } });
    goOn();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (shown.done) return;
    const found = faults();
    complain(found);
    if (found.length) return;
    send(form.getAttribute("action"), { ...filledIn(), ...watch.read() }, true);
  });
  for (const event of ["change", "input"]) {
    form.addEventListener(event, () => { if (!shown.done) drafts.keep(shown.id, filledIn()); });
  }
  for (const verb of ["skip", "flag"]) {
    find(verb).addEventListener("submit", (event) => {
      event.preventDefault();
      if (shown.done) return;
      find("flag-dialog").close();
      const reason = verb === "flag" ? find("flag-reason").value : "";
      send(find(verb).getAttribute("action"), { reason }, false);
    });
  }

  // What is filled in, by name: lists, since several reasons may hold.
  function filledIn() {
    const data = new FormData(form);
    data.delete("csrfmiddlewaretoken");
    const names = [...new Set(data.keys())];
    return Object.fromEntries(names.map((name) => [name, data.getAll(name).filter(Boolean)]));
  }

  function fillIn(fields) {
    for (const input of form.querySelectorAll("input[type=radio], input[type=checkbox]")) {
      if (fields[input.name]?.includes(input.value)) input.checked = true;
    }
    find("comment").value = fields.comment?.[0] ?? "";
    find("note").open = NOTED.some((name) => fields[name]?.length);
  }

  // --- undo -----------------------------------------------------------------------------

  function offerUndo(id) {
    const mine = last;
    mine.id = id;
    setTimeout(() => { if (last === mine) find("undo").disabled = true; }, 1000 * sentences.undo_seconds);
  }

  async function undo() {
    if (find("undo").disabled) return;
    if (outbox.takeBack(last.url)) return showUnsent();
    if (!last.id) return complain([sentences.saving]);
    find("undo").disabled = true;
    try {
      const answer = await fetch(address(last.id, "revise"), { headers: { Accept: "application/json" } });
      const found = await answer.json();
      if (!answer.ok) return complain(found.errors);
      if (!shown.done) ahead.unshift(shown);
      show({ ...found, verb: "revise" });
      find("saved").textContent = sentences.revising;
    } catch {
      find("undo").disabled = false;
      complain(["The server cannot be reached; try again in a moment."]);
    }
  }

  // An answer that had not left this device: it comes back as it was.
  function showUnsent() {
    const { card, fields } = last;
    answered.delete(card.id);
    find("undo").disabled = true;
    find("saved").textContent = "";
    if (!shown.done) ahead.unshift(shown);
    show({ ...card, done: false });
    fillIn(fields);
  }

  // --- views ----------------------------------------------------------------------------

  const views = { difference: false, raw: false, together: false };

  function applyViews() {
    const card = find("card");
    for (const raw of card.querySelectorAll(".raw")) {
      const plain = views.raw || (views.difference && raw.closest(".side"));
      raw.hidden = !plain;
      raw.previousElementSibling.hidden = Boolean(plain);
    }
    const [left, right] = ["left", "right"].map((side) => card.querySelector(`[data-part=${side}]`));
    const texts = [left, right].map((element) => ({ element, text: element.textContent }));
    if (views.difference) showDifference(...texts);
    else for (const { element, text } of texts) element.textContent = text;
    card.classList.toggle("together", views.together);
    for (const [name, on] of Object.entries(views)) {
      document.querySelector(`button[data-action=${name}]`).setAttribute("aria-pressed", on);
    }
  }

  function toggle(name) {
    views[name] = !views[name];
    applyViews();
  }

  find("card").addEventListener("scroll", (event) => {
    if (!views.together || !event.target.classList?.contains("side")) return;
    const other = find(event.target.id === "left" ? "right" : "left");
    const share = event.target.scrollTop / Math.max(1, event.target.scrollHeight - event.target.clientHeight);
    const top = share * (other.scrollHeight - other.clientHeight);
    if (Math.abs(other.scrollTop - top) > 2) other.scrollTop = top;
  }, { capture: true, passive: true });

  function watchSides() {
    const panes = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (entry.intersectionRatio < 0.6) continue;
        seen.add(entry.target.id);
        if (!PHONE.matches) continue;
        watch.look(entry.target.id);
        for (const tab of find("card").querySelectorAll("[data-look]")) {
          tab.setAttribute("aria-pressed", tab.dataset.look === entry.target.id);
        }
      }
    }, { threshold: 0.6, root: PHONE.matches ? document.querySelector(".sides") : null });
    for (const side of ["left", "right"]) {
      const pane = find(side);
      panes.observe(pane);
      pane.addEventListener("pointerenter", () => watch.look(side));
      pane.addEventListener("focusin", () => watch.look(side));
    }
  }

  find("card").addEventListener("click", (event) => {
    const tab = event.target.closest("[data-look]");
    if (tab) look(tab.dataset.look);
  });

  function look(side) {
    find(side).focus({ preventScroll: !PHONE.matches });
    if (PHONE.matches) find(side).scrollIntoView({ inline: "start", block: "nearest" });
  }

  async function renewGuidelines() {
    const answer = await fetch(judge.dataset.guidelines).catch(() => null);
    if (!answer?.ok) return; // the next card says it again
    find("guidelines").innerHTML = await answer.text();
    form.elements.guideline_version.value = find("guidelines").firstElementChild.dataset.version;
    find("guidelines-news").hidden = false;
  }

  // --- the note: within it digits rate, and no other key of the page does anything --------

  function openNote() {
    find("note").open = true;
    const ratings = [...form.querySelectorAll("input[name=left_rating]")];
    (ratings.find((radio) => radio.checked) ?? ratings[0]).focus();
  }

  function leaveNote() {
    const wasIn = find("note").contains(document.activeElement);
    find("note").open = false;
    if (wasIn) find("left").focus({ preventScroll: true });
  }

  find("note").addEventListener("keydown", (event) => {
    if (event.isComposing || event.target.matches("summary")) return;
    const isLine = event.target.matches("textarea");
    const withControl = event.ctrlKey || event.metaKey;
    const digit = `${event.key} ${event.code}`.match(/^([1-7]) |Digit([1-7])$/); // AZERTY and the like
    event.stopPropagation();
    if (event.key === "Enter" && !event.repeat && (withControl || !isLine)) form.requestSubmit();
    else if (event.key === "Escape") leaveNote();
    else if (event.target.type === "radio" && !withControl && digit) rate(event.target.name, digit[1] ?? digit[2]);
    else return;
    event.preventDefault();
  });

  function rate(name, value) {
    const radio = form.querySelector(`input[name=${name}][value="${value}"]`);
    radio.focus();
    radio.checked = true;
    radio.dispatchEvent(new Event("change", { bubbles: true }));
  }

  // --- keys -----------------------------------------------------------------------------

  const actions = {
    submit: () => form.requestSubmit(),
    skip: () => find("skip").requestSubmit(),
    flag: () => { find("flag-dialog").showModal(); find("flag-reason").focus(); },
    undo,
    difference: () => toggle("difference"),
    raw: () => toggle("raw"),
    together: () => toggle("together"),
    help: () => find("help-dialog").showModal(),
    unveil: veil.lift,
    note: openNote,
    look_left: () => look("left"),
    look_right: () => look("right"),
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
    if (document.querySelector("dialog[open]")) return;
    const target = event.target;
    if (target.closest("textarea, select, [contenteditable]")) return;
    if (target.matches("input") && !["radio", "checkbox"].includes(target.type)) return;
    if (target.matches("input") && event.key.startsWith("Arrow")) return; // within the choices
    if (event.key === "Enter" && target.closest("a, button, summary")) return;
    const digit = /^Digit\d$/.test(event.code) ? event.code.slice(5) : null; // AZERTY and the like
    const action = actionOf[event.key.toLowerCase()] ?? actionOf[digit];
    const radio = action && form.querySelector(`input[data-action="${action}"]`);
    if (radio) {
      radio.checked = true;
      radio.dispatchEvent(new Event("change", { bubbles: true }));
    } else if (actions[action]) {
      actions[action]();
    } else {
      return;
    }
    event.preventDefault();
  });
  for (const button of judge.querySelectorAll("button[data-action], a[data-action]")) {
    button.addEventListener("click", (event) => {
      event.preventDefault();
      actions[button.dataset.action]();
    });
  }
  for (const button of judge.querySelectorAll("[data-close]")) {
    button.addEventListener("click", () => button.closest("dialog").close());
  }

  // --- the lease ------------------------------------------------------------------------

  async function beat() {
    if (document.hidden || shown.done || shown.verb === "revise") return;
    try {
      for (const card of [shown, ...ahead]) {
        const answer = await post(address(card.id, "heartbeat"), {});
        if (![200, 409].includes(answer.status) || card !== shown) continue;
        const { errors } = await answer.json(); // it has ended, or will when the batch closes
        if (card === shown && find("errors").textContent !== errors.join("")) complain(errors);
      }
    } catch {
      // The outbox says so when there is something to send.
    }
  }
  setInterval(beat, 1000 * Number(judge.dataset.heartbeatSeconds));
  setInterval(() => {
    const seconds = Math.floor(watch.elapsed());
    find("clock").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }, 1000);
  addEventListener("pagehide", () => {
    const token = form.querySelector("[name=csrfmiddlewaretoken]").value;
    for (const card of ahead) {
      navigator.sendBeacon(address(card.id, "release"), new URLSearchParams({ csrfmiddlewaretoken: token }));
    }
    ahead = [];
  });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  if (!find("errors").firstChild) fillIn(drafts.of(shown.id));
  veil.draw();
  watchSides();
  if (outbox.items().some((item) => item.id === shown.id)) goOn(); // answered before the tab closed
  outbox.flush();
  askAhead();
}

// What was chosen and not yet submitted. It stays on this device and is never sent by itself.
function Drafts(key) {
  const MOST = 20;
  const all = () => JSON.parse(localStorage.getItem(key) || "[]");
  const write = (drafts) => localStorage.setItem(key, JSON.stringify(drafts.slice(-MOST)));
  this.drop = (id) => write(all().filter((draft) => draft.id !== id));
  this.keep = (id, fields) => write([...all().filter((draft) => draft.id !== id), { id, fields }]);
  this.of = (id) => all().find((draft) => draft.id === id)?.fields ?? {};
}
