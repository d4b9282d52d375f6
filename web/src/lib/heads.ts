/** All heads by a measure, and one pattern token by token. */

import type { HeatMapView, ScatterView } from "../views/kinds/plain";
import { nodeName, type Node, type Tint } from "./map";
import { visible } from "./tokens";

/** What every head has a number of. */
export interface Measure {
  id: string;
  label: string;
  unit: "logits" | "share";
  about: string;
}

const SCORES: [string, string][] = [
  ["previous-token", "attention to the token before"],
  ["current-token", "attention to the token itself"],
  ["first-token", "attention to the first token"],
  ["duplicate-token", "attention to the same token, earlier"],
  ["induction", "attention to the token after the same one, earlier"],
];

export const MEASURES: Measure[] = [
  { id: "direct", label: "Direct logit attribution", unit: "logits", about: "what each writes of the logit difference by itself" },
  { id: "ablation", label: "Effect if zero-ablated", unit: "logits", about: "change of the logit difference without it; below zero: it helped. Of the prompt without edits" },
  { id: "attention", label: "Attention to a token", unit: "share", about: "from the position where the answer is read" },
  { id: "copying", label: "Copying score", unit: "share", about: "by weights: whether it raises the very token that it looks at, from −1 to 1" },
  ...SCORES.map(([id, about]): Measure => ({ id, label: `Score: ${id}`, unit: "share", about: `${about}; on repeated random tokens, without edits` })),
];

export const measureOf = (id: string): Measure => MEASURES.find((one) => one.id === id) ?? MEASURES[0];

const known = (value: number | undefined): number | null => (value === undefined || Number.isNaN(value) ? null : value);

/** Layers by heads, the MLP beyond the last head. limit: of the full colour. */
export function headMap({ heads, mlp }: Tint, width: number, { title, unit, limit }: { title: string; unit: string; limit: number }): HeatMapView {
  const layers = heads.length / width;
  const columns = [...Array(width).keys()].map(String);
  const values = Array.from({ length: layers }, (_, layer) => [...Array.from(heads.subarray(layer * width, (layer + 1) * width), known), ...(mlp ? [known(mlp[layer])] : [])]);
  return {
    kind: "heat_map", values, rows: values.map((_, layer) => String(layer)), columns: mlp ? [...columns, "mlp"] : columns, title, row_title: "layer", column_title: "head", unit,
    scale: unit === "share" && heads.every((value) => !(value < 0)) ? "sequential" : "diverging", limit, low: null, high: null, marks: [], note: "", texts: null, bottom_up: true,
  };
}

/** Where a head, or an MLP, stands among the values of `headMap`; and back. */
export const cellOf = ({ layer, head }: Node, layers: number, width: number, mlp: boolean): number => (layers - 1 - layer) * (mlp ? width + 1 : width) + (head ?? width);
export function nodeAt(cell: number, layers: number, width: number, mlp: boolean): Node {
  const columns = mlp ? width + 1 : width;
  const head = cell % columns;
  return { layer: layers - 1 - Math.floor(cell / columns), head: head === width ? null : head };
}

/** Every head by two measures; the points are in the order of layers and heads. */
export function headScatter(x: Float32Array, y: Float32Array, width: number, [of, by]: [Measure, Measure], picked: readonly Node[]): ScatterView {
  return {
    kind: "scatter", x: Array.from(x, known), y: Array.from(y, known), groups: null, texts: Array.from(x, (_, i) => nodeName({ layer: Math.floor(i / width), head: i % width })),
    diagonal: false, title: "Every head", x_title: `${of.label}, ${of.unit}`, y_title: `${by.label}, ${by.unit}`, unit: "", references: [], note: "",
    emphasis: picked.flatMap(({ layer, head }) => (head === null ? [] : [layer * width + head])),
  };
}

export interface Found {
  node: Node;
  weight: number;
}

/** The heads that look most from one position at a token; looks: [layer, head, key]. */
export function lookers(looks: Float32Array, keys: number, width: number, key: number, n: number): Found[] {
  const all = Array.from({ length: looks.length / keys }, (_, i) => ({ node: { layer: Math.floor(i / width), head: i % width }, weight: looks[i * keys + key] }));
  return all.sort((a, b) => b.weight - a.weight).slice(0, n);
}

