/** Where the grid's cells are; the picture has the last row on top. */

const WIDEST = 64;
const READABLE = 34;
const TALLEST = 21;
export const LOWEST = 10;
const NARROWEST = 4;

/** Columns under this lose their labels. */
export const LABEL_WIDTH = 14;

export function columnWidth(cols: number, room: number, fit: boolean): number {
  const even = room / Math.max(cols, 1);
  return Math.min(WIDEST, Math.max(fit ? NARROWEST : READABLE, Math.floor(even * 4) / 4));
}

/** Tokens to a column where all are to fit: columns are never narrower than 4 px. */
export const binSize = (cols: number, room: number, fit: boolean): number => (fit ? Math.max(1, Math.ceil((NARROWEST * cols) / room)) : 1);

export const rowHeight = (rows: number, room: number): number =>
  Math.min(TALLEST, Math.max(LOWEST, Math.floor(room / Math.max(rows, 1))));

export interface Window {
  left: number;
  top: number;
  width: number;
  height: number;
  colW: number;
  rowH: number;
}

/** First and one past the last item visible in [start, start + length). */
export function visibleRange(start: number, length: number, size: number, count: number): [number, number] {
  return [Math.max(0, Math.floor(start / size)), Math.min(count, Math.ceil((start + length) / size))];
}

export const rowTop = (row: number, rows: number, win: Window): number =>
  (rows - 1 - row) * win.rowH - win.top;

/** The cell under a point of the window, or null beyond the grid. */
export function cellAt(x: number, y: number, rows: number, cols: number, win: Window) {
  const col = Math.floor((x + win.left) / win.colW);
  const row = rows - 1 - Math.floor((y + win.top) / win.rowH);
  return col >= 0 && col < cols && row >= 0 && row < rows ? { row, col } : null;
}
