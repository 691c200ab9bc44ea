// The canvas: an image, what lies over it, and where it is looked at.

import { BACKGROUND_COLOR, OBJECT_COLOR, colorOf, css } from "./masks.js";

export class Stage {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.bitmap = null;
    this.size = [1, 1]; // of the image, height and width
    this.scale = 1; // screen pixels for a pixel of the image
    this.left = 0; // where the image's corner is on the canvas
    this.top = 0;
    this.layers = []; // see maskLayer
    this.highlights = []; // layers with a bright outline
    this.opacity = 1; // of the insides of layers, times their own
    this.cursor = null; // {at_yx, radius_px, label} of a brush
    this.shades = []; // canvases without outline: borders, the segment under the cursor
    this.prompts = [];
    this.mode = "object";
    this.colorOf = colorOf; // a label
    this.isWaiting = false;
    new ResizeObserver(() => this.resize()).observe(canvas);
  }

  setImage(bitmap, size) {
    this.bitmap?.close();
    const empty = { layers: [], highlights: [], shades: [], prompts: [], cursor: null };
    Object.assign(this, { bitmap, size, ...empty });
    this.fit();
  }

  resize() {
    const wasFitted = this.isFitted;
    const ratio = window.devicePixelRatio;
    this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * ratio));
    this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * ratio));
    if (wasFitted) this.fit();
    this.redraw();
  }

  fit() {
    const { clientWidth, clientHeight } = this.canvas;
    const [height, width] = this.size;
    this.scale = Math.max(0.01, Math.min((clientWidth - 32) / width, (clientHeight - 32) / height));
    this.left = (clientWidth - width * this.scale) / 2;
    this.top = (clientHeight - height * this.scale) / 2;
    this.isFitted = true;
    this.redraw();
  }

  // Zoom with what is under a point of the canvas staying there.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const scale = Math.min(60, Math.max(0.02, this.scale * factor));
    this.left = x - (x - this.left) * (scale / this.scale);
    this.top = y - (y - this.top) * (scale / this.scale);
    this.scale = scale;
    this.isFitted = false;
    this.redraw();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.isFitted = false;
    this.redraw();
  }

  // The pixel [row, column] under a point of the page; it may lie outside of the image.
  pixelAt({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const y = Math.floor((clientY - box.top - this.top) / this.scale);
    return [y, Math.floor((clientX - box.left - this.left) / this.scale)];
  }

  holds([y, x]) {
    return y >= 0 && x >= 0 && y < this.size[0] && x < this.size[1];
  }

  redraw() {
    if (this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      this.draw();
    });
  }

  draw() {
    const { context, canvas, bitmap, scale } = this;
    const ratio = window.devicePixelRatio;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!bitmap) return;
    context.setTransform(ratio * scale, 0, 0, ratio * scale, ratio * this.left, ratio * this.top);
    context.imageSmoothingEnabled = scale < 3;
    context.imageSmoothingQuality = "high";
    const [height, width] = this.size;
    context.drawImage(bitmap, 0, 0, width, height);
    for (const layer of this.layers) this.drawInside(layer);
    context.globalAlpha = 1;
    for (const shade of this.shades) context.drawImage(shade, 0, 0, width, height);
    for (const layer of this.layers) this.drawOutline(layer, layer.color);
    for (const layer of this.highlights) this.drawOutline(layer, [255, 255, 255], 2);
    for (const prompt of this.prompts) this.drawPrompt(prompt);
    if (this.cursor) this.drawCursor(this.cursor);
  }

  drawInside({ mask, canvas, alpha }) {
    const [y, x] = [this.size[0] / mask.height, this.size[1] / mask.width];
    this.context.globalAlpha = Math.min(1, alpha * this.opacity);
    this.context.drawImage(canvas, mask.left * x, mask.top * y, canvas.width * x, canvas.height * y);
  }

  drawOutline({ mask, path }, color, width = 1.6) {
    const { context } = this;
    context.save();
    context.scale(this.size[1] / mask.width, this.size[0] / mask.height);
    const unit = mask.width / this.size[1] / this.scale; // one screen pixel
    context.lineCap = "square";
    context.strokeStyle = "rgba(0, 0, 0, 0.55)";
    context.lineWidth = (width + 1.9) * unit;
    context.stroke(path);
    context.strokeStyle = css(color);
    context.lineWidth = width * unit;
    context.stroke(path);
    context.restore();
  }

  drawPrompt(prompt) {
    const { context } = this;
    const unit = 1 / this.scale;
    const color = css(this.colorOfPrompt(prompt.label), prompt.isPending ? 0.6 : 1);
    const points = prompt.points_yx.map(([y, x]) => [x + 0.5, y + 0.5]);
    context.lineJoin = context.lineCap = "round";
    context.beginPath();
    if (prompt.kind === "brush") {
      this.drawBrush(points, 2 * prompt.radius_px, css(this.colorOfPrompt(prompt.label), 0.55));
      return;
    }
    if (prompt.kind === "box") {
      this.drawBox(prompt.points_yx, color);
      return;
    }
    if (prompt.kind === "scribble") {
      context.moveTo(...points[0]);
      for (const point of points) context.lineTo(...point);
      context.strokeStyle = "rgba(10, 12, 15, 0.75)";
      context.lineWidth = 6 * unit;
      context.stroke();
      context.strokeStyle = color;
      context.lineWidth = 3.5 * unit;
      context.stroke();
      return;
    }
    const [[x, y]] = points;
    const radius = 6 * unit;
    if (prompt.kind === "click") context.arc(x, y, radius, 0, 2 * Math.PI);
    else context.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    context.fillStyle = color;
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = 2 * unit;
    context.stroke();
    context.strokeStyle = "rgba(10, 12, 15, 0.75)";
    context.lineWidth = unit;
    context.beginPath();
    if (prompt.kind === "click") context.arc(x, y, radius + 1.5 * unit, 0, 2 * Math.PI);
    else context.rect(x - radius - 1.5 * unit, y - radius - 1.5 * unit, 15 * unit, 15 * unit);
    context.stroke();
  }

  drawBrush(points, width, color) {
    const { context } = this;
    context.moveTo(...points[0]);
    for (const point of points) context.lineTo(...point);
    context.strokeStyle = color;
    context.lineWidth = width;
    context.stroke();
  }

  drawBox([[y0, x0], [y1, x1]], color) {
    const { context } = this;
    const [top, left] = [Math.min(y0, y1), Math.min(x0, x1)];
    context.rect(left, top, Math.abs(x1 - x0) + 1, Math.abs(y1 - y0) + 1);
    context.strokeStyle = "rgba(10, 12, 15, 0.75)";
    context.lineWidth = 4 / this.scale;
    context.stroke();
    context.setLineDash([7 / this.scale, 6 / this.scale]);
    context.strokeStyle = color;
    context.lineWidth = 2 / this.scale;
    context.stroke();
    context.setLineDash([]);
  }

  drawCursor({ at_yx: [y, x], radius_px: radius, label }) {
    const { context } = this;
    context.beginPath();
    context.arc(x + 0.5, y + 0.5, radius, 0, 2 * Math.PI);
    context.strokeStyle = "rgba(10, 12, 15, 0.75)";
    context.lineWidth = 3 / this.scale;
    context.stroke();
    context.strokeStyle = css(this.colorOfPrompt(label));
    context.lineWidth = 1.5 / this.scale;
    context.stroke();
  }

  colorOfPrompt(label) {
    if (this.mode === "labels") return this.colorOf(label);
    return label ? OBJECT_COLOR : BACKGROUND_COLOR;
  }
}
