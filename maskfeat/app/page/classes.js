// The classes of objects: those that were used, and the one that new objects get.

import { element } from "./panel.js";

let names = [];
let chosen = "";
let on; // called with the name that was chosen

export const current = () => chosen;

export function wire(key, choose) {
  on = choose;
  names = JSON.parse(sessionStorage.getItem(key) ?? "[]");
  element("new-class").addEventListener("change", ({ target }) => {
    const name = target.value.trim().replace(/\s+/g, " ");
    target.value = "";
    target.blur();
    if (!name) return;
    learn([name]);
    on(name);
  });
  window.addEventListener("pagehide", () => sessionStorage.setItem(key, JSON.stringify(names)));
  render();
}

// Names that objects have.
export function learn(found) {
  const rest = found.filter((name) => !names.includes(name));
  if (!rest.length) return;
  names = [...new Set([...names, ...rest])];
  render();
}

export const nameOfKey = (digit) => names[digit - 1];

export function choose(name) {
  chosen = chosen === name ? "" : name;
  render();
}

function render() {
  element("classes").replaceChildren(...names.map((name, index) => {
    const button = document.createElement("button");
    const key = document.createElement("kbd");
    key.textContent = index < 9 ? index + 1 : "";
    button.append(key, name);
    button.classList.toggle("chosen", name === chosen);
    button.addEventListener("click", () => on(name));
    return button;
  }));
  element("class-names").replaceChildren(...names.map((name) => new Option(name)));
}
