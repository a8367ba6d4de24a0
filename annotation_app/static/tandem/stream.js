// What the live process streams: a line for each event.
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

// Why it answered with something else than a stream.
export async function sentence(answer) {
  const known = answer.headers.get("Content-Type") === "application/json";
  return known ? (await answer.json()).errors.join(" ") : "The message was refused. Reload the page and send it again.";
}