/** A pattern [query, key] over a prompt's tokens. */
export interface Pattern {
  values: Float32Array;
  side: number;
  /** Of the full colour. */
  top: number;
  /** Of a difference: below zero where the edited run attends less. */
  signed: boolean;
}

export function patternOf(values: Float32Array, side: number, { weighted, signed }: { weighted: boolean; signed: boolean }): Pattern {
  const most = values.reduce((top, value) => Math.max(top, Math.abs(value)), 0);
  return { values, side, signed, top: weighted || signed ? most || 1 : 1 };
}

/** What a token attends to (`out`), or which tokens attend to it (`in`). */
export function row({ values, side }: Pattern, token: number, way: "out" | "in"): Float32Array {
  return way === "out" ? values.slice(token * side, (token + 1) * side) : Float32Array.from({ length: side }, (_, query) => values[query * side + token]);
}

/** The tokens with the largest of these, as numbers, largest first; nothing of zero. */
export function strongest(values: Float32Array, n: number): number[] {
  const best: number[] = [];
  for (let i = 0; i < values.length; i++) {
    if (values[i] === 0) continue;
    const at = best.findIndex((one) => Math.abs(values[i]) > Math.abs(values[one]));
    if (at >= 0) best.splice(at, 0, i);
    else if (best.length < n) best.push(i);
    if (best.length > n) best.pop();
  }
  return best;
}

/** The pattern made as small as its picture: of each block the largest by size. side: cells along it. */
export function pooled({ values, side }: Pattern, most: number): { values: Float32Array; side: number; block: number } {
  const block = Math.max(1, Math.ceil(side / Math.max(1, most)));
  if (block === 1) return { values, side, block };
  const small = Math.ceil(side / block);
  const found = new Float32Array(small * small);
  for (let q = 0; q < side; q++)
    for (let k = 0, to = Math.floor(q / block) * small; k <= q; k++) {
      const [value, at] = [values[q * side + k], to + Math.floor(k / block)];
      if (Math.abs(value) > Math.abs(found[at])) found[at] = value;
    }
  return { values: found, side: small, block };
}

export interface Line {
  query: number;
  key: number;
  weight: number;
}

/** The strongest pairs of which a token is in view; of one token, all of its pairs. */
export function linesIn({ values, side, top }: Pattern, [from, to]: [number, number], n: number, only: { way: "out" | "in"; token: number } | null): Line[] {
  const least = only ? 0.004 * top : 0.05 * top;
  const found: Line[] = [];
  const take = (query: number, key: number) => {
    const weight = values[query * side + key];
    if (Math.abs(weight) >= least) found.push({ query, key, weight });
  };
  if (only) for (let other = 0; other < side; other++) only.way === "out" ? take(only.token, other) : take(other, only.token);
  else for (let query = from; query < side; query++) for (let key = query < to ? 0 : from; key <= query && (query < to || key < to); key++) take(query, key);
  return found.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)).slice(0, n);
}

/** As a picture that is saved, and as a table. */
export function patternView(pattern: Pattern, tokens: readonly string[], title: string, unit: string): HeatMapView {
  const names = tokens.map((text, i) => `${i} ${visible(text)}`);
  const values = tokens.map((_, q) => tokens.map((_, k) => (k > q ? null : pattern.values[q * pattern.side + k])));
  return {
    kind: "heat_map", values, rows: names, columns: names, title, row_title: "query", column_title: "key", unit, scale: pattern.signed ? "diverging" : "sequential", limit: pattern.top,
    low: null, high: null, marks: [], note: "", texts: null, bottom_up: false,
  };
}

/** A value in logits or shares, with its sign. */
export const formatValue = (value: number | null): string => (value === null ? "–" : `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(Math.abs(value) < 0.1 ? 3 : 2)}`);

/** Attention, or what a pair writes; of a difference with its sign. */
export function formatWeight(value: number, signed: boolean): string {
  const size = Math.abs(value);
  const text = size === 0 ? "0" : size < 0.001 ? size.toExponential(1).replace("e-", "e−") : size < 1 ? size.toFixed(3) : size.toPrecision(3);
  return (value < 0 ? "−" : signed && value > 0 ? "+" : "") + text;
}
