// The page of `maskfeat annotate --classes`: the next image, its proposed classes, and clicks.

import * as api from "./api.js";
import * as connection from "./connection.js";
import { areSame } from "./folder.js";
import * as keys from "./keys.js";
import { ClassLayer, IGNORED, classColor } from "./label_layers.js";
import * as side from "./label_panel.js";
import * as overview from "./overview.js";
import { element, say, showBusy } from "./panel.js";
import * as pointer from "./pointer.js";
import { Stage } from "./stage.js";

const QUIET_MS = 300; // what takes no longer is not worth a word
const stage = new Stage(element("canvas"));
stage.mode = "labels";
stage.colorOf = (label) => classColor(label - 1);

let folder;
let number = -1; // of the image that is shown
let turning = new AbortController(); // ends what was asked of the image before
let learning = new AbortController(); // ends what was asked before the last click
let view = null; // the server's last word on the image
let layer = null;
let pending = []; // clicks that the server has not answered yet
let past = []; // images shown before
let left = null; // the image that was called done last, until something else is done
let chosen = 0;
let areTintsShown = true;

async function open(next, isBack = false, message = "") {
  if (next === null || folder.names[next] === undefined) return;
  if (number >= 0 && number !== next && !isBack) past.push(number);
  turning.abort();
  learning.abort();
  turning = new AbortController();
  const { signal } = turning;
  number = next;
  view = layer = null;
  pending = [];
  stage.setImage(null, [1, 1]);
  say(message);
  showBusy("reading the image");
  side.showPlace(folder, number);
  showView();
  document.body.dataset.ready = "false";
  history.replaceState(null, "", `#${number + 1}`);
  try {
    const bitmap = await api.getBitmap(next, signal);
    if (signal.aborted) return;
    stage.setImage(bitmap, [bitmap.height, bitmap.width]);
    showBusy("computing features");
    let first = await api.getView(next, { signal });
    while (!first.is_ready) first = await api.getView(next, { signal, isWaiting: true });
    const buffer = await api.getPartition(next, signal);
    if (signal.aborted) return;
    if (String(stage.size) !== String(first.size)) Object.assign(stage, { size: first.size }).fit();
    layer = new ClassLayer(buffer);
    take(first);
    if (first.num_set_aside) {
      say(`${first.num_set_aside} clicks made on another image of this name are set aside`);
    }
    if (!first.is_fresh) await learn();
  } catch (error) {
    if (!signal.aborted) say(error.message, true);
  }
  if (signal.aborted) return;
  showBusy("");
  document.body.dataset.ready = "true";
}

// Show what the server says, unless something newer is shown. Answers to actions say no classes:
// what was painted stays until the classifier has learned.
function take(answer) {
  side.showProgress(answer.progress);
  if (answer.number !== number || !layer || (view && answer.moment < view.moment)) return;
  view = { ...view, ...answer };
  folder.is_done[number] = view.is_done;
  folder.review[number] = view.review;
  if (answer.classes) layer.take(view);
  for (const { region, ...click } of pending) layer.paint(region, click.class);
  document.body.dataset.fresh = view.is_fresh;
  side.showPlace(folder, number);
  showView();
  side.showShares(layer.shares(folder.classes.length));
  cut();
}

const showView = () => side.showView(view, past.length > 0, left !== null);

function show() {
  const { partition } = layer ?? {};
  const borders = element("borders-on").checked ? [partition?.borders] : [];
  stage.shades = partition ? [...(areTintsShown ? [layer.canvas] : []), ...borders, partition.hover] : [];
  stage.prompts = [...(view?.clicks ?? []), ...pending].map((click) => ({
    kind: "click", points_yx: [click.at_yx], label: click.class + 1, isPending: click.isPending }));
  stage.redraw();
}

// What the classifier makes of the last clicks: asked for apart, so that no click waits for it.
async function learn() {
  learning.abort();
  learning = new AbortController();
  const { signal } = learning;
  const timer = setTimeout(() => showBusy("learning"), QUIET_MS);
  try {
    const answer = await api.getView(number, { signal, isLearning: true });
    if (!signal.aborted) take(answer);
  } catch (error) {
    if (!signal.aborted) say(error.message, true);
  }
  clearTimeout(timer);
  if (signal.aborted) return;
  showBusy("");
}

