// Whether the server can be reached. While it cannot, nothing can be pressed.

const PAUSE_MS = 1000;
let isLost = false;
let on = { lost() {}, back() {} };

export const isUp = () => !isLost;
export const LOST = "the server cannot be reached; this page goes on when it is back, and nothing is lost";
export const listen = (lost, back) => (on = { lost, back });
export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Wait for the server, which is asked every second; then the page shows anew what it says.
export async function lose() {
  if (isLost) return;
  isLost = true;
  document.body.dataset.online = "false";
  const controls = [...document.querySelectorAll("button:not(:disabled), input:not(:disabled)")];
  for (const control of controls) control.disabled = true;
  on.lost();
  do await pause(PAUSE_MS); while (!(await answers()));
  isLost = false;
  document.body.dataset.online = "true";
  for (const control of controls) control.disabled = false;
  on.back();
}

const answers = () => fetch("/api/alive").then(({ ok }) => ok, () => false);

// Ask every two seconds, while the page is seen, whether what is shown is still so.
export async function watch(look) {
  for (;;) {
    await pause(2 * PAUSE_MS);
    if (!isLost && !document.hidden) await look().catch(() => {});
  }
}
