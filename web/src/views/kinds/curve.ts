import type { Kind } from "./kinds";
import { swatches } from "./legend";
import { asLabel } from "../../lib/tokens";
import { known, number, type Maybe } from "./numbers";
import type { Palette } from "./palette";
import type { CurveView, LineView, Value } from "./plain";
import { axes, domainOf, referenced, titled, type Plot } from "./plot";
import type { Mark } from "./scene";

const MOST = 860;
const HEIGHT = 190;
const DOTTED = 60;

const labelled = (view: CurveView): boolean => typeof view.x[0] === "string";
const xOf = (view: CurveView, i: number): number => (labelled(view) ? i : (view.x[i] as number));
const xSaid = (view: CurveView, i: number): string => (labelled(view) ? asLabel(view.x[i] as string) : number(view.x[i] as number));
const finite = (value: Maybe | undefined): value is number => known(value) && Number.isFinite(value);
const dashOf = (line: LineView, i: number, n: number): string => (line.dashed ? "4 3" : i >= n ? "1.5 3" : "");

/** Its stretches without gaps, as point indices. */
function stretches(line: LineView, also: Maybe[] = line.y): number[][] {
  const found: number[][] = [[]];
  line.y.forEach((value, i) => (finite(value) && finite(also[i]) ? found.at(-1)!.push(i) : found.push([])));
  return found.filter((points) => points.length);
}

const colorOf = (index: number, palette: Palette): string => palette.series[index % palette.series.length];

/** A band between low and high; where x is labels, or a point stands alone, whiskers. */
function drawInterval(view: CurveView, index: number, plot: Plot, palette: Palette): Mark[] {
  const line = view.lines[index];
  if (!line.low || !line.high) return [];
  const [low, high, color] = [line.low, line.high, colorOf(index, palette)];
  const point = (i: number, value: number) => `${plot.x(xOf(view, i)).toFixed(1)} ${plot.y(value).toFixed(1)}`;
  return stretches(line, low.map((value, i) => (finite(value) && finite(high[i]) ? value : null))).flatMap((points): Mark[] => {
    if (!labelled(view) && points.length > 1) {
      const up = points.map((i) => point(i, high[i]!));
      const back = points.toReversed().map((i) => point(i, low[i]!));
      return [{ kind: "path", d: `M${[...up, ...back].join("L")}Z`, fill: color, opacity: 0.14 }];
    }
    const aside = (index - (view.lines.length - 1) / 2) * 3; // side by side where several lines have them
    return points.map((i) => {
      const x = plot.x(xOf(view, i)) + aside;
      const [a, b] = [plot.y(low[i]!), plot.y(high[i]!)];
      return { kind: "path", d: `M${x} ${a}V${b}M${x - 3} ${a}h6M${x - 3} ${b}h6`, stroke: color, width: 1 };
    });
  });
}

function drawLine(view: CurveView, index: number, plot: Plot, palette: Palette): Mark[] {
  const line = view.lines[index];
  const color = colorOf(index, palette);
  const dash = dashOf(line, index, palette.series.length);
  const at = (i: number) => ({ x: plot.x(xOf(view, i)), y: plot.y(line.y[i]!) });
  const marks = stretches(line).map((points): Mark => {
    const d = `M${points.map((i) => `${at(i).x.toFixed(1)} ${at(i).y.toFixed(1)}`).join("L")}`;
    return { kind: "path", d, stroke: color, width: 1.5, dash };
  });
  if (view.x.length > DOTTED) return marks;
  const dots = line.y.flatMap((value, i): Mark[] => (finite(value) ? [{ kind: "circle", ...at(i), r: 2.2, fill: color, stroke: palette.surface, opacity: 1 }] : []));
  return [...marks, ...dots];
}

