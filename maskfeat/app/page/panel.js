// What stands around the canvas: progress, modes, the list of objects, messages.

import { colorOf, css } from "./masks.js";

export const element = (id) => document.getElementById(id);
const HINTS = {
  object: "Left click the object, right click what is not. Drag to scribble. Ctrl+click selects a finished object.",
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
  showReview(folder.review[number]);
  element("previous").disabled = number === 0;
  element("next").disabled = number === num - 1;
  element("jump").disabled = numDone === num;
  document.title = `${folder.names[number]} \u2013 maskfeat`;
}

export function showReview(review) {
  element("done-badge").hidden = review === "open";
  element("done-badge").textContent = review === "check" ? "to check" : review;
  element("done-badge").dataset.review = review;
  element("check").classList.toggle("chosen", review === "check");
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
  element("clear").disabled = view.prompts.length === 0 && !(view.has_open && !isLabels);
  element("finish").hidden = element("new-objects").hidden = isLabels;
  element("finish").disabled = view.masks.length === 0;
  element("objects-title").hidden = isLabels;
  element("objects").hidden = isLabels;
}

// The object at hand, as the layers show it.
export function showOpenArea(view, layers) {
  const layer = view.mode === "object" ? layers[0] : null;
  const scale = layer ? (view.size[0] * view.size[1]) / (layer.mask.height * layer.mask.width) : 0;
  element("open-area").textContent = layer
    ? `at hand: no. ${view.open_number}, ${inPixels(layer.mask.area * scale)}` : "";
  const { number, num_masks } = view.chosen ?? {};
  element("chosen-mask").textContent = number ? `mask ${number + 1} of ${num_masks}` : "";
}

// On a small screen the panel is a sheet below the image, mostly closed.
export function showSheet() {
  const isOpen = document.body.classList.toggle("sheet-open");
  element("sheet").setAttribute("aria-expanded", isOpen);
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

export const inPixels = (number) => `${Math.round(number).toLocaleString("en")} px`;
