/** A layered graph: boxes for nodes, curves for edges, red where the source raises the target. */

import { asLabel } from "../../lib/tokens";
import { bezier, laid, nearest, type Curve, type Laid } from "./networkLayout";
import type { Kind } from "./kinds";
import { swatches } from "./legend";
import { fit, known, measure, number, signedNumber } from "./numbers";
import { colorScale, type ColorScale, type Palette } from "./palette";
import type { NetworkView, Value } from "./plain";
import type { Mark, Scene, Words } from "./scene";

const SIZE = 10;
const NEAR = 5;
const TOLD = 3;
/** What colour means, in words. */
export const RAISES = "raises: taking the source out lowers the target";
export const LOWERS = "lowers: taking the source out raises the target";

/** The nodes that have the edges of a node, the strongest edge first. */
export interface Joined {
  /** By node: the edges that lead to it, and from it. */
  into: number[][];
  from: number[][];
}

export function joined(view: NetworkView): Joined {
  const into: number[][] = view.nodes.map(() => []);
  const from: number[][] = view.nodes.map(() => []);
  const order = view.edges.map((_, i) => i).sort((a, b) => Math.abs(view.edges[b].value) - Math.abs(view.edges[a].value) || a - b);
  for (const i of order) {
    into[view.edges[i].target].push(i);
    from[view.edges[i].source].push(i);
  }
  return { into, from };
}

export const network: Kind<NetworkView> = {
  about: (view) => `Graph of ${view.nodes.length} nodes in ${view.levels.length} levels, and ${view.edges.length} edges`,
  pans: true,
  empty: (view) => !view.nodes.length,
  notes: (view) => [view.note],
  draw(view, width, palette, room) {
    const legend = swatches([{ name: RAISES, color: strong(palette, 1), shape: "line" }, { name: LOWERS, color: strong(palette, -1), shape: "line" }], width, palette);
    const at = laid(view, width, { ...room, top: legend.height + 6 });
    const limit = view.limit ?? (Math.max(...view.edges.map(({ value }) => Math.abs(value)), 0) || 1);
    const values = colorScale(view.nodes.map(({ value }) => value), "diverging", null, palette);
    const { into, from } = joined(view);
    const curves = view.edges.map((_, i) => at.curve(i));
    const weakFirst = view.edges.map((_, i) => i).sort((a, b) => Math.abs(view.edges[a].value) - Math.abs(view.edges[b].value));
    const edge = (i: number, lit = false): Mark => {
      const { value } = view.edges[i];
      const share = Math.min(1, Math.abs(value) / limit);
      return { kind: "path", d: bezier(curves[i]), stroke: strong(palette, value), width: (lit ? 1 : 0.6) + 2.4 * share, opacity: lit ? 0.5 + 0.5 * share : 0.1 + 0.8 * share ** 0.7, title: `${nameOf(view, i)}: ${signedNumber(value)}${unitOf(view)}` };
    };
    const dense = [...weakFirst.map((i) => edge(i)), ...view.nodes.flatMap((_, i) => box(view, at, i, values, palette))];
    return {
      width: at.width, height: at.height, dense, marks: [...legend.marks, ...levels(view, at, palette)],
      reader: {
        count: view.nodes.length + view.edges.length,
        at(x, y) {
          const node = at.boxes.findIndex((b) => x >= b.x - 2 && x <= b.x + b.w + 2 && y >= b.y - 2 && y <= b.y + b.h + 2);
          if (node >= 0) return node;
          const found = nearest(curves, x, y, NEAR);
          return found === null ? null : view.nodes.length + found;
        },
        box: (item) => (item < view.nodes.length ? at.boxes[item] : middle(curves[item - view.nodes.length])),
        words: (item) => (item < view.nodes.length ? nodeWords(view, item, into[item], from[item]) : edgeWords(view, item - view.nodes.length)),
        step: (item, dx, dy) => step(view, at, { into, from }, item, dx, dy),
        over(item) {
          if (item >= view.nodes.length) {
            const i = item - view.nodes.length;
            return [edge(i, true), ...[view.edges[i].source, view.edges[i].target].flatMap((n) => box(view, at, n, values, palette, true))];
          }
          const mine = [...into[item], ...from[item]];
          const others = new Set(mine.flatMap((i) => [view.edges[i].source, view.edges[i].target]));
          return [...mine.toReversed().map((i) => edge(i, true)), ...[...others, item].flatMap((n) => box(view, at, n, values, palette, n === item))];
        },
      },
    } satisfies Scene;
  },
  table: (view) => ({
    columns: ["from", "to", view.unit || "weight", ...(view.edges.some(({ text }) => text) ? ["about"] : [])],
    rows: view.edges
      .toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value))
      .map((edge): Value[] => [called(view, edge.source), called(view, edge.target), edge.value, ...(view.edges.some(({ text }) => text) ? [edge.text] : [])]),
  }),
};