async function act(action) {
  if (!connection.isUp()) return false;
  const at = number;
  left = null;
  learning.abort();
  document.body.dataset.fresh = "false";
  try {
    const answer = await api.act(at, action);
    if (number === at) say("");
    take(answer);
    if (answer.number !== at) await goWhere(action.do, answer);
    else if (number === at && !answer.is_fresh) learn();
    return true;
  } catch (error) {
    if (number === at && !error.isDropped) {
      if (error.isStale) await open(at, true);
      else if (!error.isUnreachable) await api.getView(at).then(take, () => {});
      if (!error.isUnreachable) say(error.message, true);
    }
    return false;
  }
}

// The last click was on another image, which is shown with a message of what happened.
async function goWhere(what, answer) {
  const wasDone = folder.is_done[answer.number];
  folder.is_done[answer.number] = answer.is_done;
  folder.review[answer.number] = answer.review;
  const done = what === "undo" ? "taken back" : "given again";
  const rest = wasDone && !answer.is_done ? "; it is no longer done" : "";
  await open(answer.number, false, `the last click, on ${folder.names[answer.number]}, was ${done}${rest}`);
}

async function click([y, x]) {
  if (!view) return;
  const superpixel = layer.superpixelAt(...cellAt([y, x]));
  const region = layer.regionOf(superpixel);
  const click = { at_yx: [y, x], class: chosen, superpixel, region, isPending: true };
  layer.paint(region, chosen); // at once; the server says the same a moment later
  pending = [...pending, click];
  show();
  await act({ do: "click", at_yx: [y, x], class: chosen, granularity: granularity() });
  pending = pending.filter((one) => one !== click);
  show();
}

const cellAt = ([y, x]) => [
  Math.floor(((y + 0.5) * layer.partition.height) / stage.size[0]),
  Math.floor(((x + 0.5) * layer.partition.width) / stage.size[1]),
];

const granularity = () => Number(element("granularity").value);

function cut() {
  if (!layer) return;
  layer.cut(granularity(), [...(view?.clicks ?? []), ...pending], chosen);
  if (element("borders-on").checked) layer.partition.drawBorders();
  const { numSegments } = layer.partition;
  element("num-segments").textContent = `${numSegments.toLocaleString("en")} segments`;
  show();
}

function changeGranularity(step) {
  element("granularity").value = Number(element("granularity").value) + step;
  cut();
}

function choose(one) {
  if (one < IGNORED || one >= folder.classes.length) return;
  chosen = one;
  side.showChosen(chosen);
  cut();
}

async function finishImage() {
  const at = number;
  if (!view) return;
  if (!view.is_done) {
    if (!(await act({ do: "done", is_done: true })) || number !== at) return;
    left = at;
    showView();
  }
  await proceed();
}

// Right after an image was called done, undo takes that back; else the last click, wherever it was.
async function undo() {
  const back = left;
  if (back === null) {
    if (view?.can_undo) await act({ do: "undo" });
    return;
  }
  if (back !== number) await open(back, true);
  if (!view?.is_done || !(await act({ do: "done", is_done: false }))) return;
  if (number === back) say(`taken back in ${folder.names[back]}: calling the image done`);
}

function turnTo(next, isBack = false) {
  left = null;
  open(next, isBack);
}

// On to the image that the server proposes.
async function proceed() {
  const timer = setTimeout(() => showBusy("choosing the next image"), QUIET_MS);
  const before = [number, left];
  try {
    const next = await api.getNext(number);
    clearTimeout(timer);
    showBusy("");
    if (String([number, left]) !== String(before)) return; // undone, or clicked, in the meantime
    if (next !== null && next !== number) await open(next);
    else if (next === null) await exportAll("all images are done; ");
  } catch (error) {
    clearTimeout(timer);
    showBusy("");
    say(error.message, true);
  }
}

