// How long a comparison was worked on. Without a sign of life for IDLE_AFTER the rest counts as
// idle, and so does time in another tab. Looking at a side means that the pointer or the focus is
// in it, or, on a phone, that it is the pane in view.

const IDLE_AFTER = 30; // seconds
const SIGNS = ["pointermove", "pointerdown", "keydown", "wheel", "touchmove", "scroll"];

export class Watch {
  constructor() {
    this.start();
    for (const sign of SIGNS) addEventListener(sign, () => this.#sign(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => this.#tick());
  }

  start() {
    this.active = this.idle = this.left = this.right = 0;
    this.side = null;
    this.last = this.lastSign = performance.now() / 1000;
  }

  look(side) {
    this.#tick();
    this.side = side;
  }

  #sign() {
    this.#tick();
    this.lastSign = performance.now() / 1000;
  }

  #tick() {
    const now = performance.now() / 1000;
    const awake = Math.max(0, Math.min(now, this.lastSign + IDLE_AFTER) - this.last);
    const passed = now - this.last;
    const active = this.wasHidden ? 0 : Math.min(awake, passed);
    this.active += active;
    this.idle += passed - active;
    if (this.side) this[this.side] += active;
    this.last = now;
    this.wasHidden = document.hidden;
  }

  elapsed() {
    this.#tick();
    return this.active;
  }

  // Seconds so far, as the form's fields.
  read() {
    this.#tick();
    const fields = { active_seconds: this.active, idle_seconds: this.idle, left_seconds: this.left, right_seconds: this.right };
    return Object.fromEntries(Object.entries(fields).map(([name, value]) => [name, value.toFixed(1)]));
  }
}
