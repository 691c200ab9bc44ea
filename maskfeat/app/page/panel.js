// What stands around the canvas: progress, modes, the list of objects, messages.

import { colorOf, css } from "./masks.js";

export const element = (id) => document.getElementById(id);
const HINTS = {
  object: "Left click the object, right click what is not. Drag to scribble. Tab: another mask.",
  labels: "Click or scribble with a label; each pixel gets the label it is most like.",
};

export function makeLabels(choose) {
  for (let label = 1; label <= 9; label++) {
    const button = document.createElement("button");
    button.textContent = label;
    button.style.background = css(colorOf(label));
    button.dataset.label = label;
    button.addEventListener("click", () => choose(label));
    element("labels").append(button);
  }
}

export function showProgress(folder, number) {
  const num = folder.names.length;
  const numDone = folder.is_done.filter(Boolean).length;
  element("name").textContent = folder.names[number];
  element("name").title = folder.names[number];
  element("place").textContent = `${number + 1} / ${num}`;
  element("progress").max = num;
  element("progress").value = numDone;
  element("num-done").textContent = `${numDone} of ${num} done`;
  element("done-badge").hidden = !folder.is_done[number];
  element("previous").disabled = number === 0;
  element("next").disabled = number === num - 1;
  element("jump").disabled = numDone === num;
  document.title = `${folder.names[number]} \u2013 maskfeat`;
}

export function showView(view, label) {
  element("hint").textContent = HINTS[view.mode];
  for (const button of element("modes").children) {
    button.classList.toggle("chosen", button.dataset.mode === view.mode);
  }
  const isLabels = view.mode === "labels";
  element("labels").hidden = !isLabels;
  for (const button of element("labels").children) {
    button.classList.toggle("chosen", Number(button.dataset.label) === label);
  }
  element("undo").disabled = !view.can_undo;
  element("undo").title = `${view.undo ? `Undo ${view.undo}` : "Undo"} (Ctrl+Z or U)`;
  element("redo").disabled = !view.can_redo;
  element("clear").disabled = view.prompts.length === 0;
  element("finish").hidden = isLabels;
  element("finish").disabled = view.masks.length === 0;
  element("objects-title").hidden = isLabels;
  element("objects").hidden = isLabels;
}

// The object at hand, as the layers show it.
export function showOpenArea(view, layers) {
  const layer = view.mode === "object" ? layers[0] : null;
  const scale = layer ? (view.size[0] * view.size[1]) / layer.mask.pixels.length : 0;
  element("open-area").textContent = layer
    ? `at hand: no. ${view.open_number}, ${inPixels(layer.mask.area * scale)}` : "";
  const { number, num_masks } = view.chosen ?? {};
  element("chosen-mask").textContent = number ? `mask ${number + 1} of ${num_masks}` : "";
}

export function showObjects(layers, hidden, size, on) {
  const rows = [...layers].map(([number, { mask }]) => {
    const row = element("object-row").content.cloneNode(true).firstElementChild;
    row.querySelector(".swatch").style.background = css(colorOf(number));
    row.querySelector(".title").textContent = `Object ${number}`;
    const scale = (size[0] * size[1]) / mask.pixels.length;
    row.querySelector(".area").textContent = inPixels(mask.area * scale);
    row.classList.toggle("hidden", hidden.has(number));
    row.dataset.number = number;
    for (const name of ["show", "reopen", "delete"]) {
      row.querySelector(`.${name}`).addEventListener("click", () => on[name](number));
    }
    return row;
  });
  element("objects").replaceChildren(...rows);
}

export function showBusy(text) {
  element("busy").hidden = !text;
  element("busy-text").textContent = text;
}

let timer = 0;

export function say(text, isError = false) {
  clearTimeout(timer);
  element("message").textContent = text;
  element("message").hidden = !text;
  element("message").classList.toggle("error", isError);
  // What went wrong stays until something else goes well.
  if (text && !isError) timer = setTimeout(() => say(""), 4000);
}

const inPixels = (number) => `${Math.round(number).toLocaleString("en")} px`;
