// What stands beside the image in labeling mode: legend, progress, what was left out.

import { IGNORED, classColor } from "./label_layers.js";
import { css } from "./masks.js";
import { element, showReview } from "./panel.js";

export function makeLegend(names, choose) {
  const numbers = [...names.keys(), IGNORED];
  const rows = numbers.map((number) => {
    const name = names[number] ?? "ignore";
    const row = element("legend-row").content.cloneNode(true).firstElementChild;
    row.querySelector(".swatch").style.background = css(classColor(number));
    row.querySelector("kbd").textContent = number < 9 ? number + 1 : "";
    row.querySelector(".title").textContent = name;
    row.querySelector("button").title = name;
    row.querySelector("button").addEventListener("click", () => choose(number));
    row.dataset.class = number;
    return row;
  });
  element("legend").replaceChildren(...rows);
}

export function showChosen(number) {
  for (const row of element("legend").children) {
    row.firstElementChild.classList.toggle("chosen", Number(row.dataset.class) === number);
  }
}

export function showShares(shares) {
  [...element("legend").children].forEach((row, number) => {
    const share = shares[number] ?? 0;
    row.querySelector(".area").textContent = share > 0 ? `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %` : "";
  });
}

export function showPlace(folder, number) {
  const name = folder.names[number];
  element("name").textContent = element("name").title = name;
  element("place").textContent = `${number + 1} / ${folder.names.length}`;
  element("previous").disabled = number === 0;
  element("next").disabled = number === folder.names.length - 1;
  showReview(folder.review[number]);
  element("reopen").hidden = !folder.is_done[number];
  document.title = `${name} \u2013 maskfeat`;
}

export function showProgress(progress) {
  const { num_images: num, num_done: done, num_prepared: prepared, num_clicks: clicks } = progress;
  element("progress").max = num;
  element("progress").value = done;
  element("num-done").textContent = `${done} of ${num} done`;
  element("num-clicks").textContent = clicks === 1 ? "1 click" : `${clicks.toLocaleString("en")} clicks`;
  const failed = Object.entries(progress.failed);
  const isAll = prepared + failed.length >= num;
  element("prepared").textContent = isAll ? "all images prepared" : `${prepared} of ${num} images prepared`;
  element("failed").hidden = failed.length === 0;
  element("failed").querySelector("summary").textContent =
    failed.length === 1 ? "1 image left out" : `${failed.length} images left out`;
  element("failed").querySelector("ul").replaceChildren(...failed.map(([name, text]) => {
    const row = document.createElement("li");
    row.textContent = name;
    row.title = text;
    return row;
  }));
}

export function showView(view, hasPast, canUndoDone) {
  element("undo").disabled = !canUndoDone && !view?.can_undo;
  element("redo").disabled = !view?.can_redo;
  element("back").disabled = !hasPast;
  element("hint").textContent = view && !view.knows_classes
    ? "Choose a class (keys 1 to 9) and click where it is: a click takes the whole region."
    : "Click what has the wrong class. The region under the cursor takes the class chosen.";
}
