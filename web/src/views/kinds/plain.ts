/** The views as `to_dict` in Python writes them; numbers that are null there are not known. */

import type { ContextsView, CurveView, HeatMapView, HistogramView, NetworkView, PatternView, PlainView as Written, ScatterView as Scattered, TokenStripView } from "./plain.generated";

export type { CardView, ContextsView, ContextView, CurveView, GridView, HeatMapView, HistogramView, LineView, NetworkView, PatternView, ReferenceView, TableView, TextView, TokenStripView } from "./plain.generated";

export type ScaleName = HeatMapView["scale"];
/** What stands in a table or a card. */
export type Value = string | number | boolean | null;

export interface ScatterView extends Scattered {
  /** Points drawn larger, over the others: the page's own marks. */
  emphasis?: number[];
}

export type DrawnView = HeatMapView | CurveView | HistogramView | ScatterView | TokenStripView | ContextsView | NetworkView | PatternView;
export type PlainView = Exclude<Written, Scattered> | ScatterView;

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
