// What the server is asked. What it refuses becomes an Error with its sentence.

import * as connection from "./connection.js";

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection.lose();
    throw Object.assign(new Error("the server cannot be reached"), { isUnreachable: true });
  }
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    const error = new Error(content.error ?? `the server failed with status ${response.status}`);
    throw Object.assign(error, { isStale: content.is_stale === true });
  }
  return response;
}

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
let numLost = 0; // actions in a row that did not reach the server
let era = 0; // rises when what the actions were decided upon is gone

// Actions reach the server in the order in which they were made.
export function act(number, action) {
  const made = era;
  const send = () => {
    // Made before the page could show that something else had come before it.
    if (made !== era) throw Object.assign(new Error("not made"), { isDropped: true });
    return post(`${at(number)}/actions`, { ...action, revision: views.get(number)?.revision });
  };
  const answered = last.then(send).then(reached, lost);
  last = answered.catch(() => {});
  return answered;
}

// The server is another one: answers of the former one are ignored. How many steps it did not get.
export function beginAnew() {
  const num = numLost;
  numLost = 0;
  era += 1;
  views.clear();
  return num;
}

function reached(content) {
  numLost = 0;
  return kept(content);
}

function lost(error) {
  if (error.isDropped) throw error;
  if (error.isStale) era += 1;
  numLost = error.isUnreachable ? numLost + 1 : 0;
  if (numLost) error.message += `: ${unsaved(numLost)}, those before are`;
  throw error;
}

export const unsaved = (num) =>
  num === 1 ? "the last step is not saved" : `the last ${num} steps are not saved`;
