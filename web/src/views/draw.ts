/** The grid's drawing: plain functions from typed arrays to a canvas, visible cells only. */

import type { Diverging, Paint } from "../lib/color";
import { inCell, visible, type ValueUnit } from "../lib/format";
import { rowTop, visibleRange, type Window } from "../lib/geometry";
import { saidAt, scaleAt, type Field } from "../lib/stream";
import { newCanvas, sharpness } from "../root/host";
import { paint } from "./kinds/scene";
import { cell, lookOf, signed } from "./look";

/** A canvas as large as its window in device pixels, cleared, counting in CSS pixels. */
export function prepare(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D | null {
  const ratio = sharpness();
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context?.setTransform(ratio, 0, 0, ratio, 0, 0);
  context?.clearRect(0, 0, width, height);
  return context;
}

/** The colours of a field. */
export const rampOf = (paint: Paint, { sequential }: Pick<Field, "sequential">): Diverging => (sequential ? paint.sequential : paint.diverging);

/** A token in a cell: the space before a word is left out there. */
const inside = (text: string): string => visible(text.trim() || text);
const DOTS = "…";
/** A text cut to a width. */
function cut(g: CanvasRenderingContext2D, text: string, width: number): string {
  if (g.measureText(text).width <= width) return text;
  const characters = [...text];
  while (characters.length > 1 && g.measureText(characters.join("") + DOTS).width > width) characters.pop();
  return characters.join("") + DOTS;
}

export function drawCells(
  g: CanvasRenderingContext2D,
  field: Field,
  win: Window,
  palette: Paint,
  numbers: ValueUnit | null,
): void {
  const { rows, cols, values, sink } = field;
  const { colW, rowH } = win;
  const [c0, c1] = visibleRange(win.left, win.width, colW, cols);
  const [top, bottom] = visibleRange(win.top, win.height, rowH, rows);
  const gap = colW >= 8 ? 1 : 0;
  const tick = Math.min(6, colW / 3, rowH / 2);
  const ramp = rampOf(palette, field);
  const texts = (numbers !== null || !!field.texts) && colW >= 26 && rowH >= 12;
  g.font = '9.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace';
  g.textAlign = "center";
  g.textBaseline = "middle";
  paintCells(g, field, win, palette, [c0, c1], [rows - bottom, rows - top]);
  for (let row = rows - bottom; row < rows - top; row++) {
    const y = rowTop(row, rows, win) + 0.5;
    const scale = scaleAt(field, row);
    const colours = signed(ramp, scale);
    for (let col = c0; col < c1; col++) {
      const i = row * cols + col;
      const value = values[i];
      if (!sink[i] && !texts && !Number.isNaN(value) && !colours.clipped(value)) continue;
      const look = lookOf(value, colours, !!sink[i]);
      const box = { x: col * colW - win.left + gap / 2, y, w: colW - gap, h: rowH - 1 };
      if (look.state === "sink") g.clearRect(box.x - 0.5, y - 0.5, box.w + 1, box.h + 1);
      paint(g, cell(box, look, { tick, unknown: texts ? undefined : { dot: palette.text3 }, through: true, bare: true }));
      if (texts) {
        g.fillStyle = sink[i] ? palette.text : ramp.inkFor(value, scale);
        const text = numbers === null || Number.isNaN(value) ? inside(field.texts?.[i] ?? " ") : inCell(saidAt(field, i), numbers);
        g.fillText(field.texts && numbers === null ? cut(g, text, box.w - 2) : text, box.x + box.w / 2, y + box.h / 2 + 0.5, box.w);
      }
    }
  }
}

const small = { canvas: null as HTMLCanvasElement | null, image: null as ImageData | null };

/** The cells' colours: one pixel each, drawn once at the cells' size, with the gaps cut out after. */
function paintCells(g: CanvasRenderingContext2D, field: Field, win: Window, paint: Paint, [c0, c1]: [number, number], [r0, r1]: [number, number]): void {
  const { cols, values } = field;
  const ramp = rampOf(paint, field);
  const [w, h] = [c1 - c0, r1 - r0];
  if (w <= 0 || h <= 0) return;
  const canvas = (small.canvas ??= newCanvas());
  if (canvas.width !== w || canvas.height !== h || !small.image) {
    [canvas.width, canvas.height] = [w, h];
    small.image = new ImageData(w, h);
  }
  const pixels = new Uint32Array(small.image.data.buffer);
  for (let row = r0, at = 0; row < r1; row++) {
    const line = (r1 - 1 - row) * w; // the last row on top
    at = row * cols + c0;
    const scale = scaleAt(field, row);
    for (let x = 0; x < w; x++, at++) pixels[line + x] = ramp.pixel(values[at], scale);
  }
  canvas.getContext("2d")?.putImageData(small.image, 0, 0);
  const { colW, rowH } = win;
  const [left, top] = [c0 * colW - win.left, rowTop(r1 - 1, field.rows, win)];
  g.imageSmoothingEnabled = false;
  g.drawImage(canvas, left, top, w * colW, h * rowH);
  for (let row = 0; row <= h; row++) g.clearRect(left, top + row * rowH - 0.5, w * colW, 1);
  if (colW >= 8) for (let col = 0; col <= w; col++) g.clearRect(left + col * colW - 0.5, top, 1, h * rowH);
}

/** A map's values, a pixel each; nothing where there is none. */
export function drawMap(g: CanvasRenderingContext2D, values: Float32Array, w: number, h: number, scale: number, colours: Diverging): void {
  const canvas = newCanvas();
  [canvas.width, canvas.height] = [w, h];
  const image = new ImageData(w, h);
  const pixels = new Uint32Array(image.data.buffer);
  values.forEach((value, i) => (pixels[i] = Number.isNaN(value) ? 0 : colours.pixel(value, scale)));
  canvas.getContext("2d")?.putImageData(image, 0, 0);
  g.imageSmoothingEnabled = false;
  g.drawImage(canvas, 0, 0, w, h);
}

interface At {
  row: number;
  col: number;
}

/** Lights the pointed row and column, and frames the pointed and the locked cell. */
export function drawMarks(
  g: CanvasRenderingContext2D,
  field: { rows: number; cols: number },
  win: Window,
  paint: Paint,
  pointed: At,
  locked: At,
): void {
  const { colW, rowH } = win;
  const box = ({ row, col }: At, inset: number, line: number) => {
    g.lineWidth = line;
    const [x, y] = [col * colW - win.left, rowTop(row, field.rows, win)];
    g.strokeRect(x + inset, y + inset, colW - 2 * inset, rowH - 2 * inset);
  };
  g.strokeStyle = paint.text;
  g.globalAlpha = 0.24;
  const [c0, c1] = visibleRange(win.left, win.width, colW, field.cols);
  if (colW >= 8) {
    for (let col = c0; col < c1; col++) if (col !== pointed.col) box({ row: pointed.row, col }, 1, 1);
    for (let row = 0; row < field.rows; row++) if (row !== pointed.row) box({ row, col: pointed.col }, 1, 1);
  } else {
    g.lineWidth = 1;
    g.strokeRect(0, rowTop(pointed.row, field.rows, win), win.width, rowH);
    g.strokeRect(pointed.col * colW - win.left, 0, colW, win.height);
  }
  g.globalAlpha = 1;
  if (pointed.row !== locked.row || pointed.col !== locked.col) box(pointed, 0.75, 1.5);
  box(locked, 1, 2);
}

/** Under each column, its values from the embedding (left) to the last layer (right). */
export function drawSparks(g: CanvasRenderingContext2D, field: Field, win: Window, paint: Paint): void {
  const { rows, cols, values, scale } = field;
  const [c0, c1] = visibleRange(win.left, win.width, win.colW, cols);
  const middle = win.height / 2;
  const y = (value: number) => middle - Math.max(-1, Math.min(1, value / scale)) * (middle - 1);
  for (let col = c0; col < c1; col++) {
    const left = col * win.colW - win.left + 1;
    const step = (win.colW - 2) / Math.max(rows - 1, 1);
    const trace = (line: (row: number) => number) => {
      for (let row = 0; row < rows; row++)
        if (!Number.isNaN(values[row * cols + col])) g.lineTo(left + row * step, line(row));
    };
    for (const sign of [1, -1]) {
      g.beginPath();
      g.moveTo(left, middle);
      trace((row) => y(sign * Math.max(0, sign * values[row * cols + col])));
      g.lineTo(left + (rows - 1) * step, middle);
      g.fillStyle = rampOf(paint, field).color(sign * 0.5, 1);
      g.fill();
    }
    g.beginPath();
    trace((row) => y(values[row * cols + col]));
    g.strokeStyle = paint.text;
    g.lineWidth = 1;
    g.stroke();
    g.fillStyle = paint.line2;
    g.fillRect(left, middle - 0.375, win.colW - 2, 0.75);
  }
}
