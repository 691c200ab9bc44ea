// All images of the folder at a glance: how far each is, and a way to it.

import { element } from "./panel.js";

const WORDS = { open: "", check: "to check", done: "done" };

export function show(folder, number, open) {
  const cells = folder.names.map((name, index) => {
    const cell = document.createElement("button");
    const [image, title, state] = ["img", "span", "i"].map((tag) => document.createElement(tag));
    Object.assign(image, { loading: "lazy", alt: "", src: `/api/images/${index}/thumbnail` });
    title.textContent = cell.title = name;
    state.textContent = WORDS[folder.review[index]];
    cell.dataset.review = folder.review[index];
    cell.classList.toggle("chosen", index === number);
    cell.append(image, state, title);
    cell.addEventListener("click", () => {
      element("overview").close();
      open(index);
    });
    return cell;
  });
  element("overview-images").replaceChildren(...cells);
  element("overview").showModal();
  element("overview-images").querySelector(".chosen").scrollIntoView({ block: "nearest" });
}
