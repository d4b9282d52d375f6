/** Rows by columns of colour: the common part of heat map and attention pattern. */

import { sharpness } from "../../root/host";
import { colourBar, LEGEND_HEIGHT } from "./legend";
import { asLabel } from "../../lib/tokens";
import { fit, known, measure, roundUp, type Maybe } from "./numbers";
import type { ColorScale, Palette } from "./palette";
import { cell, lookOf } from "../look";
import type { Box, Mark, Scene, Words } from "./scene";

export interface Matrix {
  /** From the top down. */
  values: Maybe[][];
  rows: string[];
  columns: string[];
  rowTitle: string;
  columnTitle: string;
  unit: string;
  scale: ColorScale;
  /** What stands in a cell, if it fits. */
  inside(row: number, column: number): string;
  words(row: number, column: number): Words;
  framed: [number, number][];
  square: boolean;
  /** Cells no narrower than this; a map that is then too wide scrolls. */
  least?: number;
  /** Cells that are no part of it. */
  blank?(row: number, column: number): boolean;
}

const SIZE = 10;
const UP_ROOM = 84;
const READABLE = 40;
const LINE = 11;
const NARROWEST = 4;
const MOST_PIXELS = 15_000;

interface Heads {
  up: boolean;
  every: number;
  height: number;
  room: number;
}

/** How the columns' names fit above cells of that width: level, upright, or only some of them. */
export function headsFor(labels: string[], width: number): Heads {
  const longest = labels.reduce((most, label) => Math.max(most, measure(label, SIZE, true)), 0);
  const numeric = labels.every((label) => /^[−\-\d.]*$/.test(label));
  const level = { up: false, height: 15 };
  if (longest <= width - 3) return { ...level, every: 1, room: width };
  if (numeric) return { ...level, every: roundUp((longest + 8) / width), room: longest + 1 };
  const cut = labels.map((label) => fit(label, width - 3, SIZE, true));
  if (width >= READABLE && new Set(cut).size === new Set(labels).size) return { ...level, every: 1, room: width - 3 }; // cut short, and still told apart
  return { up: true, every: roundUp(LINE / width), height: Math.min(UP_ROOM, longest) + 6, room: UP_ROOM };
}

function cellSize(matrix: Matrix, room: number): [number, number] {
  const [rows, columns] = [matrix.rows.length, matrix.columns.length];
  const pixels = MOST_PIXELS / sharpness();
  const least = Math.min(matrix.least ?? NARROWEST, pixels / columns);
  if (matrix.square) {
    const side = Math.max(least, Math.min(20, Math.floor((4 * room) / columns) / 4));
    return [side, side];
  }
  const width = Math.max(least, Math.min(52, Math.floor((4 * room) / columns) / 4));
  return [width, Math.max(Math.min(NARROWEST, pixels / rows), Math.min(18, Math.floor(540 / rows)))];
}

