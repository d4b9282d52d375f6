/** One head's pattern less what it was before: a picture that is red where it attends more. */

import type { HeatMapView } from "../views/kinds/plain";
import type { LayerData } from "./map";
import { visible } from "./tokens";

export function patternDifference(b: LayerData, a: LayerData, head: number, tokens: readonly string[], title: string): HeatMapView | null {
  if (!b.pattern || !a.pattern || b.side !== a.side || b.side !== tokens.length) return null;
  const { side } = b;
  const from = head * side ** 2;
  const at = (q: number, k: number) => b.pattern![from + q * side + k] - a.pattern![from + q * side + k];
  const values = tokens.map((_, q) => tokens.map((_, k) => (k > q ? null : at(q, k))));
  const limit = Math.max(1e-6, ...values.flat().map((value) => Math.abs(value ?? 0)));
  const names = tokens.map((text, i) => `${i} ${visible(text)}`);
  return {
    kind: "heat_map", values, rows: names, columns: names, title, row_title: "query", column_title: "key", unit: "", scale: "diverging", limit,
    low: null, high: null, marks: [], note: "", texts: null, bottom_up: false,
  };
}
