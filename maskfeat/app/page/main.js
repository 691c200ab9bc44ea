// The page: what is done with mouse and keys goes to the server, and its answers to the canvas.

import * as api from "./api.js";
import * as classes from "./classes.js";
import * as connection from "./connection.js";
import { Partition } from "./partition.js";
import * as images from "./folder.js";
import * as keys from "./keys.js";
import { OPEN_COLOR, colorOf, covers, maskLayer } from "./masks.js";
import * as objects from "./objects.js";
import * as overview from "./overview.js";
import * as panel from "./panel.js";
import * as pointer from "./pointer.js";
import { Stage } from "./stage.js";
import { choose as chooseTool, isPainting, tools } from "./tools.js";
import * as toolbar from "./tools.js";

const { element } = panel;
const stage = new Stage(element("canvas"));

let folder;
let number = -1; // of the image that is shown
let turning = new AbortController(); // ends what was asked of the image before
let view = null; // the server's last word on it
let masks = []; // layers of what is at hand
let pending = []; // prompts that the server has not answered yet
let draft = null; // what is being drawn
let partition = null;
let label = 1;
let areMasksShown = true;
let left = null; // the image that was called done last, until something else is done
let numActing = 0; // actions that the server has not answered yet
const unreadable = new Set(); // images that the server could not read

async function open(next) {
  if (next < 0 || next >= folder.names.length) return;
  turning.abort();
  turning = new AbortController();
  const { signal } = turning;
  number = next;
  view = partition = draft = null;
  [masks, pending] = [[], []];
  stage.setImage(null, [1, 1]);
  objects.clear();
  panel.say("");
  panel.showBusy("reading the image");
  panel.showProgress(folder, number);
  document.body.dataset.ready = "false";
  history.replaceState(null, "", `#${number + 1}`);
  try {
    const [first, bitmap] = await Promise.all(
      [api.getView(next, { signal }), api.getBitmap(next, signal)]);
    if (signal.aborted) return; // while the bitmap was decoded
    stage.setImage(bitmap, first.size);
    take(first);
    unreadable.delete(next);
    if (first.notice) panel.say(first.notice, true);
    await becomeReady(signal);
    if (element("partition-on").checked) await loadPartition();
  } catch (error) {
    if (!signal.aborted) panel.say(error.message, true);
    if (!signal.aborted && !view && !error.isUnreachable) unreadable.add(next);
  }
  if (signal.aborted) return;
  panel.showBusy("");
  document.body.dataset.ready = "true";
}

// The mask comes with the features: also after a restart of the server, while the page was open.
async function becomeReady(signal) {
  if (view.is_ready) return;
  panel.showBusy("computing features");
  while (!view.is_ready) take(await api.getView(number, { signal, isWaiting: true }));
}

// Show what the server says, unless something newer is shown.
function take(answer) {
  if (answer.number !== number || (view && answer.moment < view.moment)) return;
  view = answer;
  folder.is_done[number] = view.is_done;
  folder.review[number] = view.review;
  const isLabels = view.mode === "labels";
  masks = view.masks.map((mask) =>
    maskLayer(mask, isLabels ? colorOf(mask.label) : OPEN_COLOR, isLabels ? 0.5 : 0.38));
  if (view.finished && !objects.take(view.finished)) api.getView(number).then(take, () => {});
  classes.learn(objects.classNames());
  toolbar.showMode(view.mode);
  panel.showProgress(folder, number);
  panel.showView(view, label);
  panel.showOpenArea(view, masks);
  if (view.problem) panel.say(view.problem, true);
  show();
}

function show() {
  const isLabels = view?.mode === "labels";
  stage.mode = view?.mode ?? "object";
  stage.layers = areMasksShown ? [...(isLabels ? [] : objects.shownLayers()), ...masks] : [];
  stage.highlights = areMasksShown && !isLabels ? objects.highlights() : [];
  stage.opacity = Number(element("opacity").value);
  const isPartitionShown = partition && element("partition-on").checked;
  stage.shades = isPartitionShown ? [partition.hover, partition.borders] : [];
  // Paint is seen in the mask that it has changed.
  const isSeen = (prompt) => prompt.kind !== "brush" || !view.is_ready;
  stage.prompts = [...(view?.prompts.filter(isSeen) ?? []), ...pending, ...(draft ? [draft] : [])];
  stage.redraw();
}

