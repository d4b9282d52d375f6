/** A whole prompt on a narrow strip: which value each of its pixels shows, and where a brush over it may stand. */

import type { Field } from "./stream";

export const TALLEST_MAP = 32;

/** Rows of pixels: one a layer, or of a deeper model several layers to one. */
export const mapHeight = (rows: number): number => Math.ceil(rows / Math.ceil(rows / TALLEST_MAP));

/** The values of `width` by `height` pixels, the last row on top: of all cells under a pixel the one farthest from zero, attention sinks left out; NaN where nothing else is. */
export function mapValues({ rows, cols, values, sink }: Field, width: number, height = mapHeight(rows)): Float32Array {
  const shown = new Float32Array(width * height).fill(NaN);
  for (let row = 0; row < rows; row++) {
    const line = (height - 1 - Math.floor((row * height) / rows)) * width;
    for (let x = 0; x < width; x++) {
      const end = Math.max(Math.floor(((x + 1) * cols) / width), Math.floor((x * cols) / width) + 1);
      for (let cell = row * cols + Math.floor((x * cols) / width); cell < row * cols + end; cell++) {
        if (sink[cell] || Number.isNaN(values[cell])) continue;
        if (!(Math.abs(values[cell]) <= Math.abs(shown[line + x]))) shown[line + x] = values[cell];
      }
    }
  }
  return shown;
}

/** Where the view is to begin so that it stands about a point of the map, all of these in pixels of the whole. */
export function brushed(at: number, view: number, full: number): number {
  return Math.min(Math.max(0, full - view), Math.max(0, at - view / 2));
}

/** Where a key takes the view; null for a key that is not the map's. */
export function keyed(key: string, left: number, { view, full, step }: { view: number; full: number; step: number }): number | null {
  const end = Math.max(0, full - view);
  const page = Math.max(step, view - step);
  const to: Record<string, number> = {
    ArrowLeft: left - step, ArrowDown: left - step, ArrowRight: left + step, ArrowUp: left + step,
    PageUp: left - page, PageDown: left + page, Home: 0, End: end,
  };
  return key in to ? Math.min(end, Math.max(0, to[key])) : null;
}
