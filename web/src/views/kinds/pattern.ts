import type { Kind } from "./kinds";
import { drawMatrix } from "./matrix";
import { visible } from "../../lib/tokens";
import { number } from "./numbers";
import { colorScale } from "./palette";
import type { PatternView } from "./plain";

const WIDE = 64;

export const pattern: Kind<PatternView> = {
  about: (view) => `Attention pattern over ${view.tokens.length} tokens, query by key`,
  empty: (view) => !view.tokens.length,
  notes: (view) => [view.note],
  draw: (view, width, palette) =>
    drawMatrix(
      {
        values: view.weights,
        rows: view.tokens,
        columns: view.tokens,
        rowTitle: "query",
        columnTitle: "key",
        unit: "attention",
        scale: colorScale([0, 1], "sequential", 1, palette),
        inside: () => "",
        words: (query, key) => ({
          head: `${query} ${visible(view.tokens[query])} → ${key} ${visible(view.tokens[key])}`,
          value: number(view.weights[query][key]),
        }),
        framed: [],
        square: true,
        blank: (query, key) => key > query,
      },
      width,
      palette,
    ),
  table(view) {
    if (view.tokens.length > WIDE) return long(view);
    return {
      columns: ["query \\ key", ...view.tokens.map((token, i) => `${i} ${visible(token)}`)],
      rows: view.weights.map((row, q) => [`${q} ${visible(view.tokens[q])}`, ...row.map((w, k) => (k > q ? null : w))]),
    };
  },
  file: long,
};

function long(view: PatternView) {
  const rows = view.weights.flatMap((row, q) =>
    row.slice(0, q + 1).map((w, k) => [q, JSON.stringify(view.tokens[q]), k, JSON.stringify(view.tokens[k]), w]),
  );
  return { columns: ["query", "query token", "key", "key token", "attention"], rows };
}
