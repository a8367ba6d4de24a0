// Draws every figure of the page from the JSON beside it, in the page's own colours; again when htmx
// has brought new JSON.
"use strict";
const drawn = new WeakMap();

function draw(box) {
  const text = document.getElementById(box.dataset.figure)?.textContent;
  if (!text || drawn.get(box) === text) return;
  drawn.set(box, text);
  const figure = JSON.parse(text);
  const style = getComputedStyle(document.body);
  const colours = ["--left", "--right", "--good", "--quiet", "--accent", "--bad"].map((name) => style.getPropertyValue(name).trim());
  const small = box.classList.contains("small");
  let height = small ? 260 : 340;
  const titled = small || box.closest(".table");
  Object.assign(figure.layout, {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style.color, family: style.fontFamily },
    autosize: true,
    colorway: colours,
  });
  const line = style.getPropertyValue("--line");
  for (const axis of ["xaxis", "yaxis"]) {
    figure.layout[axis] = { gridcolor: line, zerolinecolor: style.getPropertyValue("--quiet"), automargin: true, ...figure.layout[axis] };
  }
  for (const trace of figure.data) {
    const colour = colours[trace.meta?.colour % colours.length];
    if (!colour) continue;
    trace.marker = { ...trace.marker, color: colour };
    trace.line = { ...trace.line, color: colour };
  }
  const bare = figure.data.length === 1 || figure.layout.showlegend === false; // no legend
  if (titled && (small || bare || box.clientWidth >= 600)) {
    // A heading above names it.
    Object.assign(figure.layout, { title: { text: "" }, margin: { ...figure.layout.margin, t: bare ? 16 : 40 } });
  } else if (box.clientWidth < 600 && figure.data.length > 1) {
    // A phone: the heading above names the figure, and the legend goes below it.
    const longest = Math.max(...figure.data.map((trace) => (trace.name ?? "").length));
    const names = 22 * Math.ceil(figure.data.length / (longest <= 16 ? 2 : 1));
    const below = figure.layout.xaxis.type === "category" ? 130 : 70; // names of groups stand aslant
    height = 260 + below + names;
    Object.assign(figure.layout, {
      title: { text: "" },
      margin: { ...figure.layout.margin, t: 16, b: below + names },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
    });
  }
  box.style.height = `${height}px`; // not in the layout: a window of another size would forget it
  Plotly.react(box, figure.data, figure.layout, { displayModeBar: false, responsive: true });
}

const drawAll = () => document.querySelectorAll("[data-figure]").forEach(draw);
drawAll();
document.body.addEventListener("htmx:afterSettle", drawAll);
