/** The views as `to_dict` in Python writes them; numbers that are null there are not known. */

import type { Maybe } from "./numbers";

export type ScaleName = "diverging" | "sequential";

export interface HeatMapView {
  kind: "heat_map";
  values: Maybe[][];
  rows: string[];
  columns: string[];
  title: string;
  row_title: string;
  column_title: string;
  unit: string;
  scale: ScaleName;
  limit: number | null;
  low: Maybe[][] | null;
  high: Maybe[][] | null;
  marks: [number, number][];
  note: string;
  texts: string[][] | null;
  bottom_up: boolean;
}

export interface LineView {
  name: string;
  y: Maybe[];
  low: Maybe[] | null;
  high: Maybe[] | null;
  dashed: boolean;
}

export interface ReferenceView {
  at: number;
  name: string;
  axis: "x" | "y";
}

interface Axes {
  title: string;
  x_title: string;
  unit: string;
  references: ReferenceView[];
  note: string;
}

export interface CurveView extends Axes {
  kind: "curve";
  x: number[] | string[];
  lines: LineView[];
  y_title: string;
}

export interface HistogramView extends Axes {
  kind: "histogram";
  edges: number[];
  series: { name: string; counts: number[]; n: number; mean: Maybe; left_out: number }[];
}

export interface ScatterView extends Axes {
  kind: "scatter";
  x: Maybe[];
  y: Maybe[];
  groups: string[] | null;
  texts: string[] | null;
  diagonal: boolean;
  /** Points drawn larger, over the others: the page's own marks. */
  emphasis?: number[];
  y_title: string;
}

export interface TokenStripView {
  kind: "token_strip";
  tokens: string[];
  values: Maybe[];
  title: string;
  unit: string;
  scale: ScaleName;
  limit: number | null;
  note: string;
}

export interface PatternView {
  kind: "pattern";
  tokens: string[];
  weights: Maybe[][];
  title: string;
  note: string;
}

export type Value = string | number | boolean | null;

export interface TableView {
  kind: "table";
  columns: string[];
  rows: Value[][];
  title: string;
  note: string;
}

export interface TextView {
  kind: "text";
  title: string;
  paragraphs: string[];
}

export interface CardView {
  kind: "card";
  title: string;
  fields: Record<string, Value>;
  verdict: "passed" | "failed" | null;
  note: string;
}

export interface GridView {
  kind: "grid";
  views: PlainView[];
  columns: number;
  title: string;
}

export type DrawnView = HeatMapView | CurveView | HistogramView | ScatterView | TokenStripView | PatternView;
export type PlainView = DrawnView | TableView | TextView | CardView | GridView;

const isHolder = (value: unknown): value is Record<string, unknown> => typeof value === "object" && value !== null;

/** Puts back the infinities, which JSON has not: `infinite` names their places, beside the data they belong to. */
export function restore<T>(plain: T): T {
  if (Array.isArray(plain)) return plain.map((item) => restore<unknown>(item)) as T;
  if (typeof plain !== "object" || plain === null) return plain;
  const { infinite, ...parts } = plain as Record<string, unknown>;
  const found = Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, restore(part)]));
  for (const [path, sign] of Object.entries((infinite ?? {}) as Record<string, string>)) {
    const steps = path.split(".");
    const last = steps.pop()!;
    const inside = steps.reduce<unknown>((at, step) => (isHolder(at) && Object.hasOwn(at, step) ? at[step] : null), found);
    if (isHolder(inside) && Object.hasOwn(inside, last)) inside[last] = sign === "-inf" ? -Infinity : Infinity;
  }
  return found as T;
}
