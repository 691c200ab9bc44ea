// What the server is asked. What it refuses becomes an Error with its sentence.

import * as connection from "./connection.js";

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.lose();
    throw unreachable();
  }
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    const error = new Error(content.error ?? `the server failed with status ${response.status}`);
    throw Object.assign(error, { isStale: content.is_stale === true });
  }
  return response;
}

const unreachable = () =>
  Object.assign(new Error("the server cannot be reached"), { isUnreachable: true });

const at = (number) => `/api/images/${number}`;

export const getFolder = async () => (await answer("/api/folder")).json();

// With isWaiting it comes half a second later, or as soon as the features are there; with
// isLearning when the classifier knows the last clicks. The signal ends what no one waits for any
// more: a browser has few connections to one server.
export const getView = async (number, { signal, isWaiting = false, isLearning = false } = {}) =>
  kept(await (await answer(
    at(number) + (isWaiting ? "?wait=1" : isLearning ? "?learn=1" : ""), { signal })).json());

// The revision of an image as the server has it now, null if nobody looked at it yet.
export const getRevision = async (number) =>
  (await (await answer(`/api/alive?number=${number}`)).json()).revision;

export const getBitmap = async (number, signal) =>
  createImageBitmap(await (await answer(`${at(number)}/image`, { signal })).blob());

export const getPartition = async (number, signal) =>
  (await answer(`${at(number)}/partition`, { signal })).arrayBuffer();

// In labeling mode alone.
export const getProgress = async () => (await answer("/api/progress")).json();
export const getNext = async (after) => (await (await answer(`/api/next?after=${after}`)).json()).number;
export const exportAll = () => post("/api/export", {});

async function post(path, content) {
  const headers = { "Content-Type": "application/json" };
  return (await answer(path, { method: "POST", headers, body: JSON.stringify(content) })).json();
}

// The newest view of each image: each action says which revision it was decided upon.
const views = new Map();

function kept(view) {
  if (!(views.get(view.number)?.moment > view.moment)) views.set(view.number, view);
  return view;
}

let last = Promise.resolve();
let unsent = []; // steps that did not reach the server: {number, action, revision}
let era = 0; // rises when what the actions were decided upon is gone

// Actions reach the server in the order in which they were made.
export function act(number, action) {
  const made = era;
  const send = () => {
    const revision = views.get(number)?.revision;
    if (unsent.length) { // it belongs after these, also where the server is back meanwhile
      unsent.push({ number, action, revision });
      throw unreachable();
    }
    // Made before the page could show that something else had come before it.
    if (made !== era) throw Object.assign(new Error("not made"), { isDropped: true });
    return make(number, action, revision);
  };
  const answered = last.then(send).catch((error) => {
    if (error.isStale) era += 1;
    throw error;
  });
  last = answered.catch(() => {});
  return answered;
}

async function make(number, action, revision) {
  try {
    return kept(await post(`${at(number)}/actions`, { ...action, revision }));
  } catch (error) {
    if (error.isUnreachable) unsent.push({ number, action, revision });
    throw error;
  }
}

// The server is back: the steps that it did not get are made now, unless something else has come
// before them, and all that is done meanwhile after them. Answers of the former server are ignored.
// Gives how many could not be made.
export function resend() {
  const made = last.then(resendNow);
  last = made.catch(() => {});
  return made;
}

async function resendNow() {
  const steps = unsent;
  unsent = [];
  views.clear();
  const begun = new Set(); // images
  let num = 0; // made, or saved before though the answer never came
  try {
    for (const { number, action, revision } of steps) {
      let now = await getView(number);
      while (!now.is_ready) now = await getView(number, { isWaiting: true });
      if (begun.has(number) || now.revision === revision) await make(number, action, now.revision);
      else if (!isLast(now, action)) break;
      begun.add(number);
      num += 1;
    }
  } catch (error) {
    if (!error.isUnreachable) {
      era += 1;
      return steps.length - num;
    }
    // Lost again: what follows is made after it.
    const rest = steps.slice(num + unsent.length);
    unsent.push(...rest.map((one) => ({ ...one, revision: views.get(one.number)?.revision ?? one.revision })));
    throw error;
  }
  if (num < steps.length) era += 1;
  return steps.length - num;
}

// Whether an image shows a prompt, or a click for a class, as its last.
function isLast({ prompts, clicks }, { prompt, at_yx: place, class: number }) {
  const [shown, made] = [prompts?.at(-1), clicks?.at(-1)];
  if (prompt && shown) return ["kind", "label", "points_yx"].every((key) => String(shown[key]) === String(prompt[key]));
  return Boolean(place && made) && String(made.at_yx) === String(place) && made.class === number;
}

export const notMade = (num) =>
  `${num === 1 ? "the last step" : `the last ${num} steps`} could not be made; all that is shown is saved`;
