import { visible } from "../../lib/tokens";
import { cell, lookOf } from "../look";
import type { Kind } from "./kinds";
import { colourBar, LEGEND_HEIGHT } from "./legend";
import { fit, known, measure, number, signedNumber } from "./numbers";
import { colorScale, type Palette } from "./palette";
import type { ContextsView, ContextView, Value } from "./plain";
import { said } from "./savers";
import type { Box, Mark } from "./scene";

const LINE = 24;
const SIZE = 12;
const TOLD = 11;
const PAD = 14;
/** Tokens of a line after the one it is about, where there is room for both sides. */
const AFTER = 6;

/** Of one line the tokens that have room, those around `at` first. */
export function inSight(widths: number[], at: number | null, room: number): [number, number] {
  let first = at ?? 0;
  let last = first;
  let taken = widths[first] ?? 0;
  const near = Math.min(widths.length, last + 1 + AFTER);
  const upTo = (from: number, to: number): number[] => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
  for (const i of [...upTo(last + 1, near), ...upTo(0, first).reverse(), ...upTo(near, widths.length)]) {
    if ((i !== first - 1 && i !== last + 1) || taken + widths[i] > room) continue;
    [first, last, taken] = [Math.min(first, i), Math.max(last, i), taken + widths[i]];
  }
  return [first, widths.length ? last : -1];
}

function columns(view: ContextsView, room: number): number[] {
  const texts = view.columns.map((name, c) => [name, ...view.rows.map((row) => said(row.cells[c]))]);
  const wanted = texts.map((column) => column.reduce((most, text) => Math.max(most, measure(text, TOLD, false)), 0) + PAD);
  const all = wanted.reduce((sum, w) => sum + w, 0);
  return all <= room ? wanted : wanted.map((w) => (w * room) / all);
}

interface Item {
  row: number;
  token: number;
  box: Box;
}

export const contexts: Kind<ContextsView> = {
  about: (view) => `${view.rows.length} lines of text, each token coloured by its value`,
  empty: (view) => !view.rows.some((row) => row.tokens.length),
  notes: (view) => [view.note],
  draw(view, width, palette) {
    const scale = colorScale(view.rows.flatMap((row) => row.values), view.scale, view.limit, palette);
    const room = Math.max(200, Math.min(width, 1100));
    const widths = columns(view, 0.58 * room);
    const edges = [0];
    for (const w of widths) edges.push(edges.at(-1)! + w);
    const left = edges.at(-1)!;
    const marks: Mark[] = view.columns.map((name, c) => told(name, edges[c + 1] - PAD, 18, widths[c], palette.text3));
    const dense: Mark[] = [];
    const items: Item[] = [];
    view.rows.forEach((row, r) => {
      const y = LEGEND_HEIGHT + r * LINE;
      row.cells.forEach((value, c) => marks.push(told(said(value), edges[c + 1] - PAD, y + 14, widths[c], palette.text)));
      for (const { token, text, x, w } of placed(row, room - left)) {
        const box = { x: left + x, y, w, h: LINE - 4 };
        const look = lookOf(row.values[token], scale);
        dense.push(...cell(box, look, { tick: 5, unknown: { fill: palette.sunken, stroke: palette.line2 }, title: wordsOf(view, row, token) }));
        marks.push({ kind: "text", x: box.x, y: y + 14, text, fill: look.ink || palette.text, size: SIZE, anchor: "start", mono: true });
        if (token === row.at) marks.push({ kind: "rect", x: box.x, y: y + LINE - 4, w, h: 2, fill: palette.text });
        items.push({ row: r, token, box });
      }
    });
    marks.push(...colourBar(scale, view.unit, room, palette));
    return {
      width: room, height: LEGEND_HEIGHT + LINE * view.rows.length, dense, marks,
      reader: {
        count: items.length,
        at(px, py) {
          const i = items.findIndex(({ box }) => px >= box.x && px < box.x + box.w && py >= box.y && py < box.y + LINE);
          return i < 0 ? null : i;
        },
        box: (i) => items[i].box,
        words: (i) => {
          const { row, token } = items[i];
          const line = view.rows[row];
          return { head: visible(line.tokens[token]), value: valueOf(view, line, token), more: view.columns.map((name, c) => `${name}: ${said(line.cells[c])}`) };
        },
        step(i, dx, dy) {
          if (!dy) return Math.max(0, Math.min(items.length - 1, i + dx));
          const from = items[i].box;
          const near = items.map(({ row, box }, k) => ({ row, k, away: Math.abs(box.x + box.w / 2 - from.x - from.w / 2) })).filter(({ row }) => row === items[i].row + dy);
          return near.length ? near.reduce((a, b) => (b.away < a.away ? b : a)).k : i;
        },
      },
    };
  },
  table: (view) => ({
    columns: [...view.columns, "text", "about"],
    rows: view.rows.map((row) => [...row.cells, row.tokens.map(visible).join(""), row.at === null ? null : visible(row.tokens[row.at] ?? "")]),
  }),
  file: (view) => ({
    columns: ["line", ...view.columns, "token", "text", view.unit || "value", "about"],
    rows: view.rows.flatMap((row, r) => row.tokens.map((token, i): Value[] => [r, ...row.cells, i, JSON.stringify(token), row.values[i], i === row.at])),
  }),
};

const told = (text: string, right: number, y: number, width: number, fill: Palette["text"]): Mark => {
  const shown = fit(text, width - PAD + 1, TOLD, false);
  return { kind: "text", x: right, y, text: shown, fill, size: TOLD, anchor: "end", title: shown === text ? undefined : text };
};

function placed(row: ContextView, room: number): { token: number; text: string; x: number; w: number }[] {
  const texts = row.tokens.map((token) => fit(visible(token), 240, SIZE, true));
  const widths = texts.map((text) => measure(text, SIZE, true));
  const [first, last] = inSight(widths, row.at, room);
  let x = 0;
  return texts.slice(first, last + 1).map((text, i) => {
    const w = widths[first + i];
    x += w;
    return { token: first + i, text, x: x - w, w };
  });
}

function valueOf(view: ContextsView, row: ContextView, token: number): string {
  const value = row.values[token];
  const text = view.scale === "diverging" ? signedNumber(value) : number(value);
  return text + (view.unit && known(value) ? ` ${view.unit}` : "");
}

const wordsOf = (view: ContextsView, row: ContextView, token: number): string => `${visible(row.tokens[token])}: ${valueOf(view, row, token)}`;
