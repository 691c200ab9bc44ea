// What lies over the picture: classes as tints, and the region that a click would take.

import { Partition } from "./dial.js";

const PALETTE = [
  [74, 168, 255], [178, 112, 255], [255, 92, 87], [255, 194, 61], [53, 199, 89], [64, 224, 208],
  [255, 120, 200], [214, 160, 110], [190, 230, 70], [255, 140, 60], [120, 130, 255], [225, 228, 235],
];
const PROPOSED = 0.42; // how strong tints are
const HELD = 0.68;
const BORDER = 0.95;

// Of a class by number from 0; beyond the palette, hues a golden angle apart.
export function classColor(number) {
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
    const { height, width, numAtoms, atoms } = this.partition;
    this.canvas = new OffscreenCanvas(width, height);
    this.sizes = new Uint32Array(numAtoms);
    for (const atom of atoms) this.sizes[atom]++;
    this.classes = [];
    this.isHeld = new Uint8Array(numAtoms);
  }

  // What the server says: a class for each atom, and which were clicked.
  take({ classes, held, knows_classes }) {
    this.classes = classes;
    this.isHeld.fill(0);
    for (const atom of held) this.isHeld[atom] = 1;
    this.isKnown = knows_classes;
    this.draw();
  }

  // Show at once what a click does, before the server has said so.
  paint(atoms, number) {
    this.classes = [...this.classes];
    for (const atom of atoms) {
      this.classes[atom] = number;
      this.isHeld[atom] = 1;
    }
    this.draw();
  }

  draw() {
    const { width, height, atoms, numAtoms } = this.partition;
    // What each atom shows: class plus 1, or 0 for nothing; the color of its inside and its border.
    const shown = new Uint16Array(numAtoms);
    const inside = new Uint32Array(numAtoms);
    const border = new Uint32Array(numAtoms);
    for (let atom = 0; atom < numAtoms; atom++) {
      if (!this.isKnown && !this.isHeld[atom]) continue;
      const [r, g, b] = classColor(this.classes[atom]);
      const word = (alpha) => ((Math.round(alpha * 255) << 24) | (b << 16) | (g << 8) | r) >>> 0;
      shown[atom] = this.classes[atom] + 1;
      inside[atom] = word(this.isHeld[atom] ? HELD : PROPOSED);
      border[atom] = word(BORDER);
    }
    const context = this.canvas.getContext("2d");
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const atom = atoms[i];
        const isBorder = (x + 1 < width && shown[atoms[i + 1]] !== shown[atom])
          || (y + 1 < height && shown[atoms[i + width]] !== shown[atom]);
        pixels[i] = isBorder ? border[atom] : inside[atom];
      }
    }
    context.putImageData(image, 0, 0);
  }

  // The share of the picture that each of so many classes has.
  shares(count) {
    const sums = new Float64Array(count);
    let total = 0;
    this.sizes.forEach((size, atom) => {
      total += size;
      sums[this.classes[atom]] += size;
    });
    return [...sums].map((sum) => (this.isKnown ? sum / total : 0));
  }

  // Regions as Labeler has them for a click with this class: without clicks of other classes.
  cut(granularity, clicks, number) {
    const { parents } = this.partition;
    const isBarred = new Uint8Array(parents.length);
    for (const click of clicks) {
      if (click.class === number) continue;
      let node = click.atom;
      while (!isBarred[node]) {
        isBarred[node] = 1;
        node = parents[node];
      }
    }
    this.partition.join(granularity, isBarred);
  }

  atomAt(y, x) {
    const { width, height, atoms } = this.partition;
    return y >= 0 && x >= 0 && y < height && x < width ? atoms[y * width + x] : -1;
  }

  // The atoms that a click on one of them would take.
  regionOf(atom) {
    const { tops, numAtoms } = this.partition;
    const found = [];
    for (let other = 0; other < numAtoms; other++) if (tops[other] === tops[atom]) found.push(other);
    return found;
  }
}
