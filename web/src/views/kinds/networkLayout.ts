/** A graph's places in pixels: what Python laid out in columns and levels, given the room that there is. */

import { asLabel } from "../../lib/tokens";
import { measure } from "./numbers";
import type { NetworkView } from "./plain";
import type { Box } from "./scene";

const SIZE = 10;
const BOX = 20;
const DOT = 9;
const GAP = 4;
const LEAST_GAP = 38;
/** Of words a part will do, but not of a number. */
const LEAST_WORD = 40;
const WIDEST_BOX = 132;
const MOST_WIDE = 7000;
const ROW = 62;
const PAD = 14;

export interface Room {
  height?: number;
  zoom?: number;
  top?: number;
}

/** From the top of one box to the bottom of another, upwards. */
export interface Curve {
  x1: number;
  y1: number;
  x2: number;
  y2: number;
}

export interface Laid {
  width: number;
  height: number;
  /** Where the names of levels end. */
  gutter: number;
  boxes: Box[];
  /** What stands in each box; empty where there is no room. */
  labels: string[];
  y(level: number): number;
  x(place: number): number;
  curve(edge: number): Curve;
}

/** Labels without what all of a level begin with: "123" of "sae 123", and of "8.123". */
export function shortened(labels: string[]): string[] {
  const first = /^[\w-]+[ .](?=.)/.exec(labels[0] ?? "")?.[0];
  return first && labels.length > 1 && labels.every((label) => label.startsWith(first) && label.length > first.length) ? labels.map((label) => label.slice(first.length)) : labels;
}

export function laid(view: NetworkView, width: number, { height = 0, zoom = 1, top = 0 }: Room): Laid {
  const rows = new Map<number, number[]>();
  view.nodes.forEach(({ y }, i) => rows.set(y, [...(rows.get(y) ?? []), i]));
  for (const row of rows.values()) row.sort((a, b) => view.nodes[a].x - view.nodes[b].x);
  const labels = view.nodes.map(() => "");
  for (const row of rows.values()) {
    const plain = row.filter((i) => !view.nodes[i].error && !view.nodes[i].group);
    shortened(plain.map((i) => asLabel(view.nodes[i].label))).forEach((label, k) => (labels[plain[k]] = label));
    for (const i of row) labels[i] ||= asLabel(view.nodes[i].label);
  }
  const gaps = view.nodes.map(() => Infinity);
  for (const row of rows.values())
    row.slice(1).forEach((i, k) => {
      const gap = view.nodes[i].x - view.nodes[row[k]].x;
      [gaps[i], gaps[row[k]]] = [Math.min(gaps[i], gap), Math.min(gaps[row[k]], gap)];
    });
  const gutter = Math.min(150, Math.max(0, ...view.levels.map((name) => measure(asLabel(name), SIZE, false))) + 14);
  const all = view.nodes.map(({ x }) => x);
  const columns = view.columns.length;
  const [low, high] = [Math.min(columns ? -0.5 : Infinity, ...all), Math.max(columns - 0.5, ...all)];
  const range = Math.max(high - low, 1e-9);
  const least = Math.min(...gaps.filter((gap) => gap > 1e-9));
  const wide = Math.max(100, width - gutter - 2 * PAD - WIDEST_BOX);
  const needed = Number.isFinite(least) ? Math.min(LEAST_GAP / least, MOST_WIDE / range) : 0;
  const scale = high > low ? Math.max(wide / range, needed) * zoom : 0;
  const middle = high > low ? WIDEST_BOX / 2 : (wide + WIDEST_BOX) / 2;
  const xOf = (x: number): number => gutter + PAD + middle + (x - low) * scale;
  const bottom = columns ? 18 : 4;
  const count = Math.max(view.levels.length, ...view.nodes.map(({ y }) => Math.ceil(y) + 1), 1);
  const pitch = Math.max(ROW, (height - top - bottom) / count) * zoom;
  const yOf = (level: number): number => top + (count - 1 - level + 0.5) * pitch;
  const boxes = view.nodes.map(({ x, y }, i): Box => {
    const room = Number.isFinite(gaps[i]) ? Math.min(gaps[i] * scale - GAP, WIDEST_BOX) : WIDEST_BOX;
    const wanted = Math.min(measure(labels[i], SIZE, false) + 9, WIDEST_BOX);
    const enough = /^[\d.]+$/.test(labels[i]) ? wanted : Math.min(wanted, LEAST_WORD);
    const [w, h] = room >= enough ? [Math.min(wanted, room), BOX] : [Math.max(4, Math.min(DOT, room)), DOT];
    if (h === DOT) labels[i] = "";
    return { x: xOf(x) - w / 2, y: yOf(y) - h / 2, w, h };
  });
  return {
    width: Math.max(width, gutter + 2 * PAD + 2 * middle + (high > low ? range * scale : 0)), height: top + count * pitch + bottom, gutter, boxes, labels, y: yOf,
    x: xOf,
    curve(edge) {
      const [a, b] = [boxes[view.edges[edge].source], boxes[view.edges[edge].target]];
      const up = a.y >= b.y;
      return { x1: a.x + a.w / 2, y1: up ? a.y : a.y + a.h, x2: b.x + b.w / 2, y2: up ? b.y + b.h : b.y };
    },
  };
}

const n = (value: number): string => String(Math.round(value * 10) / 10);

export function bezier({ x1, y1, x2, y2 }: Curve): string {
  const middle = (y1 + y2) / 2;
  return `M${n(x1)} ${n(y1)}C${n(x1)} ${n(middle)} ${n(x2)} ${n(middle)} ${n(x2)} ${n(y2)}`;
}

const STEPS = 16;

/** The curve that lies nearest to a point, within reach. */
export function nearest(curves: Curve[], x: number, y: number, reach: number): number | null {
  let [best, least] = [-1, reach * reach];
  curves.forEach(({ x1, y1, x2, y2 }, i) => {
    if (x < Math.min(x1, x2) - reach || x > Math.max(x1, x2) + reach || y < Math.min(y1, y2) - reach || y > Math.max(y1, y2) + reach) return;
    let [px, py] = [x1, y1];
    for (let k = 1; k <= STEPS; k++) {
      const t = k / STEPS;
      // the handles stand upright above and below the ends, half way
      const s = t * t * (3 - 2 * t);
      const [qx, qy] = [x1 + (x2 - x1) * s, y1 + (y2 - y1) * (1.5 * t * (1 - t) + t * t * t)];
      const away = toSegment(x, y, px, py, qx, qy);
      if (away < least) [best, least] = [i, away];
      [px, py] = [qx, qy];
    }
  });
  return best < 0 ? null : best;
}

function toSegment(x: number, y: number, ax: number, ay: number, bx: number, by: number): number {
  const [dx, dy] = [bx - ax, by - ay];
  const t = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return (ax + t * dx - x) ** 2 + (ay + t * dy - y) ** 2;
}