// Says whether it went well.
async function act(action) {
  if (!view || !connection.isUp()) return false;
  const at = number;
  left = null;
  numActing += 1;
  if (action.do === "prompt") pending = [...pending, { ...action.prompt, isPending: true }];
  const prompt = pending[pending.length - 1];
  show();
  try {
    const answer = await api.act(at, action);
    if (action.do === "prompt") pending = pending.filter((one) => one !== prompt);
    if (number === at) panel.say("");
    take(answer);
    if (number === at && !view.is_ready) waitAgain();
    return true;
  } catch (error) {
    if (action.do === "prompt") pending = pending.filter((one) => one !== prompt);
    if (error.isDropped) return false;
    if (number === at && error.isStale) await open(at); // prompts, or the image itself, are others
    if (number === at) {
      show();
      if (!error.isStale && !error.isUnreachable) await api.getView(at).then(take, () => {});
      // What did not reach the server is made when it is back, and the page shows that already.
      if (!error.isUnreachable) panel.say(view?.notice ?? error.message, true);
    }
    return false;
  } finally {
    numActing -= 1;
  }
}

// Right after an image was called done, that is what undo means, though the next one is shown.
async function undo() {
  const back = left;
  if (back !== null && back !== number) await open(back);
  if (back !== null && view?.undo !== "calling the image done") return;
  const what = view?.undo;
  const isSeen = /^a /.test(what ?? "a prompt"); // prompts are: they vanish from the image
  if ((await act({ do: "undo" })) && !isSeen) panel.say(`taken back in ${folder.names[number]}: ${what}`);
}

// Another tab may click on the image, another program may replace it.
async function look() {
  const [at, shown] = [number, view];
  if (numActing) return;
  const revision = await api.getRevision(at);
  if (!shown || revision === null || revision === shown.revision) return;
  if (view !== shown || numActing) return; // something has happened meanwhile
  await open(at);
  if (number === at && !view?.notice) panel.say("changed in another tab or on disk: shown as it is now");
}

async function reconnect() {
  try {
    if (!images.areSame(await api.getFolder(), folder)) return location.reload();
    const num = await api.resend();
    folder = await api.getFolder();
    await open(number);
    if (view) panel.say(num ? `the server is back; ${api.notMade(num)}` : "the server is back", num > 0);
  } catch (error) {
    if (!error.isUnreachable) panel.say(error.message, true);
  }
}

let isWaitingAgain = false;

async function waitAgain() {
  if (isWaitingAgain || document.body.dataset.ready === "false") return; // somebody waits already
  const { signal } = turning;
  isWaitingAgain = true;
  try {
    await becomeReady(signal);
  } catch (error) {
    if (!signal.aborted) panel.say(error.message, true);
  }
  isWaitingAgain = false;
  if (!signal.aborted) panel.showBusy("");
}

function addPrompt(prompt, event) {
  if (!view) return;
  const isLabels = view.mode === "labels";
  if (isLabels && event.button === 2) chooseLabel(labelAt(prompt.points_yx[0]));
  else act({ do: "prompt", prompt });
}

const labelOf = (event) => (view?.mode === "labels" ? label : toolbar.sideOf(event));
const labelAt = (pixel) =>
  view.masks[masks.findIndex(({ mask }) => covers(mask, pixel, view.size))]?.label ?? label;

function chooseLabel(chosen) {
  label = chosen;
  if (view) panel.showView(view, label);
}

// With a key of a digit: a label, or the class of the selected object, else of new ones.
function chooseNumber(digit) {
  if (view?.mode === "labels") chooseLabel(digit);
  else if (classes.nameOfKey(digit)) chooseClass(classes.nameOfKey(digit));
}

const chooseClass = (name) => (objects.selected === null ? classes.choose(name) : objects.classify(name));

const isDrawing = (event) => tools.name !== "select" || event.ctrlKey || event.metaKey;

