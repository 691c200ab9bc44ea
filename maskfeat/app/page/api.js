// What the server is asked. What it refuses becomes an Error with its sentence.

async function answer(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached; all marks but this last one are saved");
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

// Actions reach the server in the order in which they were made.
export function act(number, action) {
  const answered = last.then(() => post(`${at(number)}/actions`, action));
  last = answered.catch(() => {});
  return answered;
}
