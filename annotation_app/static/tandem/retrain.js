// Marks the settings that differ from the recipe, and counts them.
"use strict";
const settings = [...document.querySelectorAll("[data-recipe]")];
const told = document.getElementById("changed");

const valueOf = (field) => (field.type === "checkbox" ? (field.checked ? "True" : "False") : field.value.trim());
function isSame(given, usual) {
  const numbers = [Number(given), Number(usual)];
  if (given === "") return usual === "none";
  return given === usual || (numbers.every(Number.isFinite) && numbers[0] === numbers[1]);
}

function mark() {
  for (const box of settings) {
    const field = box.querySelector("input, select");
    box.classList.toggle("changed", !isSame(valueOf(field), box.dataset.recipe));
  }
  const count = settings.filter((box) => box.classList.contains("changed")).length;
  told.textContent = count === 0 ? "The recipe's own settings." : count === 1 ? "One setting differs from the recipe." : `${count} settings differ from the recipe.`;
}

document.getElementById("retrain").addEventListener("change", mark);
mark();