// What a drag draws at this moment, with what is held down.
function kindOf(event) {
  if (view?.mode !== "labels" && (tools.name === "box" || event.ctrlKey || event.metaKey)) return "box";
  return isPainting() || event.button === 5 ? "brush" : "scribble";
}

function drawn(kind, pixels, event) {
  const prompt = { kind, points_yx: pixels, label: kind === "box" ? 1 : labelOf(event) };
  if (kind === "box") prompt.points_yx = inside([pixels[0], pixels[pixels.length - 1]]);
  if (kind === "scribble") prompt.points_yx = inside(pixels);
  if (kind === "brush") prompt.radius_px = brushRadius();
  return prompt;
}

const LARGEST_BRUSH = 1000; // radius, pixels of the image: the server takes no larger one
const brushRadius = () =>
  Math.min(LARGEST_BRUSH, Math.max(0.5, Math.round((10 * tools.radius) / stage.scale) / 10));
const inside = (pixels) => pixels.map(([y, x]) => [
  Math.min(stage.size[0] - 1, Math.max(0, y)), Math.min(stage.size[1] - 1, Math.max(0, x))]);

pointer.listen(stage, {
  isLine: (event) => kindOf(event) === "brush",
  click(pixel, event) {
    const isObject = view?.mode === "object";
    if (isObject && (tools.name === "select" || event.ctrlKey || event.metaKey)) {
      objects.select(objects.at(pixel));
    } else if (tools.name === "select" || tools.name === "box") return;
    else if (!event.shiftKey) addPrompt(drawn("click", [pixel], event), event);
    else if (partition && element("partition-on").checked) {
      const granularity = Number(element("granularity").value);
      addPrompt({ ...drawn("segment", [pixel], event), granularity }, event);
    } else showPartition(true);
  },
  draft(pixels, event) {
    draft = pixels && isDrawing(event) ? drawn(kindOf(event), pixels, event) : null;
    if (pixels) moveCursor(pixels[pixels.length - 1], event);
    show();
  },
  scribble(pixels, event) {
    draft = null;
    if (isDrawing(event)) addPrompt(drawn(kindOf(event), pixels, event), event);
    show();
  },
  wheel(event) {
    if (isPainting()) toolbar.resize(Math.exp(-0.0015 * event.deltaY));
    return isPainting();
  },
  hover(pixel, event) {
    moveCursor(pixel, event);
    const isSelecting = tools.name === "select" || event.ctrlKey || event.metaKey || !view?.has_open;
    objects.hover(view?.mode === "object" && isSelecting && !isPainting() ? objects.at(pixel) : null);
    if (!partition || !element("partition-on").checked) return;
    const [y, x] = pixel;
    const row = Math.floor(((y + 0.5) * partition.height) / stage.size[0]);
    const column = Math.floor(((x + 0.5) * partition.width) / stage.size[1]);
    if (partition.hoverAt(row, column)) stage.redraw();
  },
});

function moveCursor(pixel, event) {
  const isShown = isPainting() && pixel[0] >= 0;
  stage.cursor = isShown ? { at_yx: pixel, radius_px: brushRadius(), label: labelOf(event) } : null;
  stage.redraw();
}

async function loadPartition() {
  const { signal } = turning;
  const loaded = await api.getPartition(number, signal);
  if (signal.aborted) return;
  partition = new Partition(loaded);
  cut();
}

function cut() {
  if (!partition) return;
  partition.cut(Number(element("granularity").value));
  element("num-segments").textContent = `${partition.numSegments.toLocaleString("en")} segments`;
  show();
}

async function showPartition(isOn) {
  element("partition-on").checked = isOn;
  element("num-segments").hidden = !isOn;
  try {
    if (isOn && !partition && view) await loadPartition();
  } catch (error) {
    if (error.name !== "AbortError") panel.say(error.message, true);
  }
  show();
}

function changeGranularity(step) {
  element("granularity").value = Number(element("granularity").value) + step;
  if (element("partition-on").checked) cut();
  else showPartition(true);
}