export function drawMatrix(matrix: Matrix, width: number, palette: Palette): Scene {
  const { values, scale } = matrix;
  const rowNames = matrix.rows.map(asLabel);
  const columnNames = matrix.columns.map(asLabel);
  const widest = Math.min(Math.max(120, width * 0.2), Math.max(...rowNames.map((name) => measure(name, SIZE, true)), 18));
  const titles = Math.max(measure(matrix.rowTitle, SIZE, false), measure(matrix.columnTitle, SIZE, false));
  const left = Math.ceil(Math.max(widest, Math.min(titles, 120))) + 8;
  const [w, h] = cellSize(matrix, width - left - 2);
  const heads = headsFor(columnNames, w);
  // an upright last label, or a level one wider than its cell, may reach past the grid
  const beyond = heads.every > 1 && !heads.up ? heads.room / 2 : 2;
  const titled = matrix.columnTitle || matrix.rowTitle ? 14 : 0;
  const top = LEGEND_HEIGHT + Math.max(heads.height, titled * 2);
  const [gridW, gridH] = [w * columnNames.length, h * rowNames.length];
  const dense: Mark[] = [];
  const marks: Mark[] = colourBar(scale, matrix.unit, Math.max(Math.min(width, left + gridW), left + 60), palette);
  const gap = w >= 8 && h >= 8 ? 1 : 0;

  values.forEach((row, r) =>
    row.forEach((value, c) => {
      if (matrix.blank?.(r, c)) return;
      written(dense, { x: left + c * w, y: top + r * h, w: w - gap, h: h - gap }, value, matrix, palette, r, c, marks);
    }),
  );
  for (const [r, c] of matrix.framed)
    marks.push({ kind: "path", d: `M${left + c * w + 0.5} ${top + r * h + 0.5}h${w - gap - 1}v${h - gap - 1}h${1 + gap - w}z`, stroke: palette.text, width: 1.5 });

  columnNames.forEach((name, c) => {
    if (c % heads.every) return;
    const text = fit(name, heads.room, SIZE, true);
    const x = left + (c + 0.5) * w;
    marks.push({
      kind: "text", x: heads.up ? x + 3.5 : x, y: top - 5, text, fill: palette.text2, size: SIZE, mono: true,
      anchor: heads.up ? "start" : "middle", up: heads.up, title: text === name ? undefined : name,
    });
  });
  const everyRow = roundUp(LINE / h);
  rowNames.forEach((name, r) => {
    if (r % everyRow) return;
    const text = fit(name, left - 8, SIZE, true);
    marks.push({
      kind: "text", x: left - 6, y: top + (r + 0.5) * h + 3.5, text, fill: palette.text2, size: SIZE, mono: true, anchor: "end",
      title: text === name ? undefined : name,
    });
  });
  for (const [i, title] of [matrix.columnTitle, matrix.rowTitle].entries())
    if (title)
      marks.push({ kind: "text", x: left - 6, y: top - 17 + 12 * i, text: fit(title, left - 8, SIZE, false), fill: palette.text3, size: SIZE, anchor: "end", title });

  const columns = columnNames.length;
  return {
    width: Math.max(left + gridW + beyond, left + 60), height: top + gridH + 2, dense, marks,
    reader: {
      count: columns * rowNames.length,
      at(x, y) {
        const [c, r] = [Math.floor((x - left) / w), Math.floor((y - top) / h)];
        const inside = c >= 0 && c < columns && r >= 0 && r < rowNames.length && !matrix.blank?.(r, c);
        return inside ? r * columns + c : null;
      },
      box: (i) => ({ x: left + (i % columns) * w, y: top + Math.floor(i / columns) * h, w: w - gap, h: h - gap }),
      words: (i) => matrix.words(Math.floor(i / columns), i % columns),
      step(i, dx, dy) {
        const c = Math.max(0, Math.min(columns - 1, (i % columns) + dx));
        const r = Math.max(0, Math.min(rowNames.length - 1, Math.floor(i / columns) + dy));
        return matrix.blank?.(r, c) ? i : r * columns + c;
      },
      lights: (i) => [
        { x: 0, y: top + Math.floor(i / columns) * h, w: left + gridW, h: h - gap },
        { x: left + (i % columns) * w, y: LEGEND_HEIGHT - 6, w: w - gap, h: top + gridH - LEGEND_HEIGHT + 6 },
      ],
    },
  };
}

function written(
  dense: Mark[], box: Box, value: Maybe, matrix: Matrix, palette: Palette, r: number, c: number, marks: Mark[],
): void {
  const { x, y, w, h } = box;
  const title = `${asLabel(matrix.rows[r])}, ${asLabel(matrix.columns[c])}: ${known(value) ? value : "not known"}`;
  const look = lookOf(value, matrix.scale);
  dense.push(...cell(box, look, { tick: Math.min(6, w / 3, h / 2), unknown: { fill: palette.sunken, stroke: palette.line2 }, title }));
  if (look.state === "unknown" || w < 22 || h < 12) return;
  const inside = matrix.inside(r, c);
  const text = fit(inside, w - 2, 9.5, true);
  if (text !== inside && /^[−\d.]+$/.test(inside)) return; // half a number is another number
  if (text) marks.push({ kind: "text", x: x + w / 2, y: y + h / 2 + 3.5, text, fill: look.ink, size: 9.5, anchor: "middle", mono: true });
}
