/** What a view is as a file: its picture, and its numbers. */

import { asLabel } from "../../lib/tokens";

import { fit, measure, number } from "./numbers";
import { readPalette, type Palette } from "./palette";
import type { Value } from "./plain";
import { svgFile, type Mark, type Scene } from "./scene";
import type { Drawing } from "../saved";
import type { Sheet } from "./sheet";

/** A value in a table or a card. */
export function said(value: Value): string {
  if (typeof value === "number") return number(value);
  if (value === null) return "–";
  return typeof value === "boolean" ? (value ? "yes" : "no") : asLabel(value);
}

/** A column is of numbers if its first known cell is one. */
export const isNumeric = ({ rows }: Sheet, column: number): boolean => typeof rows.find((row) => row[column] !== null)?.[column] === "number";

export function drawingOf(title: string, notes: string[], root: Element, sheet: () => Sheet, draw: (palette: Palette) => Scene): Drawing {
  const lines = notes.filter(Boolean);
  return {
    title, notes: lines, sheet,
    svg: () => {
      const palette = readPalette(root);
      return svgFile(draw(palette), title, lines, palette);
    },
  };
}

const ROW = 19;
const WIDEST = 280;
const MOST_ROWS = 400;

/** A table as a picture; of a very long one, the beginning. */
export function sheetScene(sheet: Sheet, palette: Palette): Scene {
  const rows = sheet.rows.slice(0, MOST_ROWS);
  const marks: Mark[] = [];
  let x = 0;
  sheet.columns.forEach((name, c) => {
    const right = isNumeric(sheet, c);
    const cells = [name ? asLabel(name) : "", ...rows.map((row) => said(row[c]))].map((text) => fit(text, WIDEST, 11, right));
    const width = Math.max(...cells.map((text) => measure(text, 11, right)), 8);
    cells.forEach((text, r) =>
      marks.push({
        kind: "text", x: right ? x + width : x, y: r * ROW + 12, text, fill: r ? palette.text : palette.text2, size: 11,
        anchor: right ? "end" : "start", mono: right && r > 0,
      }),
    );
    x += width + 16;
  });
  const width = Math.max(40, x - 16);
  for (let r = 0; r <= rows.length; r++) marks.push({ kind: "path", d: `M0 ${(r + 1) * ROW - 1.5}H${width}`, stroke: r ? palette.line : palette.line2 });
  const left = sheet.rows.length - rows.length;
  if (left) marks.push({ kind: "text", x: 0, y: (rows.length + 1) * ROW + 12, text: `${left} more rows are in the CSV`, fill: palette.text3, size: 11, anchor: "start" });
  const reader = { count: 0, at: () => null, box: () => ({ x: 0, y: 0, w: 0, h: 0 }), words: () => ({ head: "", value: "" }), step: (i: number) => i };
  return { width, height: (rows.length + (left ? 2 : 1)) * ROW, dense: [], marks, reader };
}
