// Masks: from COCO run lengths to pixels, to tints and to outlines.

export const OPEN_COLOR = [74, 168, 255];
export const OBJECT_COLOR = [40, 200, 60];
export const BACKGROUND_COLOR = [235, 50, 40];
const PALETTE = [
  [255, 194, 61], [199, 125, 255], [64, 224, 208], [255, 120, 170], [158, 216, 70],
  [255, 145, 77], [120, 150, 255], [229, 218, 120], [90, 210, 140],
];

// Of objects and labels alike, by number from 1.
export const colorOf = (number) => PALETTE[(number - 1) % PALETTE.length];
export const hex = (color) => `#${color.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
export const ofHex = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
export const css = ([r, g, b], alpha = 1) => `rgba(${r}, ${g}, ${b}, ${alpha})`;

// {size: [height, width], counts} -> what a mask covers: the box around it, 0 or 1 for each pixel of
// the box by rows, its area. Only the box, as an image may have hundreds of masks.
export function decodeMask({ size: [height, width], counts }) {
  const runs = []; // [start, stop], column by column
  let place = 0;
  runLengths(counts).forEach((length, index) => {
    if (index % 2 && length) runs.push([place, place + length]);
    place += length;
  });
  const box = boxOf(runs, height, width);
  const pixels = new Uint8Array(box.rows * box.columns);
  let area = 0;
  for (const [start, stop] of runs) {
    area += stop - start;
    let x = Math.floor(start / height);
    let y = start - x * height;
    for (let i = start; i < stop; i++) {
      pixels[(y - box.top) * box.columns + x - box.left] = 1;
      if (++y === height) [x, y] = [x + 1, 0];
    }
  }
  return { height, width, ...box, pixels, area };
}

function boxOf(runs, height, width) {
  if (!runs.length) return { top: 0, left: 0, rows: 0, columns: 0 };
  let [top, bottom] = [height, 0];
  for (const [start, stop] of runs) {
    const [first, last] = [start % height, (stop - 1) % height];
    const isOneColumn = stop - start <= last - first + 1;
    top = Math.min(top, isOneColumn ? first : 0);
    bottom = Math.max(bottom, isOneColumn ? last : height - 1);
  }
  const left = Math.floor(runs[0][0] / height);
  const right = Math.floor((runs[runs.length - 1][1] - 1) / height);
  return { top, left, rows: bottom - top + 1, columns: right - left + 1 };
}

// Whether a mask covers a pixel of an image of this size.
export function covers({ height, width, top, left, rows, columns, pixels }, [y, x], size) {
  const row = Math.floor(((y + 0.5) * height) / size[0]) - top;
  const column = Math.floor(((x + 0.5) * width) / size[1]) - left;
  return row >= 0 && column >= 0 && row < rows && column < columns && pixels[row * columns + column] === 1;
}

function runLengths(text) {
  const lengths = [];
  for (let i = 0; i < text.length; ) {
    let value = 0;
    for (let shift = 0, goesOn = true; goesOn; shift += 5, i++) {
      const bits = text.charCodeAt(i) - 48;
      value |= (bits & 31) << shift;
      goesOn = (bits & 32) !== 0;
      if (!goesOn && bits & 16) value |= -1 << (shift + 5);
    }
    if (lengths.length > 2) value += lengths[lengths.length - 2];
    lengths.push(value);
  }
  return lengths;
}

// A canvas of the box around a mask, transparent but for the mask.
function tint({ rows, columns, pixels }, [r, g, b]) {
  const canvas = new OffscreenCanvas(Math.max(1, columns), Math.max(1, rows));
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const words = new Uint32Array(image.data.buffer);
  const word = ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;
  for (let i = 0; i < pixels.length; i++) if (pixels[i]) words[i] = word;
  context.putImageData(image, 0, 0);
  return canvas;
}

// The sides between inside and outside as lines, in pixels of the mask: sharp at any zoom.
function outline({ top, left, rows, columns, pixels }) {
  const path = new Path2D();
  const at = (y, x) => (y < 0 || x < 0 || y >= rows || x >= columns ? 0 : pixels[y * columns + x]);
  for (let y = 0; y <= rows; y++) {
    for (let x = 0, start = -1; x <= columns; x++) {
      const isSide = x < columns && at(y, x) !== at(y - 1, x);
      if (isSide && start < 0) start = x;
      if (!isSide && start >= 0) {
        path.moveTo(left + start, top + y);
        path.lineTo(left + x, top + y);
        start = -1;
      }
    }
  }
  for (let x = 0; x <= columns; x++) {
    for (let y = 0, start = -1; y <= rows; y++) {
      const isSide = y < rows && at(y, x) !== at(y, x - 1);
      if (isSide && start < 0) start = y;
      if (!isSide && start >= 0) {
        path.moveTo(left + x, top + start);
        path.lineTo(left + x, top + y);
        start = -1;
      }
    }
  }
  return path;
}

// What the stage draws for a mask; alpha is that of its inside.
export function maskLayer(encoded, color, alpha) {
  const mask = decodeMask(encoded);
  return { mask, color, alpha, canvas: tint(mask, color), path: outline(mask) };
}

export const inColor = (layer, color) => ({
  ...layer, color, canvas: tint(layer.mask, color), thumbnail: undefined });
