// The keyboard: one table, for the keys and for the help.

import { isUp } from "./connection.js";

// [keys, description, name of the action]; keys as `named` spells them.
const TABLE = [
  [["Enter", "n"], "finish the object, or edit the selected one", "finish"],
  [["Tab"], "another mask for the clicks: whole, part", "candidate"],
  [["d"], "image done, on to the next that is not", "done"],
  [["Ctrl+z", "u"], "undo", "undo"],
  [["Ctrl+Shift+z", "Ctrl+y"], "redo", "redo"],
  [["Delete", "Backspace"], "clear the prompts at hand, else delete the selected object", "clear"],
  [["c", "Escape"], "click and scribble", "click"],
  [["b"], "brush: paint what belongs to the object", "brush"],
  [["e"], "eraser: paint what does not", "eraser"],
  [["x"], "draw a box around the object", "box"],
  [["v"], "select finished objects", "select"],
  [["t"], "swap object and background (for pens and fingers)", "background"],
  [["["], "smaller brush, else coarser partition", "less"],
  [["]"], "larger brush, else finer partition", "more"],
  [["m"], "objects or labels", "mode"],
  [["g"], "show or hide the partition", "togglePartition"],
  [["h"], "show or hide masks", "toggleMasks"],
  [["r"], "image is to be checked, or not", "check"],
  [["o"], "overview of all images", "overview"],
  [["f", "0"], "fit the image", "fit"],
  [["+", "="], "zoom in", "zoomIn"],
  [["-"], "zoom out", "zoomOut"],
  [["ArrowLeft", "PageUp"], "previous image", "previous"],
  [["ArrowRight", "PageDown"], "next image", "next"],
  [["j"], "first image that is not done", "jump"],
  [["Ctrl+s"], "write masks now (prompts are always saved)", "save"],
  [["?"], "this help", "help"],
];
const MOUSE = [
  ["left click, drag", "object (or the label chosen)"],
  ["right click, drag", "background (or choose the label there)"],
  ["Shift + click", "take in the segment under the cursor"],
  ["Shift + right click", "take it out"],
  ["Ctrl + click", "select the finished object there"],
  ["Ctrl + drag", "draw a box around the object"],
  ["wheel", "zoom; with a brush its size (then Ctrl + wheel zooms)"],
  ["Space + drag, middle button", "move the image"],
  ["two fingers", "move and zoom the image"],
  ["1 ... 9", "choose a class (or a label)"],
];

export const LABEL_TABLE = [
  [["d", "Enter"], "image done, on to the next proposed", "done"],
  [["s"], "on to the next proposed, this one stays open", "skip"],
  [["b", "Backspace"], "back to the image shown before", "back"],
  [["Ctrl+z", "u"], "undo the last click, wherever it was; after D, undo D", "undo"],
  [["Ctrl+Shift+z", "Ctrl+y"], "redo", "redo"],
  [["["], "a click takes more", "coarser"],
  [["]"], "a click takes less", "finer"],
  [["g"], "show or hide all segments", "toggleBorders"],
  [["h"], "show or hide the classes", "toggleTints"],
  [["0"], "what is clicked next is ignored: no class, nothing to learn from", "ignore"],
  [["f"], "fit the image", "fit"],
  ...TABLE.filter(([, , action]) => "check overview zoomIn zoomOut previous next".split(" ").includes(action)),
  [["Ctrl+s"], "export what is done (clicks are always saved)", "export"],
  [["?"], "this help", "help"],
];
export const LABEL_MOUSE = [
  ["left click", "the region takes the class chosen"],
  ["right click", "choose the class that is there"],
  ["wheel", "zoom"],
  ["Space + drag, middle button", "move the image"],
  ["1 ... 9, 0", "choose a class, or to ignore"],
];

function named(event) {
  const isLetter = event.key.length === 1;
  const key = isLetter ? event.key.toLowerCase() : event.key;
  const isCtrl = event.ctrlKey || event.metaKey;
  // Shift is part of signs like ?, and named with letters only.
  return (isCtrl ? "Ctrl+" : "") + (isCtrl && event.shiftKey ? "Shift+" : "") + key;
}

export function listen(actions, chooseLabel, table = TABLE) {
  const byKey = new Map(table.flatMap(([keys, , action]) => keys.map((key) => [key, action])));
  window.addEventListener("keydown", (event) => {
    const { target } = event;
    if (event.altKey || document.querySelector("dialog[open]") || !isUp()) return;
    if (target.type === "range" && event.key.startsWith("Arrow")) return;
    if (target.type === "text") { // what is typed there is no command
      if (event.key === "Enter" || event.key === "Escape") target.blur();
      return;
    }
    const isButton = target.tagName === "BUTTON";
    if (event.code === "Space" && !isButton) event.preventDefault(); // no scrolling
    if (event.key === "Enter" && isButton) return;
    const key = named(event);
    // Once a control has the focus, Tab goes on to the next one.
    if (key === "Tab" && (event.shiftKey || target !== document.body)) return;
    if (/^[1-9]$/.test(key)) chooseLabel(Number(key));
    const action = byKey.get(key);
    if (!action) return;
    event.preventDefault();
    actions[action]();
  });
}

export function fillHelp(mouse, keyboard, gestures = MOUSE, table = TABLE) {
  const spelled = { ArrowLeft: "\u2190", ArrowRight: "\u2192" };
  for (const [gesture, text] of gestures) addRow(mouse, [gesture], text);
  for (const [keys, text] of table) addRow(keyboard, keys.map((key) => spelled[key] ?? key), text);
}

function addRow(table, keys, text) {
  const row = table.insertRow();
  const first = row.insertCell();
  keys.forEach((key, index) => {
    if (index) first.append(" or ");
    const element = document.createElement("kbd");
    element.textContent = key.replace(/(^|\+)([a-z])$/, (_, plus, letter) => plus + letter.toUpperCase());
    first.append(element);
  });
  row.insertCell().textContent = text;
}

// From its top, though the button that closes it has the focus and lies at its end.
export function showHelp() {
  const help = document.getElementById("help");
  help.showModal();
  help.scrollTop = 0;
}