const strong = ({ diverging }: Palette, value: number): string => `rgb(${diverging.stops[value < 0 ? 1 : diverging.stops.length - 2].join(",")})`;
const unitOf = (view: NetworkView): string => (view.unit ? ` ${view.unit}` : "");

/** A node with its level, where its label alone does not say it. */
export function called(view: NetworkView, node: number): string {
  const { label, y } = view.nodes[node];
  const level = levelOf(view, y);
  return level && !label.includes(level) ? `${asLabel(label)} of ${asLabel(level)}` : asLabel(label);
}
/** A level may take several rows, of which the first has its name. */
function levelOf(view: NetworkView, y: number): string {
  let row = Math.round(y);
  while (row > 0 && !view.levels[row]) row--;
  return view.levels[row] ?? "";
}
const nameOf = (view: NetworkView, edge: number): string => `${called(view, view.edges[edge].source)} → ${called(view, view.edges[edge].target)}`;

const middle = ({ x1, y1, x2, y2 }: Curve) => ({ x: (x1 + x2) / 2 - 4, y: (y1 + y2) / 2 - 4, w: 8, h: 8 });

function nodeWords(view: NetworkView, item: number, into: number[], from: number[]): Words {
  const node = view.nodes[item];
  const told = (edges: number[], end: "source" | "target", words: string) =>
    edges.slice(0, TOLD).map((i) => `${words} ${called(view, view.edges[i][end])} ${signedNumber(view.edges[i].value)}`);
  const more = [node.text, ...told(from, "target", "→"), ...told(into, "source", "←")].filter(Boolean).map(asLabel);
  return {
    head: node.group && node.group !== node.label ? `${asLabel(node.label)} · ${asLabel(node.group)}` : called(view, item),
    value: known(node.value) ? `${signedNumber(node.value)}${view.node_unit ? ` ${view.node_unit}` : ""}` : `${from.length} out, ${into.length} in`,
    more, link: safe(node.link),
  };
}
function edgeWords(view: NetworkView, edge: number): Words {
  const { value, text } = view.edges[edge];
  return { head: nameOf(view, edge), value: text ? asLabel(text.slice(text.lastIndexOf(": ") + 1)).trim() : `${signedNumber(value)}${unitOf(view)}`, more: [value < 0 ? LOWERS : RAISES] };
}

