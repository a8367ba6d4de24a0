// Safety texts are hidden until asked for: these ones, or all for as long as this tab lives.
const KEY = "tandem.unveil";

export const isOpenInTab = () => sessionStorage.getItem(KEY) === "yes";
export const openInTab = () => sessionStorage.setItem(KEY, "yes");

// The page's veil over an element; a page without one hides nothing.
export function Veil(covered) {
  const veil = document.getElementById("veil");
  const cover = (isOn) => {
    veil.hidden = !isOn;
    covered.classList.toggle("veiled", isOn);
    covered.inert = isOn;
  };
  this.isDown = () => veil?.hidden === false;
  this.draw = () => { if (veil) cover(!isOpenInTab()); };
  this.lift = () => {
    if (!this.isDown()) return;
    if (document.getElementById("unveil-all").checked) openInTab();
    cover(false);
  };
}
