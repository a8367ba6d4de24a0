// The words that only one of two texts has: longest common subsequence over words.

const MOST = 4_000_000; // cells of the table, some 30 ms

// Fills two elements with the texts, what is not in the other one marked.
export function showDifference(left, right) {
  const [a, b] = [left.text, right.text].map((text) => text.split(/(\s+)/));
  const common = commonWords(a, b);
  fill(left.element, a, common && common.a);
  fill(right.element, b, common && common.b);
}

function commonWords(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  while (end < a.length - start && end < b.length - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const [n, m] = [a.length - start - end, b.length - start - end];
  if (n * m > MOST) return null;
  const lengths = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      lengths[i][j] = a[start + i] === b[start + j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const found = { a: new Set(), b: new Set() };
  for (let k = 0; k < start; k++) found.a.add(k), found.b.add(k);
  for (let k = 1; k <= end; k++) found.a.add(a.length - k), found.b.add(b.length - k);
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (a[start + i] === b[start + j]) found.a.add(start + i++), found.b.add(start + j++);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return found;
}

function fill(element, words, common) {
  element.replaceChildren();
  if (common === null) {
    element.textContent = words.join("");
    return;
  }
  let run = null;
  words.forEach((word, index) => {
    const marked = !common.has(index) && word.trim() !== "";
    const joins = run && (run.tagName === "MARK") === marked;
    if (!joins) element.append((run = document.createElement(marked ? "mark" : "span")));
    run.append(word);
  });
}
