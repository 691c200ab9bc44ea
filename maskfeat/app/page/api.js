// What the server is asked. What it refuses becomes an Error with its sentence.

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("the server cannot be reached"), { isUnreachable: true });
  }
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    throw new Error(content.error ?? `the server failed with status ${response.status}`);
  }
  return response;
}

const at = (number) => `/api/pictures/${number}`;

export const getFolder = async () => (await answer("/api/folder")).json();

// With isWaiting it comes half a second later, or as soon as the features are there; with
// isLearning when the classifier knows the last clicks. The signal ends what no one waits for any
// more: a browser has few connections to one server.
export const getView = async (number, { signal, isWaiting = false, isLearning = false } = {}) =>
  (await answer(at(number) + (isWaiting ? "?wait=1" : isLearning ? "?learn=1" : ""), { signal })).json();

export const getBitmap = async (number, signal) =>
  createImageBitmap(await (await answer(`${at(number)}/picture`, { signal })).blob());

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

let last = Promise.resolve();
let numLost = 0; // actions in a row that did not reach the server

// Actions reach the server in the order in which they were made.
export function act(number, action) {
  const answered = last.then(() => post(`${at(number)}/actions`, action)).then(reached, lost);
  last = answered.catch(() => {});
  return answered;
}

function reached(content) {
  numLost = 0;
  return content;
}

function lost(error) {
  numLost = error.isUnreachable ? numLost + 1 : 0;
  if (numLost) {
    const what = numLost === 1 ? "the last step is" : `the last ${numLost} steps are`;
    error.message += `: ${what} not saved, those before are`;
  }
  throw error;
}
