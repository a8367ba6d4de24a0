// Answers on their way to the server. They are written down here before the page goes on, so a lost
// network, a closed tab or a server that restarts loses none; each carries the id of its
// annotation, so the server stores it once, however often it is sent.

const RETRY_SECONDS = [1, 2, 5, 10, 20];

export class Outbox {
  // `tell` is called with {item, reply}, {item, refusal} or {item, waiting: sentence}.
  constructor(person, tell) {
    this.key = `tandem.outbox.${person}`;
    this.tell = tell;
    this.tries = 0;
    this.sending = false;
    addEventListener("online", () => this.flush());
  }

  items() {
    return JSON.parse(localStorage.getItem(this.key) || "[]");
  }

  #write(items) {
    localStorage.setItem(this.key, JSON.stringify(items));
  }

  put(item) {
    this.#write([...this.items().filter((other) => other.url !== item.url), item]);
    this.flush();
  }

  // Take an answer back that has not been sent; null when it is on its way or stored already.
  takeBack(url) {
    const found = this.items().find((item) => item.url === url);
    if (!found || this.inFlight === url) return null;
    this.#drop(url);
    return found;
  }

  #drop(url) {
    this.#write(this.items().filter((item) => item.url !== url));
  }

  async flush() {
    if (this.sending) return;
    this.sending = true;
    clearTimeout(this.timer);
    for (let item = this.items()[0]; item; item = this.items()[0]) {
      if (!(await this.#send(item))) break;
    }
    this.sending = false;
  }

  async #send(item) {
    this.inFlight = item.url;
    try {
      const answer = await post(item.url, item.fields);
      const known = answer.headers.get("Content-Type") === "application/json";
      if (answer.ok && known) {
        this.#drop(item.url);
        this.tries = 0;
        this.tell({ item, reply: await answer.json() });
        return true;
      }
      if (known || answer.status === 404) {
        this.#drop(item.url);
        const refusal = known ? (await answer.json()).errors.join(" ") : "It no longer exists.";
        this.tell({ item, refusal });
        return true;
      }
      return this.#later(item, answer.ok || answer.status === 403 ? "You are signed out. Sign in again in another tab." : "The server is busy.");
    } catch {
      return this.#later(item, "The server cannot be reached.");
    } finally {
      this.inFlight = null;
    }
  }

  #later(item, why) {
    const seconds = RETRY_SECONDS[Math.min(this.tries++, RETRY_SECONDS.length - 1)];
    const count = this.items().length;
    const kept = count === 1 ? "One answer is" : `${count} answers are`;
    this.tell({ item, waiting: `${why} ${kept} kept on this device and will be sent.` });
    this.timer = setTimeout(() => this.flush(), 1000 * seconds);
    return false;
  }
}

// A field's value is one value or a list of them.
export function post(url, fields, more = {}) {
  const token = document.cookie.match(/(?:^|; )csrftoken=([^;]+)/)?.[1] ?? "";
  const pairs = Object.entries(fields).flatMap(([name, value]) => [value].flat().map((one) => [name, one]));
  return fetch(url, {
    method: "POST",
    body: new URLSearchParams(pairs),
    headers: { Accept: "application/json", "X-CSRFToken": token },
    redirect: "manual",
    ...more,
  });
}
