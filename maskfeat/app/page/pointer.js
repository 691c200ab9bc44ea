// Mouse, pen and fingers: clicks, scribbles, panning, zoom.

const SLIP = { mouse: 4, pen: 6, touch: 10 }; // screen pixels a click may move

// Calls on.click(pixel, event), on.draft(pixels, event) while a line is drawn and
// on.scribble(pixels, event) at its end, on.hover(pixel, event). on.wheel(event) says whether the
// wheel was for something else than zooming, on.isLine() whether a line begins at once. Two fingers
// move and zoom the image.
export function listen(stage, on) {
  const { canvas } = stage;
  let isSpaceDown = false;
  let drag = null;
  const fingers = new Map(); // the last event of each, by id

  window.addEventListener("keydown", (event) => (isSpaceDown ||= event.code === "Space"));
  window.addEventListener("keyup", (event) => (isSpaceDown &&= event.code !== "Space"));
  window.addEventListener("blur", () => (isSpaceDown = false));
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  // Else two quick fingers are a fling to Chromium, and a tap elsewhere only ends it: no click.
  canvas.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (!event.ctrlKey && on.wheel?.(event)) return;
    const pixels = event.deltaMode === 1 ? 32 * event.deltaY : event.deltaY;
    stage.zoom(Math.exp(-0.0015 * pixels), event.offsetX, event.offsetY);
  }, { passive: false });

  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "touch") fingers.set(event.pointerId, event);
    if (fingers.size > 1) {
      event.preventDefault();
      stop();
    }
    if (drag || fingers.size > 1) return;
    event.preventDefault();
    document.activeElement?.blur(); // or the granularity slider keeps the arrow keys
    canvas.setPointerCapture(event.pointerId);
    const isPan = event.button === 1 || isSpaceDown;
    const isLine = !isPan && (on.isLine?.(event) ?? false);
    drag = { isPan, isLine, start: event, last: event, pixels: [stage.pixelAt(event)] };
    canvas.classList.toggle("panning", isPan);
    if (isLine) on.draft(drag.pixels, event);
  });

  canvas.addEventListener("pointermove", (event) => {
    if (fingers.has(event.pointerId)) {
      if (fingers.size === 2) pinch(stage, [...fingers.values()], event);
      fingers.set(event.pointerId, event);
    }
    if (!drag) {
      if (fingers.size) return;
      on.hover(stage.pixelAt(event), event);
      return;
    }
    if (drag.isPan) {
      stage.pan(event.clientX - drag.last.clientX, event.clientY - drag.last.clientY);
      drag.last = event;
      return;
    }
    const { start } = drag;
    if (event.pointerId !== start.pointerId) return;
    const slip = SLIP[event.pointerType] ?? SLIP.mouse;
    drag.isLine ||= Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > slip;
    const moves = event.getCoalescedEvents?.() ?? [];
    for (const move of moves.length ? moves : [event]) addPixel(drag.pixels, stage, move);
    if (drag.isLine) on.draft(drag.pixels, start);
  });

  canvas.addEventListener("pointerup", (event) => {
    fingers.delete(event.pointerId);
    if (event.pointerId !== drag?.start.pointerId || event.button !== drag.start.button) return;
    const { isPan, isLine, pixels, start } = drag;
    drag = null;
    canvas.classList.remove("panning");
    if (isPan) return;
    if (isLine) on.scribble(pixels, start);
    else if (stage.holds(pixels[0])) on.click(pixels[0], start);
  });

  canvas.addEventListener("pointercancel", (event) => {
    fingers.delete(event.pointerId);
    stop();
  });

  // What was begun comes to nothing.
  function stop() {
    drag = null;
    canvas.classList.remove("panning");
    on.draft(null);
  }

  canvas.addEventListener("pointerleave", (event) => drag || on.hover([-1, -1], event));
}

// One of two fingers has moved: the image under both goes with them.
function pinch(stage, fingers, moved) {
  const after = fingers.map((one) => (one.pointerId === moved.pointerId ? moved : one));
  const [before, now] = [fingers, after].map(([one, other]) => ({
    x: (one.clientX + other.clientX) / 2,
    y: (one.clientY + other.clientY) / 2,
    length: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY),
  }));
  const box = stage.canvas.getBoundingClientRect();
  stage.pan(now.x - before.x, now.y - before.y);
  stage.zoom(now.length / Math.max(1, before.length), now.x - box.left, now.y - box.top);
}

function addPixel(pixels, stage, move) {
  const [y, x] = stage.pixelAt(move);
  const [lastY, lastX] = pixels[pixels.length - 1];
  if (y !== lastY || x !== lastX) pixels.push([y, x]);
}
