// Draws every figure of the page from the JSON beside it, in the page's own colours.
"use strict";
for (const box of document.querySelectorAll("[data-figure]")) {
  const figure = JSON.parse(document.getElementById(box.dataset.figure).textContent);
  const style = getComputedStyle(document.body);
  Object.assign(figure.layout, {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: style.color, family: style.fontFamily },
    height: 340,
    autosize: true,
  });
  Plotly.newPlot(box, figure.data, figure.layout, { displayModeBar: false, responsive: true });
}
