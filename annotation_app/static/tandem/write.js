// Says that the models are at work, and keeps a second press from asking twice.
"use strict";
const form = document.getElementById("write");
form.addEventListener("submit", () => {
  form.querySelector("button").disabled = true;
  document.getElementById("busy").textContent = form.dataset.busy;
});
addEventListener("pageshow", () => {
  form.querySelector("button").disabled = false;
  document.getElementById("busy").textContent = "";
});
