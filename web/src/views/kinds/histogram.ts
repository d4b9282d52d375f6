import type { Kind } from "./kinds";
import { swatches } from "./legend";
import { asLabel } from "../../lib/tokens";
import { number } from "./numbers";
import type { HistogramView } from "./plain";
import { axes, domainOf, referenced, titled } from "./plot";
import type { Mark } from "./scene";

const MOST = 860;
const HEIGHT = 170;

/** Counts compare only where the series are equally many. */
const shares = (view: HistogramView): boolean => new Set(view.series.map((series) => series.n)).size > 1;

/** Stretches of bins that hold something, as [first, one past the last]. */
function runs(heights: number[]): [number, number][] {
  const found: [number, number][] = [];
  heights.forEach((height, b) => {
    if (!height) return;
    if (found.at(-1)?.[1] === b) found.at(-1)![1] = b + 1;
    else found.push([b, b + 1]);
  });
  return found;
}

export const histogram: Kind<HistogramView> = {
  about: (view) => `Histogram of ${view.series.map((series) => asLabel(series.name)).join(", ")}`,
  empty: (view) => view.series.every((series) => series.n === 0),
  notes: (view) => [
    view.note,
    ...view.series.filter((series) => series.left_out).map((series) => `${asLabel(series.name)}: ${series.left_out} left out (not finite, or outside the bins)`),
  ],
  draw(view, room, palette) {
    const width = Math.min(room, MOST);
    const { edges, series } = view;
    const color = (i: number) => palette.series[i % palette.series.length];
    const entries = series.map((one, i) => ({ name: `${asLabel(one.name)} · n ${one.n} · mean ${number(one.mean, 3)}`, color: color(i), shape: "box" as const }));
    const legend = swatches(entries, width, palette);
    const heights = series.map((one) => one.counts.map((count) => (shares(view) ? count / Math.max(1, one.n) : count)));
    const x = domainOf([edges[0], edges.at(-1), ...referenced(view.references, "x")], 0.01);
    const plot = axes(
      {
        width, top: legend.height, height: HEIGHT, x,
        y: [0, Math.max(...heights.flat(), 1e-9) * 1.06],
        xTitle: titled(view.x_title, view.unit), yTitle: shares(view) ? "share" : "count", whole: !shares(view), references: view.references,
      },
      palette,
    );
    const bins = edges.length - 1;
    const bars = series.flatMap((_, s): Mark[] => {
      const outline = runs(heights[s]).map(([from, to]) => {
        const steps = heights[s].slice(from, to).map((h, k) => `V${plot.y(h).toFixed(1)}H${plot.x(edges[from + k + 1]).toFixed(1)}`);
        return `M${plot.x(edges[from]).toFixed(1)} ${plot.bottom}${steps.join("")}V${plot.bottom}`;
      });
      const filled: Mark = { kind: "path", d: outline.join(""), fill: color(s), opacity: series.length > 1 ? 0.2 : 0.32 };
      return [filled, { kind: "path", d: outline.join(""), stroke: color(s), width: 1.25 }];
    });
    return {
      width, height: plot.height, dense: [], marks: [...legend.marks, ...plot.marks, ...bars],
      frame: { left: plot.left, right: plot.right, low: x[0], high: x[1] },
      reader: {
        count: bins,
        at(px, py) {
          if (py < plot.top || py > plot.bottom) return null;
          const bin = edges.findLastIndex((edge) => plot.x(edge) <= px);
          return bin >= 0 && bin < bins ? bin : null;
        },
        box: (b) => ({ x: plot.x(edges[b]), y: plot.top, w: plot.x(edges[b + 1]) - plot.x(edges[b]), h: plot.bottom - plot.top }),
        words(b) {
          const said = series.map((one) => `${asLabel(one.name)} ${one.counts[b]}${shares(view) ? ` (${number((100 * one.counts[b]) / Math.max(1, one.n), 3)} %)` : ""}`);
          return { head: `${number(edges[b])} to ${number(edges[b + 1])}${view.unit ? ` ${view.unit}` : ""}`, value: said[0], more: said.slice(1) };
        },
        step: (b, dx) => Math.max(0, Math.min(bins - 1, b + dx)),
      },
    };
  },
  table: (view) => ({
    columns: ["from", "to", ...view.series.map((series) => series.name)],
    rows: view.edges.slice(0, -1).map((edge, b) => [edge, view.edges[b + 1], ...view.series.map((series) => series.counts[b])]),
  }),
};
