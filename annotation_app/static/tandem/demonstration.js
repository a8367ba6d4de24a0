// Marks what an edit or a better answer has changed.
import { showDifference } from "./judge/difference.js";

const both = document.getElementById("difference")?.children;
if (both) showDifference(...[...both].map((element) => ({ element, text: element.textContent })));
