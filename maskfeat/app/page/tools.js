// What the pointer draws: the tool in hand, the size of brushes, and for which side.

import { element } from "./panel.js";

const RADII = [1, 300]; // of brushes, screen pixels
const PAINTING = new Set(["brush", "eraser"]);

export const tools = { name: "click", radius: 12, isBackground: false, changed() {} };

export const isPainting = () => PAINTING.has(tools.name);

export function choose(name) {
  tools.name = name;
  show();
}

export function toggleBackground() {
  tools.isBackground = !tools.isBackground;
  show();
}

export function resize(factor) {
  tools.radius = Math.min(RADII[1], Math.max(RADII[0], tools.radius * factor));
  show();
}

// 1 object, 0 background: the right button and the switch for pens both say the other side.
export function sideOf(event) {
  if (tools.name === "eraser" || event?.button === 5) return 0; // 5: the eraser of a pen
  const isOther = event?.button === 2;
  return isOther === tools.isBackground ? 1 : 0;
}

export function wire(changed) {
  tools.changed = changed;
  for (const button of element("tools").querySelectorAll("[data-tool]")) {
    button.addEventListener("click", () => choose(button.dataset.tool));
  }
  element("background").addEventListener("click", toggleBackground);
  element("smaller").addEventListener("click", () => resize(1 / 1.25));
  element("larger").addEventListener("click", () => resize(1.25));
  show();
}

// Labels have no objects to select, and no background.
export function showMode(mode) {
  const isLabels = mode === "labels";
  for (const name of ["box", "select", "eraser"]) {
    element("tools").querySelector(`[data-tool="${name}"]`).hidden = isLabels;
  }
  element("background").hidden = isLabels;
  if (isLabels && !["click", "brush"].includes(tools.name)) choose("click");
}

function show() {
  for (const button of element("tools").querySelectorAll("[data-tool]")) {
    button.classList.toggle("chosen", button.dataset.tool === tools.name);
  }
  element("background").classList.toggle("chosen", tools.isBackground);
  element("background").setAttribute("aria-pressed", tools.isBackground);
  element("smaller").hidden = element("larger").hidden = !isPainting();
  document.body.dataset.tool = tools.name;
  tools.changed();
}
