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

// With isWaiting it comes half a second later, or as soon as the features are there. The signal
// ends what no one waits for any more: a browser has few connections to one server.
export const getView = async (number, { signal, isWaiting = false } = {}) =>
  (await answer(at(number) + (isWaiting ? "?wait=1" : ""), { signal })).json();

export const getBitmap = async (number, signal) =>
  createImageBitmap(await (await answer(`${at(number)}/picture`, { signal })).blob());

export const getPartition = async (number, signal) =>
  (await answer(`${at(number)}/partition`, { signal })).arrayBuffer();

let last = Promise.resolve();

// Actions reach the server in the order in which they were made.
export function act(number, action) {
  const send = async () => {
    const options = {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(action),
    };
    return (await answer(`${at(number)}/actions`, options)).json();
  };
  const answered = last.then(send);
  last = answered.catch(() => {});
  return answered;
}