export const curve: Kind<CurveView> = {
  about: (view) => `${view.lines.length === 1 ? "A curve" : `${view.lines.length} curves`} over ${view.x.length} points`,
  empty: (view) => !view.lines.length || !view.x.length,
  notes: (view) => [view.note],
  draw(view, room, palette) {
    const width = Math.min(room, MOST);
    const entries = view.lines.map((line, i) => ({
      name: asLabel(line.name), color: palette.series[i % palette.series.length], shape: dashOf(line, i, palette.series.length) ? ("dash" as const) : ("line" as const),
    }));
    const legend = swatches(entries, width, palette);
    const ys = view.lines.flatMap((line) => [...line.y, ...(line.low ?? []), ...(line.high ?? [])]);
    const xs = view.x.map((_, i) => xOf(view, i));
    const plot = axes(
      {
        width, top: legend.height, height: HEIGHT,
        x: labelled(view) ? [-0.5, view.x.length - 0.5] : domainOf([...xs, ...referenced(view.references, "x")], 0.02),
        y: domainOf([...ys, ...referenced(view.references, "y")]),
        labels: labelled(view) ? (view.x as string[]).map(asLabel) : undefined,
        xTitle: view.x_title, yTitle: titled(view.y_title, view.unit), references: view.references,
      },
      palette,
    );
    const each = (draw: typeof drawLine) => view.lines.flatMap((_, i) => draw(view, i, plot, palette));
    const n = view.x.length;
    const order = xs.map((_, i) => i).sort((a, b) => xs[a] - xs[b]);
    const place = (item: number) => ({ line: view.lines[Math.floor(item / n)], i: item % n });
    return {
      width, height: plot.height, dense: [],
      marks: [...legend.marks, ...plot.marks, ...each(drawInterval), ...each(drawLine)],
      reader: {
        count: n * view.lines.length,
        at(px, py) {
          if (px < plot.left - 8 || px > plot.right + 8 || py < plot.top - 8 || py > plot.bottom + 8) return null;
          const near = xs.reduce((best, value, i) => (Math.abs(plot.x(value) - px) < Math.abs(plot.x(xs[best]) - px) ? i : best), 0);
          const away = view.lines.map((line) => (finite(line.y[near]) ? Math.abs(plot.y(line.y[near]) - py) : Infinity));
          return away.indexOf(Math.min(...away)) * n + near;
        },
        box(item) {
          const { line, i } = place(item);
          const y = finite(line.y[i]) ? plot.y(line.y[i]) : plot.bottom;
          return { x: plot.x(xs[i]) - 5, y: y - 5, w: 10, h: 10 };
        },
        words(item) {
          const { line, i } = place(item);
          const band = line.low && line.high ? [`${number(line.low[i])} to ${number(line.high[i])}`] : [];
          const others = view.lines.filter((other) => other !== line).slice(0, 6);
          const head = `${view.x_title ? `${view.x_title} ` : ""}${xSaid(view, i)} · ${asLabel(line.name)}`;
          return {
            head, value: number(line.y[i]) + (view.unit && finite(line.y[i]) ? ` ${view.unit}` : ""),
            more: [...band, ...others.map((other) => `${asLabel(other.name)}: ${number(other.y[i])}`)],
          };
        },
        step(item, dx, dy) {
          const at = order.indexOf(item % n);
          const line = Math.max(0, Math.min(view.lines.length - 1, Math.floor(item / n) + dy));
          return line * n + order[Math.max(0, Math.min(n - 1, at + dx))];
        },
        lights: (item) => [{ x: plot.x(xs[item % n]) - 0.5, y: plot.top, w: 1, h: plot.bottom - plot.top }],
      },
    };
  },
  table(view) {
    const columns = [view.x_title || "x"];
    for (const line of view.lines) columns.push(line.name, ...(line.low ? [`${line.name} low`, `${line.name} high`] : []));
    const rows = view.x.map((x, i): Value[] => [
      x, ...view.lines.flatMap((line) => [line.y[i], ...(line.low && line.high ? [line.low[i], line.high[i]] : [])]),
    ]);
    return { columns, rows };
  },
};