async function finishImage() {
  const at = number;
  const isLeftOut = unreadable.has(at);
  const done = { do: "done", is_done: true, class: classes.current() };
  if (!isLeftOut && (!(await act(done)) || number !== at)) return;
  const next = firstNotDone(at + 1);
  const rest = unreadable.size ? `, but ${unreadable.size} that cannot be read` : "";
  if (next === null) panel.say(`all images are done${rest}`);
  else {
    open(next);
    if (!isLeftOut) left = at;
  }
}

function turnTo(next) {
  left = null;
  open(next);
}
const firstNotDone = (start) => images.firstNotDone(folder, unreadable, start);

// Enter: the object at hand is finished; without one the selected object is opened again.
function finish() {
  if (view?.mode !== "object") return;
  if (!view.has_open && objects.selected !== null) objects.edit(objects.selected);
  else act({ do: "finish", class: classes.current() });
}

function clear() {
  if (view?.prompts.length || (view?.has_open && view.mode === "object")) act({ do: "clear" });
  else objects.remove();
}

function escape() {
  objects.select(null);
  chooseTool("click");
}

const change = (step) => (isPainting() ? toolbar.resize(step > 0 ? 1.25 : 0.8) : changeGranularity(step));

const actions = {
  candidate: () => view?.mode === "object" && view.prompts.length && act({ do: "candidate" }),
  finish,
  done: finishImage,
  undo,
  redo: () => act({ do: "redo" }),
  clear,
  check: () => view && act({ do: "check", is_to_check: view.review !== "check" }),
  overview: () => overview.show(folder, number, turnTo),
  click: escape,
  brush: () => chooseTool("brush"),
  eraser: () => view?.mode === "object" && chooseTool("eraser"),
  box: () => view?.mode === "object" && chooseTool("box"),
  select: () => view?.mode === "object" && chooseTool("select"),
  background: toolbar.toggleBackground,
  mode: () => act({ do: "mode", mode: view?.mode === "labels" ? "object" : "labels" }),
  save: async () => (await act({ do: "save" })) && panel.say(`written to ${folder.out}`),
  togglePartition: () => showPartition(!element("partition-on").checked),
  less: () => change(-0.02),
  more: () => change(0.02),
  toggleMasks() {
    areMasksShown = !areMasksShown;
    show();
  },
  fit: () => stage.fit(),
  zoomIn: () => stage.zoom(1.25),
  zoomOut: () => stage.zoom(0.8),
  previous: () => turnTo(number - 1),
  next: () => turnTo(number + 1),
  jump: () => firstNotDone(0) !== null && turnTo(firstNotDone(0)),
  help: keys.showHelp,
};

function wire() {
  const buttons = "previous next jump undo redo clear check finish done".split(" ");
  for (const name of buttons) {
    element(name).addEventListener("click", () => actions[name]());
  }
  element("help-button").addEventListener("click", actions.help);
  for (const button of element("modes").children) {
    button.addEventListener("click", () => act({ do: "mode", mode: button.dataset.mode }));
  }
  element("partition-on").addEventListener("change", (event) => showPartition(event.target.checked));
  element("granularity").addEventListener("input", () => changeGranularity(0));
  element("overview-button").addEventListener("click", actions.overview);
  element("opacity").addEventListener("input", show);
  element("sheet").addEventListener("click", () => panel.showSheet());
  objects.wire(stage, { act, changed: show });
  toolbar.wire(() => {
    stage.cursor = null;
    show();
  });
  panel.makeLabels(chooseLabel);
  keys.listen(actions, chooseNumber);
  keys.fillHelp(element("mouse-help"), element("key-help"));
}

async function start() {
  wire();
  connection.listen(() => panel.say(connection.LOST, true), reconnect);
  try {
    folder = await api.getFolder();
  } catch (error) {
    panel.say(error.message, true);
    return;
  }
  classes.wire(`classes of ${folder.out}`, chooseClass);
  // A reloaded page shows the image it had shown.
  const asked = Number(location.hash.slice(1)) - 1;
  open(folder.names[asked] === undefined ? folder.first : asked);
  connection.watch(look);
}

start();
