// What lies over the image: classes as tints, and the region that a click would take.

import { Partition } from "./partition.js";

const PALETTE = [
  [74, 168, 255], [178, 112, 255], [255, 92, 87], [255, 194, 61], [53, 199, 89], [64, 224, 208],
  [255, 120, 200], [214, 160, 110], [190, 230, 70], [255, 140, 60], [120, 130, 255], [225, 228, 235],
];
export const IGNORED = -1; // among the numbers of classes
const GRAY = [128, 128, 128];
const PROPOSED = 0.42; // how strong tints are
const FIXED = 0.68;
const BORDER = 0.95;

// Of a class by number from 0; beyond the palette, hues a golden angle apart.
export function classColor(number) {
  if (number === IGNORED) return GRAY;
  if (number < PALETTE.length) return PALETTE[number];
  const hue = (number * 137.5) % 360;
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (0.6 - 0.4 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

export class ClassLayer {
  // The buffer as for Partition.
  constructor(buffer) {
    this.partition = new Partition(buffer);
    const { height, width, numSuperpixels, superpixels } = this.partition;
    this.canvas = new OffscreenCanvas(width, height);
    this.sizes = new Uint32Array(numSuperpixels);
    for (const superpixel of superpixels) this.sizes[superpixel]++;
    this.classes = [];
    this.isFixed = new Uint8Array(numSuperpixels);
  }

  // What the server says: a class for each superpixel, and which were clicked.
  take({ classes, fixed, knows_classes }) {
    this.classes = classes;
    this.isFixed.fill(0);
    for (const superpixel of fixed) this.isFixed[superpixel] = 1;
    this.isKnown = knows_classes;
    this.draw();
  }

  // Show at once what a click does, before the server has answered.
  paint(superpixels, number) {
    this.classes = [...this.classes];
    for (const superpixel of superpixels) {
      this.classes[superpixel] = number;
      this.isFixed[superpixel] = 1;
    }
    this.draw();
  }

  draw() {
    const { width, height, superpixels, numSuperpixels } = this.partition;
    // What each superpixel shows: class plus 2, or 0 for nothing; the color of its inside and its border.
    const shown = new Uint16Array(numSuperpixels);
    const inside = new Uint32Array(numSuperpixels);
    const border = new Uint32Array(numSuperpixels);
    for (let superpixel = 0; superpixel < numSuperpixels; superpixel++) {
      if (!this.isKnown && !this.isFixed[superpixel]) continue;
      const [r, g, b] = classColor(this.classes[superpixel]);
      const word = (alpha) => ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;
      shown[superpixel] = this.classes[superpixel] + 2;
      inside[superpixel] = word(this.isFixed[superpixel] ? FIXED : PROPOSED);
      border[superpixel] = word(BORDER);
    }
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const superpixel = superpixels[i];
        const isBorder = (x + 1 < width && shown[superpixels[i + 1]] !== shown[superpixel])
          || (y + 1 < height && shown[superpixels[i + width]] !== shown[superpixel]);
        pixels[i] = isBorder ? border[superpixel] : inside[superpixel];
      }
    }
    context.putImageData(image, 0, 0);
  }

  // The share of the image that each class has, and last what is ignored.
  shares(count) {
    const sums = new Float64Array(count + 1);
    let total = 0;
    this.sizes.forEach((size, superpixel) => {
      total += size;
      const number = this.classes[superpixel];
      sums[number === IGNORED ? count : number] += size;
    });
    return [...sums].map((sum) => (this.isKnown ? sum / total : 0));
  }

  // Regions as Labeler has them for a click with this class: without clicks of other classes.
  cut(granularity, clicks, number) {
    const { parents } = this.partition;
    const isExcluded = new Uint8Array(parents.length);
    for (const click of clicks) {
      if (click.class === number) continue;
      let node = click.superpixel;
      while (!isExcluded[node]) {
        isExcluded[node] = 1;
        node = parents[node];
      }
    }
    this.partition.join(granularity, isExcluded);
  }

  superpixelAt(y, x) {
    const { width, height, superpixels } = this.partition;
    return y >= 0 && x >= 0 && y < height && x < width ? superpixels[y * width + x] : -1;
  }

  // The superpixels that a click on one of them would take.
  regionOf(superpixel) {
    const { tops, numSuperpixels } = this.partition;
    const found = [];
    for (let other = 0; other < numSuperpixels; other++) if (tops[other] === tops[superpixel]) found.push(other);
    return found;
  }
}
