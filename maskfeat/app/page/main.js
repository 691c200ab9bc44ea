// The page: what is done with mouse and keys goes to the server, and its answers to the canvas.

import * as api from "./api.js";
import * as connection from "./connection.js";
import { Partition } from "./partition.js";
import * as images from "./folder.js";
import * as keys from "./keys.js";
import { OPEN_COLOR, colorOf, maskLayer } from "./masks.js";
import * as panel from "./panel.js";
import * as pointer from "./pointer.js";
import { Stage } from "./stage.js";

const { element } = panel;
const stage = new Stage(element("canvas"));

let folder;
let number = -1; // of the image that is shown
let turning = new AbortController(); // ends what was asked of the image before
let view = null; // the server's last word on it
let masks = []; // layers of what is at hand
let objects = new Map(); // layers of finished objects by number
let pending = []; // prompts that the server has not answered yet
let draft = null; // a scribble that is being drawn
let partition = null;
let label = 1;
let areMasksShown = true;
let left = null; // the image that was called done last, until something else is done
let numActing = 0; // actions that the server has not answered yet
const unreadable = new Set(); // images that the server could not read
const hidden = new Set(); // objects that are not shown

async function open(next) {
  if (next < 0 || next >= folder.names.length) return;
  turning.abort();
  turning = new AbortController();
  const { signal } = turning;
  number = next;
  view = partition = draft = null;
  [masks, pending, objects] = [[], [], new Map()];
  hidden.clear();
  stage.setImage(null, [1, 1]);
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
  const isLabels = view.mode === "labels";
  masks = view.masks.map((mask) =>
    maskLayer(mask, isLabels ? colorOf(mask.label) : OPEN_COLOR, isLabels ? 0.5 : 0.38));
  if (view.finished) {
    objects = new Map(
      view.finished.map((one) => [one.number, maskLayer(one, colorOf(one.number), 0.3)]));
  }
  panel.showProgress(folder, number);
  panel.showView(view, label);
  panel.showOpenArea(view, masks);
  showObjects();
  if (view.problem) panel.say(view.problem, true);
  show();
}

function show() {
  const isLabels = view?.mode === "labels";
  const shown = [...objects].filter(([one]) => !hidden.has(one)).map(([, layer]) => layer);
  stage.mode = view?.mode ?? "object";
  stage.layers = areMasksShown ? [...(isLabels ? [] : shown), ...masks] : [];
  const isPartitionShown = partition && element("partition-on").checked;
  stage.shades = isPartitionShown ? [partition.hover, partition.borders] : [];
  stage.prompts = [...(view?.prompts ?? []), ...pending, ...(draft ? [draft] : [])];
  stage.redraw();
}

function showObjects() {
  panel.showObjects(objects, hidden, view.size, {
    show(one) {
      hidden.has(one) ? hidden.delete(one) : hidden.add(one);
      showObjects();
      show();
    },
    reopen: (one) => act({ do: "reopen", number: one }),
    delete: (one) => act({ do: "delete", number: one }),
  });
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
      panel.say(view?.notice ?? error.message, true);
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
  const num = api.beginAnew();
  const found = await api.getFolder().catch((error) => panel.say(error.message, true));
  if (!found) return;
  if (!images.areSame(found, folder)) return location.reload();
  folder = found;
  await open(number);
  if (view) panel.say(num ? `the server is back; ${api.unsaved(num)}` : "the server is back", num > 0);
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

function addMark(kind, points_yx, event, extra = {}) {
  if (!view) return;
  const isRight = event.button === 2;
  if (view.mode === "labels" && isRight) {
    chooseLabel(labelAt(points_yx[0]));
    return;
  }
  const own = view.mode === "labels" ? label : isRight ? 0 : 1;
  act({ do: "prompt", prompt: { kind, points_yx, label: own, ...extra } });
}

function labelAt([y, x]) {
  const isThere = ({ mask: { pixels, height, width } }) => {
    const row = Math.floor(((y + 0.5) * height) / view.size[0]);
    return pixels[row * width + Math.floor(((x + 0.5) * width) / view.size[1])];
  };
  return view.masks[masks.findIndex(isThere)]?.label ?? label;
}

function chooseLabel(chosen) {
  label = chosen;
  if (view) panel.showView(view, label);
}

pointer.listen(stage, {
  click(pixel, event) {
    if (!event.shiftKey) addMark("click", [pixel], event);
    else if (partition && element("partition-on").checked) {
      addMark("segment", [pixel], event, { granularity: Number(element("granularity").value) });
    } else showPartition(true);
  },
  draft(pixels, event) {
    const own = view?.mode === "labels" ? label : event?.button === 2 ? 0 : 1;
    draft = pixels && { kind: "scribble", points_yx: pixels, label: own };
    show();
  },
  scribble(pixels, event) {
    draft = null;
    const [height, width] = stage.size;
    const inside = pixels.map(([y, x]) => [
      Math.min(height - 1, Math.max(0, y)), Math.min(width - 1, Math.max(0, x))]);
    addMark("scribble", inside, event);
    show();
  },
  hover([y, x]) {
    if (!partition || !element("partition-on").checked) return;
    const row = Math.floor(((y + 0.5) * partition.height) / stage.size[0]);
    const column = Math.floor(((x + 0.5) * partition.width) / stage.size[1]);
    if (partition.hoverAt(row, column)) stage.redraw();
  },
});

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
  if (!isLeftOut && (!(await act({ do: "done", is_done: true })) || number !== at)) return;
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

const actions = {
  candidate: () => view?.mode === "object" && view.prompts.length && act({ do: "candidate" }),
  finish: () => view?.mode === "object" && act({ do: "finish" }),
  done: finishImage,
  undo,
  redo: () => act({ do: "redo" }),
  clear: () => view?.prompts.length && act({ do: "clear" }),
  mode: () => act({ do: "mode", mode: view?.mode === "labels" ? "object" : "labels" }),
  save: async () => (await act({ do: "save" })) && panel.say(`written to ${folder.out}`),
  togglePartition: () => showPartition(!element("partition-on").checked),
  coarser: () => changeGranularity(-0.02),
  finer: () => changeGranularity(0.02),
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
  for (const name of ["previous", "next", "jump", "undo", "redo", "clear", "finish", "done"]) {
    element(name).addEventListener("click", () => actions[name]());
  }
  element("help-button").addEventListener("click", actions.help);
  for (const button of element("modes").children) {
    button.addEventListener("click", () => act({ do: "mode", mode: button.dataset.mode }));
  }
  element("partition-on").addEventListener("change", (event) => showPartition(event.target.checked));
  element("granularity").addEventListener("input", () => changeGranularity(0));
  panel.makeLabels(chooseLabel);
  keys.listen(actions, chooseLabel);
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
  // A reloaded page shows the image it had shown.
  const asked = Number(location.hash.slice(1)) - 1;
  open(folder.names[asked] === undefined ? folder.first : asked);
  connection.watch(look);
}

start();
