/** The open layer's drawing as marks: on screen, and in a file. */

import { FLOW_BOX, type FlowLayout, type FlowNode } from "../lib/mapFlow";
import type { SiteRow } from "../lib/map";
import { plain } from "../lib/tokens";
import { fit, measure, number } from "./kinds/numbers";
import type { Palette } from "./kinds/palette";
import type { Mark, TextMark } from "./kinds/scene";

/** Whose values are shown. */
export interface FlowOf {
  /** Null: the MLP is selected, and all heads together are shown. */
  head: number | null;
  /** How many heads read one KV head. */
  group: number;
  tokens: string[];
}

const [NAME, SMALL] = [9.5, 8.5];
/** More heads than this are not drawn one by one. */
const MOST_HEADS = 32;
const DIGITS = 3;

/** Which head of a step belongs to the selected one: with fewer keys and values than queries, that of its group. */
export function headOf(row: SiteRow, { head, group }: FlowOf): number | null {
  if (head === null) return null;
  return "kv_head" in row.shape ? Math.floor(head / group) : "head" in row.shape ? head : null;
}

/** What stands at a step: a length, or the largest value and where it is. */
export function valueOf(row: SiteRow, of: FlowOf): string {
  const head = headOf(row, of);
  const byHead = "head" in row.shape || "kv_head" in row.shape;
  if (byHead && head === null) return row.norm === null ? "" : number(row.norm, DIGITS);
  const i = head ?? 0;
  const value = row.values[i];
  if (value === undefined) return "";
  const at = row.where?.[i];
  return at === undefined ? number(value, DIGITS) : `${number(value, DIGITS)} ${"key" in row.shape ? (plain(of.tokens[at] ?? "") || `at ${at}`) : `e${at}`}`;
}

/** `16 × 9 × 64`; the names of its axes are said where there is room. */
export const sizes = (row: SiteRow): string => Object.values(row.shape).join("×");
export const axes = (row: SiteRow): string => Object.entries(row.shape).map(([axis, size]) => `${axis} ${size}`).join(" × ") || "pos";

/** Which heads share what stands at a step with the selected one: `KV 1 · heads 3–5`. */
export function shares(row: SiteRow, of: FlowOf): string {
  const { group } = of;
  const kv = headOf(row, of);
  if (!("kv_head" in row.shape) || kv === null || group <= 1) return "";
  return `KV ${kv} · heads ${kv * group}–${(kv + 1) * group - 1}`;
}

export function flowMarks(layout: FlowLayout, of: FlowOf, palette: Palette): Mark[] {
  const { stream } = layout;
  const marks: Mark[] = [
    { kind: "path", d: `M${stream.x} ${stream.from}V${stream.to}`, stroke: palette.line2, width: 5 },
    { kind: "path", d: `M${stream.x - 4.5} ${stream.to + 7}L${stream.x} ${stream.to}L${stream.x + 4.5} ${stream.to + 7}z`, fill: palette.text2 },
    ...layout.lines.map(({ d, writes }): Mark => ({ kind: "path", d, stroke: writes ? palette.text2 : palette.text3, width: writes ? 1.5 : 1 })),
  ];
  for (const y of layout.sums) {
    marks.push({ kind: "circle", x: stream.x, y, r: 5, fill: palette.surface, stroke: palette.text2, opacity: 1 });
    marks.push({ kind: "path", d: `M${stream.x - 3} ${y}h6M${stream.x} ${y - 3}v6`, stroke: palette.text2 });
  }
  for (const node of layout.nodes) step(marks, node, layout, of, palette);
  return marks;
}

const word = (x: number, y: number, text: string, fill: string, more: Partial<TextMark> = {}): Mark => ({ kind: "text", x, y, text, fill, size: SMALL, anchor: "start", mono: true, ...more });

/** A step's width: those on the stream's line have that column. */
export const widthOf = ({ x }: FlowNode, { box, stream }: FlowLayout): number => (x === 0 ? 2 * stream.x : box.w);

function step(marks: Mark[], node: FlowNode, layout: FlowLayout, of: FlowOf, palette: Palette): void {
  const { row, x, y } = node;
  const [w, h] = [widthOf(node, layout), layout.box.h];
  const fill = row.site ? palette.surface : palette.sunken;
  marks.push({ kind: "rect", x, y, w, h, fill, title: `${row.place}: ${row.about}` });
  marks.push({ kind: "path", d: `M${x + 0.5} ${y + 0.5}h${w - 1}v${h - 1}h${1 - w}z`, stroke: palette.line2, dash: row.site ? "" : "3 2" });
  const room = w - 8;
  const value = fit(valueOf(row, of), room, SMALL, true);
  const strip = headsOf(row);
  const strips = strip && strip <= MOST_HEADS ? strip * 4 + 4 : 0;
  marks.push(word(x + 4, y + 11, fit(row.place, room, NAME, true), palette.text, { bold: true, size: NAME, title: row.place }));
  if (strips && measure(row.place, NAME, true) * 1.05 + strips + 6 <= room) heads(marks, row, of, x + w - 4 - strip * 4, y + 5, palette);
  const lines = h > FLOW_BOX ? wrapped(row.equation, room) : [fit(row.equation, room, SMALL, true)];
  lines.forEach((line, i) => marks.push(word(x + 4, y + 23 + 11 * i, line, palette.text2, { title: row.equation })));
  const foot = y + h - 5;
  marks.push(word(x + w - 4, foot, value, palette.text, { anchor: "end", bold: true }));
  const left = room - measure(value, SMALL, true) * 1.08 - 6;
  if (left >= 24) marks.push(word(x + 4, foot, fit(row.site ? sizes(row) : `${sizes(row)} experts`, left, SMALL, true), palette.text3, { title: axes(row) }));
}

/** An equation in two lines, the second cut where it must be. */
function wrapped(equation: string, room: number): string[] {
  const words = equation.split(" ");
  let n = words.length;
  while (n > 1 && measure(words.slice(0, n).join(" "), SMALL, true) > room) n--;
  return [words.slice(0, n).join(" "), words.slice(n).join(" ")].filter(Boolean).map((line) => fit(line, room, SMALL, true));
}

const headsOf = ({ shape }: SiteRow): number => shape.head ?? shape.kv_head ?? 0;

/** A step's heads as squares: the selected one filled, those of its group ringed. */
function heads(marks: Mark[], row: SiteRow, of: FlowOf, x: number, y: number, palette: Palette): void {
  const mine = headOf(row, of);
  const { group } = of;
  for (let i = 0; i < headsOf(row); i++) {
    const mate = "head" in row.shape && of.head !== null && Math.floor(i / group) === Math.floor(of.head / group);
    const fill = i === mine ? palette.text : mate ? palette.text3 : palette.line2;
    marks.push({ kind: "rect", x: x + i * 4, y, w: 3, h: 5, fill });
  }
}