/** An address that may be followed: of a page, or of this one. */
const safe = (link: string): string => (/^(https?:\/\/|#)/.test(link) ? link : "");

function box(view: NetworkView, at: Laid, item: number, values: ColorScale, palette: Palette, lit = false): Mark[] {
  const node = view.nodes[item];
  const { x, y, w, h } = at.boxes[item];
  const filled = known(node.value);
  const r = Math.min(4, w / 2, h / 2);
  const line = node.group ? palette.text2 : h < 12 ? palette.text3 : palette.line2;
  const shape: Mark = {
    kind: "path", d: `M${x + r} ${y}h${w - 2 * r}a${r} ${r} 0 0 1 ${r} ${r}v${h - 2 * r}a${r} ${r} 0 0 1 ${-r} ${r}h${2 * r - w}a${r} ${r} 0 0 1 ${-r} ${-r}v${2 * r - h}a${r} ${r} 0 0 1 ${r} ${-r}z`,
    fill: filled ? values.color(node.value!) : palette.surface, stroke: lit ? palette.text : line, width: lit ? 1.6 : node.group ? 1.6 : 1, dash: node.error ? "3 2" : undefined,
    title: [called(view, item), node.text, filled ? `${number(node.value)}${view.node_unit ? ` ${view.node_unit}` : ""}` : ""].filter(Boolean).join("\n"), link: safe(node.link),
  };
  const text = at.labels[item];
  if (!text) return [shape];
  const shown = fit(text, w - 5, SIZE, false);
  return shown ? [shape, { kind: "text", x: x + w / 2, y: y + h / 2 + 3.5, text: shown, fill: filled ? values.ink(node.value!) || palette.text : palette.text, size: SIZE, anchor: "middle", bold: !!node.group, link: safe(node.link) }] : [shape];
}

function levels(view: NetworkView, at: Laid, palette: Palette): Mark[] {
  const marks: Mark[] = view.levels.flatMap((name, level): Mark[] => {
    if (!name) return [];
    const y = at.y(level);
    const shown = fit(asLabel(name), at.gutter - 10, SIZE, false);
    return [
      { kind: "path", d: `M${at.gutter} ${y}H${at.width}`, stroke: palette.line, opacity: 0.6 },
      { kind: "text", x: 0, y: y + 3.5, text: shown, fill: palette.text2, size: SIZE, anchor: "start", title: shown === asLabel(name) ? undefined : asLabel(name) },
    ];
  });
  const begins = view.columns.flatMap((name, column) => (name ? [column] : []));
  begins.forEach((column, i) => {
    const last = (begins[i + 1] ?? view.columns.length) - 1;
    const name = asLabel(view.columns[column]);
    const shown = fit(name, Math.max(10, at.x(last + 0.5) - at.x(column - 0.5) - 4), SIZE, true);
    if (shown) marks.push({ kind: "text", x: (at.x(column) + at.x(last)) / 2, y: at.height - 4, text: shown, fill: palette.text2, size: SIZE, anchor: "middle", mono: true, title: name });
    if (i) marks.push({ kind: "path", d: `M${at.x(column - 0.5)} ${at.height - 14}V${at.y(view.levels.length - 0.5)}`, stroke: palette.line, opacity: 0.6 });
  });
  return marks;
}

/** Up and down along the strongest edge, left and right within a level; of an edge, to its ends, or to the next by strength. */
function step(view: NetworkView, at: Laid, { into, from }: Joined, item: number, dx: number, dy: number): number {
  const nodes = view.nodes.length;
  if (item >= nodes) {
    const { source, target } = view.edges[item - nodes];
    if (dy) return dy < 0 ? target : source;
    const mine = [...new Set([...from[source], ...into[target]])];
    return nodes + mine[(mine.indexOf(item - nodes) + dx + mine.length) % mine.length];
  }
  if (dy) {
    const along = dy < 0 ? from[item][0] : into[item][0];
    if (along !== undefined) return dy < 0 ? view.edges[along].target : view.edges[along].source;
    const there = [...new Set(view.nodes.map(({ y }) => y))].filter((y) => (dy < 0 ? y > view.nodes[item].y : y < view.nodes[item].y)).sort((a, b) => (dy < 0 ? a - b : b - a))[0];
    if (there === undefined) return item;
    const row = view.nodes.map((_, i) => i).filter((i) => view.nodes[i].y === there);
    return row.reduce((best, i) => (Math.abs(at.boxes[i].x - at.boxes[item].x) < Math.abs(at.boxes[best].x - at.boxes[item].x) ? i : best));
  }
  const row = view.nodes.map((_, i) => i).filter((i) => view.nodes[i].y === view.nodes[item].y).sort((a, b) => view.nodes[a].x - view.nodes[b].x);
  return row[Math.max(0, Math.min(row.length - 1, row.indexOf(item) + dx))];
}

export const widthOf = (text: string): number => measure(text, SIZE, false);
