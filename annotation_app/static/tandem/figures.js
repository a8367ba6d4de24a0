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
  const line = style.getPropertyValue("--line");
  for (const axis of ["xaxis", "yaxis"]) {
    figure.layout[axis] = { gridcolor: line, zerolinecolor: style.getPropertyValue("--quiet"), automargin: true, ...figure.layout[axis] };
  }
  figure.layout.colorway = ["--left", "--right", "--good", "--quiet", "--accent", "--bad"].map((name) => style.getPropertyValue(name).trim());
  if (box.clientWidth < 600 && figure.data.length > 1) {
    // A phone: the heading above names the figure, and the legend goes below it.
    Object.assign(figure.layout, {
      title: { text: "" },
      height: 460,
      margin: { ...figure.layout.margin, t: 16 },
      legend: { orientation: "h", y: -0.45, yanchor: "top" },
    });
  }
  Plotly.newPlot(box, figure.data, figure.layout, { displayModeBar: false, responsive: true });
}