async function exportAll(before = "") {
  showBusy("writing files");
  try {
    const { num, folder: place } = await api.exportAll();
    const what = num === 1 ? "1 image" : `${num} images`;
    say(`${before}${what} written to ${place}`);
  } catch (error) {
    say(error.message, true);
  }
  showBusy("");
}

async function watchProgress() {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1500));
    const progress = await api.getProgress().catch(() => null);
    if (!progress) continue;
    side.showProgress(progress);
    if (progress.num_prepared + progress.num_failed >= progress.num_images) return;
  }
}

// Another tab may click, another program may replace the image.
async function look() {
  const [at, shown] = [number, view];
  const revision = await api.getRevision(at);
  if (!shown || view !== shown || pending.length || revision === shown.revision) return;
  await open(at, true, "changed in another tab or on disk: shown as it is now");
}

async function reconnect() {
  try {
    if (!areSame(await api.getFolder(), folder)) return location.reload();
    const num = await api.resend();
    folder = await api.getFolder();
    side.showProgress(folder.progress);
    await open(number);
    if (view) say(num ? `the server is back; ${api.notMade(num)}` : "the server is back", num > 0);
  } catch (error) {
    if (!error.isUnreachable) say(error.message, true);
  }
}

const actions = {
  done: finishImage,
  skip() {
    left = null;
    proceed();
  },
  undo,
  redo: () => view?.can_redo && act({ do: "redo" }),
  back: () => past.length && turnTo(past.pop(), true),
  reopen: () => view?.is_done && act({ do: "done", is_done: false }),
  check: () => view && act({ do: "check", is_to_check: view.review !== "check" }),
  overview: () => overview.show(folder, number, turnTo),
  export: () => exportAll(),
  ignore: () => choose(IGNORED),
  toggleBorders() {
    element("borders-on").checked = !element("borders-on").checked;
    cut();
  },
  toggleTints() {
    areTintsShown = !areTintsShown;
    show();
  },
  coarser: () => changeGranularity(-0.02),
  finer: () => changeGranularity(0.02),
  fit: () => stage.fit(),
  zoomIn: () => stage.zoom(1.25),
  zoomOut: () => stage.zoom(0.8),
  previous: () => turnTo(number - 1),
  next: () => turnTo(number + 1),
  help: keys.showHelp,
};

function wire() {
  const buttons = "previous next undo redo back export skip check reopen done".split(" ");
  for (const name of buttons) element(name).addEventListener("click", () => actions[name]());
  element("help-button").addEventListener("click", actions.help);
  element("overview-button").addEventListener("click", actions.overview);
  element("borders-on").addEventListener("change", cut);
  element("granularity").addEventListener("input", cut);
  pointer.listen(stage, {
    click: (pixel, event) => (event.button === 2 ? pick(pixel) : click(pixel)),
    draft() {},
    scribble: ([pixel], event) => stage.holds(pixel) && event.button === 0 && click(pixel),
    hover: (pixel) => layer?.partition.hoverAt(...cellAt(pixel)) && stage.redraw(),
  });
  side.makeLegend(folder.classes, choose);
  choose(0);
  keys.listen(actions, (one) => choose(one - 1), keys.LABEL_TABLE);
  keys.fillHelp(element("mouse-help"), element("key-help"), keys.LABEL_MOUSE, keys.LABEL_TABLE);
}

const pick = (pixel) => layer && view?.knows_classes && choose(layer.classes[layer.superpixelAt(...cellAt(pixel))]);

async function start() {
  connection.listen(() => say(connection.LOST, true), reconnect);
  try {
    folder = await api.getFolder();
  } catch (error) {
    say(error.message, true);
    return;
  }
  element("granularity").value = folder.granularity;
  wire();
  side.showProgress(folder.progress);
  watchProgress();
  connection.watch(look);
  // A reloaded page shows the image it had shown.
  const asked = Number(location.hash.slice(1)) - 1;
  open(folder.names[asked] === undefined ? folder.first ?? 0 : asked);
}

start();
