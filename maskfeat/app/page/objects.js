// The finished objects: their layers, the list of them, and the card of the one that is selected.

import * as classes from "./classes.js";
import { colorOf, covers, css, hex, inColor, maskLayer, ofHex } from "./masks.js";
import { element, inPixels } from "./panel.js";

const ALPHA = 0.3;
const THUMBNAIL = 44; // screen pixels

let stage;
let on; // {act(action), changed()}
let entries = []; // what the server says of each, in order
const layers = new Map(); // by number
const hidden = new Set();
let hovered = null;
export let selected = null;

export function wire(onStage, callbacks) {
  stage = onStage;
  on = callbacks;
  for (const name of ["name", "class", "color"]) {
    element(`object-${name}`).addEventListener("change", describe);
  }
  for (const [name, step] of [["earlier", -1], ["later", 1]]) {
    element(name).addEventListener("click", () => move(step));
  }
  element("edit").addEventListener("click", () => edit(selected));
}

export function clear() {
  entries = [];
  layers.clear();
  hidden.clear();
  [hovered, selected] = [null, null];
  render();
}

// Says whether all masks are known: the server leaves out those that it has sent before.
export function take(found) {
  for (const one of found) {
    const color = one.color ? ofHex(one.color) : colorOf(one.number);
    const known = layers.get(one.number);
    if (one.counts) layers.set(one.number, maskLayer(one, color, ALPHA));
    else if (!known) return false;
    else if (String(known.color) !== String(color)) layers.set(one.number, inColor(known, color));
  }
  entries = found;
  const numbers = new Set(found.map(({ number }) => number));
  for (const number of layers.keys()) if (!numbers.has(number)) layers.delete(number);
  if (!numbers.has(selected)) selected = null;
  render();
  return true;
}

const shown = () => entries.filter(({ number }) => !hidden.has(number));
export const shownLayers = () => shown().map(({ number }) => layers.get(number));
export const highlights = () =>
  [...new Set([selected, hovered])].filter((one) => layers.has(one) && !hidden.has(one)).map((one) => layers.get(one));
export const classNames = () => entries.map((one) => one.class).filter(Boolean);

// The smallest object at a pixel: what lies inside of another one can be reached, too.
export function at(pixel) {
  const found = shown().filter(({ number }) => covers(layers.get(number).mask, pixel, stage.size));
  const area = ({ number }) => layers.get(number).mask.area / layers.get(number).mask.height;
  return found.sort((one, other) => area(one) - area(other))[0]?.number ?? null;
}

export function hover(number) {
  if (hovered === number) return;
  hovered = number;
  for (const row of element("objects").children) {
    row.classList.toggle("hovered", Number(row.dataset.number) === number);
  }
  on.changed();
}

export function select(number) {
  selected = number;
  render();
  element("objects").querySelector(".selected")?.scrollIntoView({ block: "nearest" });
  on.changed();
}

export const classify = (name) => send({ class: name });

// Takes it in hand; an object that is at hand is finished with the class of new ones.
export function edit(number) {
  on.act({ do: "reopen", number, class: classes.current() });
}

export function remove() {
  if (selected !== null) on.act({ do: "delete", number: selected });
}

export function move(step) {
  const place = entries.findIndex(({ number }) => number === selected) + step;
  if (selected !== null && place >= 0 && place < entries.length) {
    on.act({ do: "move", number: selected, place });
  }
}

function toggle(number) {
  hidden.has(number) ? hidden.delete(number) : hidden.add(number);
  render();
  on.changed();
}

// All words of the object that is selected go out together.
function send(changes) {
  const one = entries.find(({ number }) => number === selected);
  if (!one) return;
  const { number, name, color } = one;
  on.act({ do: "describe", number, name, class: one.class, color, ...changes });
}

function describe() {
  const one = entries.find(({ number }) => number === selected);
  const color = element("object-color").value;
  const isOwn = one && (one.color || color !== hex(colorOf(one.number)));
  send({
    name: element("object-name").value, class: element("object-class").value, color: isOwn ? color : "",
  });
}

function render() {
  element("objects").replaceChildren(...entries.map(rowOf));
  const one = entries.find(({ number }) => number === selected);
  element("object-card").hidden = !one;
  if (!one) return;
  element("object-name").placeholder = `Object ${one.number}`;
  const values = { name: one.name, class: one.class, color: hex(layers.get(one.number).color) };
  for (const [name, value] of Object.entries(values)) {
    const field = element(`object-${name}`);
    if (field !== document.activeElement || field.dataset.number !== String(one.number)) field.value = value;
    field.dataset.number = one.number; // words that are being typed stay
  }
  element("earlier").disabled = one === entries[0];
  element("later").disabled = one === entries[entries.length - 1];
}

function rowOf(one) {
  const { number, name } = one;
  const layer = layers.get(number);
  const row = element("object-row").content.cloneNode(true).firstElementChild;
  layer.thumbnail ??= thumbnailOf(layer);
  row.prepend(layer.thumbnail);
  row.querySelector(".swatch").style.background = css(layer.color);
  row.querySelector(".title").textContent = name || `Object ${number}`;
  row.querySelector(".class").textContent = one.class;
  const scale = (stage.size[0] * stage.size[1]) / (layer.mask.height * layer.mask.width);
  row.querySelector(".area").textContent = inPixels(layer.mask.area * scale);
  row.classList.toggle("hidden", hidden.has(number));
  row.classList.toggle("selected", number === selected);
  row.dataset.number = number;
  const wired = {
    show: () => toggle(number), reopen: () => edit(number), delete: () => on.act({ do: "delete", number }),
  };
  for (const [what, press] of Object.entries(wired)) {
    row.querySelector(`.${what}`).addEventListener("click", (event) => {
      event.stopPropagation();
      press();
    });
  }
  row.addEventListener("click", () => select(selected === number ? null : number));
  row.addEventListener("pointerenter", () => hover(number));
  row.addEventListener("pointerleave", () => hover(null));
  return row;
}

// The image around an object, tinted where the object is.
function thumbnailOf({ mask, canvas: tint }) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 2 * THUMBNAIL;
  if (!stage.bitmap) return canvas;
  const context = canvas.getContext("2d");
  const [y, x] = [stage.size[0] / mask.height, stage.size[1] / mask.width];
  const [top, left, rows, columns] = [mask.top * y, mask.left * x, mask.rows * y, mask.columns * x];
  const side = 1.2 * Math.max(rows, columns, 8);
  const scale = canvas.width / side;
  context.scale(scale, scale);
  context.translate(side / 2 - left - columns / 2, side / 2 - top - rows / 2);
  context.drawImage(stage.bitmap, 0, 0, stage.size[1], stage.size[0]);
  context.globalAlpha = ALPHA;
  context.drawImage(tint, left, top, columns, rows);
  return canvas;
}
