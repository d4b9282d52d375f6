/** Where everything of the map stands: rows from the last layer down, one of them open; of a tall model, bands of layers. */

import type { Node } from "./map";

export interface MapRow {
  kind: "layer" | "open" | "band";
  /** Its layers, both ends within. */
  from: number;
  to: number;
  y: number;
  h: number;
}

interface Column {
  x: number;
  w: number;
}

export interface MapLayout {
  width: number;
  height: number;
  rows: MapRow[];
  heads: Column & { count: number; each: number };
  spine: Column;
  mlp: Column;
  bars: Column;
  /** No width: there is no room for it. */
  lens: Column;
  curve: Column;
  /** Cells are large enough for a pattern. */
  patterns: boolean;
  /** And for a number beside it. */
  numbers: boolean;
}

export const HEADS = 24;
export const FOOT = 20;
export const OPEN = 134;
/** Above the patterns of the open row: its buttons. */
export const OPEN_HEAD = 30;
const GUTTER = 30;
const [LOWEST, HIGHEST] = [12, 24];
/** More layers than this are drawn in bands. */
const MOST_ROWS = 48;
const BANDS = 10;
const NARROWEST = 5;
/** A cell of the open row as wide as this has its numbers in it. */
export const LEGIBLE = 30;

/** focus: the layer that is open; of a model in bands, its band's other layers are rows too. inside: the height of the drawing of it. zoom: of cells; narrowest: how narrow they may be. */
export function layOut(layers: number, heads: number, focus: number | null, room: { width: number; height: number }, { inside = 0, zoom = 1, narrowest = NARROWEST } = {}): MapLayout {
  const parts = rowsOf(layers, focus);
  const closed = parts.filter(({ kind }) => kind !== "open").length;
  const free = room.height - HEADS - FOOT - (closed < parts.length ? OPEN : 0);
  const rowH = zoom * Math.max(LOWEST, Math.min(HIGHEST, Math.floor((2 * free) / Math.max(closed, 1)) / 2));
  let y = HEADS;
  const rows = parts.map((row) => {
    const placed = { ...row, y, h: row.kind === "open" ? OPEN + inside : rowH };
    y += placed.h;
    return placed;
  });
  const { width } = room;
  const [spine, mlp] = [width >= 480 ? 52 : 36, 40];
  const wide = { bars: width >= 600 ? 84 : width >= 420 ? 44 : 0, lens: width >= 560 ? 84 : 0, curve: width >= 660 ? 96 : width >= 480 ? 60 : 0 };
  const per = ({ bars, lens, curve }: typeof wide) => (width - GUTTER - spine - mlp - bars - lens - curve - 24) / heads;
  const close = { ...wide, bars: Math.min(wide.bars, 74), lens: Math.min(wide.lens, 64), curve: Math.min(wide.curve, 48) };
  const { bars, lens, curve } = per(wide) < LEGIBLE && per(close) >= LEGIBLE ? close : wide; // columns make room for what is written in cells
  const each = zoom * Math.max(narrowest, Math.min(64, per({ bars, lens, curve })));
  const at = { x: GUTTER + each * heads };
  const next = (w: number, gap = 0): Column => {
    const column = { x: at.x + (w ? gap : 0), w };
    at.x = column.x + w;
    return column;
  };
  return {
    rows, height: y + FOOT, heads: { x: GUTTER, w: each * heads, count: heads, each },
    spine: next(spine), mlp: next(mlp), bars: next(bars, 4), lens: next(lens, 6), curve: next(curve, 8), width: inside ? Math.max(at.x, width) : at.x,
    patterns: each >= 14 && rowH >= 10, numbers: each >= rowH + 22,
  };
}

function rowsOf(layers: number, focus: number | null): Pick<MapRow, "kind" | "from" | "to">[] {
  const rows: Pick<MapRow, "kind" | "from" | "to">[] = [];
  const size = layers > MOST_ROWS ? Math.ceil(layers / BANDS) : 1;
  for (let from = 0; from < layers; from += size) {
    const to = Math.min(from + size, layers) - 1;
    const inside = focus !== null && focus >= from && focus <= to;
    if (size > 1 && !inside) rows.push({ kind: "band", from, to });
    else for (let layer = from; layer <= to; layer++) rows.push({ kind: layer === focus ? "open" : "layer", from: layer, to: layer });
  }
  return rows.reverse();
}

export const rowOf = (layout: MapLayout, layer: number): MapRow | undefined => layout.rows.find(({ from, to }) => layer >= from && layer <= to);

/** The height at which a row's parts stand in line: of the open one, the middle of its patterns. */
export const middle = ({ kind, y, h }: MapRow): number => y + (kind === "open" ? OPEN : h) / 2;

/** What lies under a point; of a band, its last layer. */
export function nodeAt({ rows, heads, mlp }: MapLayout, x: number, y: number): (Node & { row: MapRow }) | null {
  const row = rows.find((one) => y >= one.y && y < one.y + one.h);
  if (!row || (row.kind === "open" && (y < row.y + OPEN_HEAD || y >= row.y + OPEN))) return null;
  if (x >= mlp.x && x < mlp.x + mlp.w) return { layer: row.to, head: null, row };
  const head = Math.floor((x - heads.x) / heads.each);
  return head >= 0 && head < heads.count ? { layer: row.to, head, row } : null;
}

/** The value of a row's cell: of a band, the one farthest from zero. */
export function valueIn({ from, to }: MapRow, at: (layer: number) => number): number {
  let found = at(from);
  for (let layer = from + 1; layer <= to; layer++) if (Math.abs(at(layer)) > Math.abs(found) || Number.isNaN(found)) found = at(layer);
  return found;
}

/** A node's box. */
export function boxOf(layout: MapLayout, { layer, head }: Node): { x: number; y: number; w: number; h: number } | null {
  const row = rowOf(layout, layer);
  if (!row) return null;
  const open = row.kind === "open";
  const [y, h] = open ? [row.y + OPEN_HEAD, OPEN - OPEN_HEAD - 22] : [row.y, row.h];
  if (head === null) return { x: layout.mlp.x, y: open ? middle(row) - 14 : y, w: layout.mlp.w, h: open ? 28 : h - 1 };
  return { x: layout.heads.x + head * layout.heads.each, y, w: layout.heads.each - 1, h: h - 1 };
}
