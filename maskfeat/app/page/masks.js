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
export const css = ([r, g, b], alpha = 1) => `rgba(${r}, ${g}, ${b}, ${alpha})`;

// {size: [height, width], counts} -> {height, width, pixels: 0 or 1 by rows, area}
export function decodeMask({ size: [height, width], counts }) {
  const pixels = new Uint8Array(height * width);
  let place = 0; // column by column
  let area = 0;
  runLengths(counts).forEach((length, index) => {
    if (index % 2) {
      area += length;
      for (let i = place; i < place + length; i++) {
        const x = Math.floor(i / height);
        pixels[(i - x * height) * width + x] = 1;
      }
    }
    place += length;
  });
  return { height, width, pixels, area };
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

// A canvas of the mask's size, transparent but for the mask.
export function tint(mask, [r, g, b], alpha) {
  const canvas = new OffscreenCanvas(mask.width, mask.height);
  const context = canvas.getContext("2d");
  const image = context.createImageData(mask.width, mask.height);
  const words = new Uint32Array(image.data.buffer);
  const word = ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;
  for (let i = 0; i < words.length; i++) if (mask.pixels[i]) words[i] = word;
  context.putImageData(image, 0, 0);
  return canvas;
}

// The sides between inside and outside as lines, in pixels of the mask: sharp at any zoom.
export function outline({ height, width, pixels }) {
  const path = new Path2D();
  const at = (y, x) => (y < 0 || x < 0 || y >= height || x >= width ? 0 : pixels[y * width + x]);
  for (let y = 0; y <= height; y++) {
    for (let x = 0, start = -1; x <= width; x++) {
      const isSide = x < width && at(y, x) !== at(y - 1, x);
      if (isSide && start < 0) start = x;
      if (!isSide && start >= 0) {
        path.moveTo(start, y);
        path.lineTo(x, y);
        start = -1;
      }
    }
  }
  for (let x = 0; x <= width; x++) {
    for (let y = 0, start = -1; y <= height; y++) {
      const isSide = y < height && at(y, x) !== at(y, x - 1);
      if (isSide && start < 0) start = y;
      if (!isSide && start >= 0) {
        path.moveTo(x, start);
        path.lineTo(x, y);
        start = -1;
      }
    }
  }
  return path;
}

// What the stage draws for a mask.
export function maskLayer(encoded, color, alpha) {
  const mask = decodeMask(encoded);
  return { mask, color, canvas: tint(mask, color, alpha), path: outline(mask) };
}
