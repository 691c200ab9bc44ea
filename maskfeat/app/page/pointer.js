// Mouse and pen: clicks, scribbles, panning, zoom.

const SLIP = 4; // screen pixels a click may move

// Calls on.click(pixel, event), on.draft(pixels, event) while a line is drawn and
// on.scribble(pixels, event) at its end, on.hover(pixel, event).
export function listen(stage, on) {
  const { canvas } = stage;
  let isSpaceDown = false;
  let drag = null;

  window.addEventListener("keydown", (event) => (isSpaceDown ||= event.code === "Space"));
  window.addEventListener("keyup", (event) => (isSpaceDown &&= event.code !== "Space"));
  window.addEventListener("blur", () => (isSpaceDown = false));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const pixels = event.deltaMode === 1 ? 32 * event.deltaY : event.deltaY;
    stage.zoom(Math.exp(-0.0015 * pixels), event.offsetX, event.offsetY);
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    if (drag) return;
    event.preventDefault();
    document.activeElement?.blur(); // or the granularity slider keeps the arrow keys
    canvas.setPointerCapture(event.pointerId);
    const isPan = event.button === 1 || isSpaceDown;
    drag = { isPan, isLine: false, start: event, last: event, pixels: [stage.pixelAt(event)] };
    canvas.classList.toggle("panning", isPan);
  });

  canvas.addEventListener("pointermove", (event) => {
    if (!drag) {
      on.hover(stage.pixelAt(event), event);
      return;
    }
    if (drag.isPan) {
      stage.pan(event.clientX - drag.last.clientX, event.clientY - drag.last.clientY);
      drag.last = event;
      return;
    }
    const { start } = drag;
    drag.isLine ||= Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > SLIP;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) addPixel(drag.pixels, stage, move);
    if (drag.isLine) on.draft(drag.pixels, start);
  });

  canvas.addEventListener("pointerup", (event) => {
    if (!drag || event.button !== drag.start.button) return;
    const { isPan, isLine, pixels, start } = drag;
    drag = null;
    canvas.classList.remove("panning");
    if (isPan) return;
    if (isLine) on.scribble(pixels, start);
    else if (stage.holds(pixels[0])) on.click(pixels[0], start);
  });

  canvas.addEventListener("pointercancel", () => {
    drag = null;
    canvas.classList.remove("panning");
    on.draft(null);
  });
  canvas.addEventListener("pointerleave", (event) => drag || on.hover([-1, -1], event));
}

function addPixel(pixels, stage, move) {
  const [y, x] = stage.pixelAt(move);
  const [lastY, lastX] = pixels[pixels.length - 1];
  if (y !== lastY || x !== lastX) pixels.push([y, x]);
}
