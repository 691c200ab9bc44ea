// The partition at a granularity: the tree is cut in the browser, so that the slider answers at once.

export class Partition {
  // The bytes are described at OpenImage.partition.
  constructor(buffer) {
    const [height, width, numSuperpixels] = new Uint32Array(buffer, 0, 4);
    const numNodes = 2 * numSuperpixels - 1;
    Object.assign(this, { height, width, numSuperpixels });
    this.altitudes = new Float64Array(buffer, 16, numNodes);
    this.parents = new Int32Array(buffer, 16 + 8 * numNodes, numNodes);
    this.superpixels = new Int32Array(buffer, 16 + 12 * numNodes, height * width);
    this.tops = new Int32Array(numNodes);
    this.numSegments = 0;
    this.hovered = -1;
    this.borders = new OffscreenCanvas(width, height);
    this.hover = new OffscreenCanvas(width, height);
  }

  // As Hierarchy.cut(granularity=...): a merge is kept while its altitude is at most 1 - granularity.
  cut(granularity) {
    this.join(granularity);
    this.drawBorders();
  }

  // The same without drawing; merges that are excluded are cut, too.
  join(granularity, isExcluded = []) {
    const { altitudes, parents, tops, numSuperpixels } = this;
    const isWhole = (node) => altitudes[node] <= 1 - granularity && !isExcluded[node];
    const root = parents.length - 1;
    this.numSegments = 0;
    for (let node = root; node >= 0; node--) { // parents come after their children
      const isJoined = node !== root && isWhole(parents[node]);
      tops[node] = isJoined ? tops[parents[node]] : node;
      if (tops[node] === node && (node < numSuperpixels || isWhole(node))) this.numSegments++;
    }
    this.hovered = -1;
  }

  drawBorders() {
    const { width, height, superpixels, tops } = this;
    const context = this.borders.getContext("2d");
    const image = context.createImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    const color = 0xd0ffffff; // white, alpha first
    for (let y = 0, i = 0; y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        const own = tops[superpixels[i]];
        const isRight = x + 1 < width && tops[superpixels[i + 1]] !== own;
        if (isRight || (y + 1 < height && tops[superpixels[i + width]] !== own)) words[i] = color;
      }
    }
    context.putImageData(image, 0, 0);
  }

  // Lights up the segment under a point of the partition; says whether that is another one.
  hoverAt(y, x) {
    const { width, height, superpixels, tops } = this;
    const isInside = y >= 0 && x >= 0 && y < height && x < width;
    const segment = isInside ? tops[superpixels[y * width + x]] : -1;
    if (segment === this.hovered) return false;
    this.hovered = segment;
    const context = this.hover.getContext("2d");
    const image = context.createImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    if (segment >= 0) {
      for (let i = 0; i < words.length; i++) if (tops[superpixels[i]] === segment) words[i] = 0x50ffffff;
    }
    context.putImageData(image, 0, 0);
    return true;
  }
}
