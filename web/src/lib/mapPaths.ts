/** Paths of the map: from a part that writes into the stream to a part that reads it; which are possible, and how each is drawn. */

import type { Edit, ModelInfo } from "../connect/wire";
import { nodeName, sameNode, type Node } from "./map";
import { boxOf, FOOT, HEADS, middle, rowOf, type MapLayout } from "./mapLayout";

/** What may send or receive: a head, an MLP; the embedding sends alone, the logits receive alone. */
export type End = Node | "embed" | "logits";
export type Reads = "q" | "k" | "v";

/** What of a model decides which paths there are. */
export interface Blocks {
  layers: number;
  heads: number;
  /** How many heads read one KV head, by layer. */
  shared: readonly number[];
  /** The MLP reads the stream beside attention, not after it. */
  parallel: boolean;
  /** Sites that the model lacks, by name. */
  absent: ReadonlySet<string>;
}

export function blocksOf({ n_layers, n_heads, shared, sites }: ModelInfo): Blocks {
  const absent = new Set(sites.filter((site) => site.absent !== null).map(({ name }) => name));
  return { layers: n_layers, heads: n_heads, shared, parallel: absent.has("resid_mid"), absent };
}

/** When an end writes into the stream, in half layers: attention at twice its layer, the MLP one later. Null: it writes nothing that can be sent. */
function written(end: End, { absent }: Blocks): number | null {
  if (end === "logits") return null;
  if (absent.has(end === "embed" ? "embed" : end.head === null ? "mlp_out" : "z")) return null;
  return end === "embed" ? -1 : 2 * end.layer + (end.head === null ? 1 : 0);
}

/** The first writes that an end does not read; null: it reads nothing that can be changed for it alone. */
function read(end: End, blocks: Blocks): number | null {
  const { layers, parallel, absent } = blocks;
  if (end === "embed") return null;
  if (end === "logits") return absent.has("final_norm") ? null : 2 * layers;
  if (end.head === null) return absent.has("mlp_in") ? null : 2 * end.layer + (parallel ? 0 : 1);
  return readsOf(blocks).length ? 2 * end.layer : null;
}

/** What of a head can be given a stream of its own. */
export const readsOf = ({ absent }: Blocks): Reads[] => (["q", "k", "v"] as const).filter((name) => !absent.has(name));

/** Whether one can read what the other writes. */
export function reaches(from: End, to: End, blocks: Blocks): boolean {
  const [sent, seen] = [written(from, blocks), read(to, blocks)];
  return sent !== null && seen !== null && sent < seen;
}
export const sends = (end: End, blocks: Blocks): boolean => written(end, blocks) !== null;

export const sameEnd = (a: End | null, b: End | null): boolean =>
  typeof a === "object" && typeof b === "object" ? sameNode(a, b) : a === b;
export const endName = (end: End): string => (typeof end === "string" ? end : nodeName(end));

/** An edit's path. reads: which of a head's inputs it is about. */
export function pathEdit(from: End, to: End, reads: Reads, blocks: Pick<Blocks, "shared">): Edit {
  const sender = from === "embed" || from === "logits" ? { sender: "embed" } : from.head === null ? { sender: `mlp_out.${from.layer}` } : { sender: `z.${from.layer}`, sender_head: from.head };
  if (to === "logits" || to === "embed") return { kind: "path", ...sender, receiver: "final_norm" };
  if (to.head === null) return { kind: "path", ...sender, receiver: `mlp_in.${to.layer}` };
  const head = reads === "q" ? { head: to.head } : { kv_head: kvHeadOf(to.layer, to.head, blocks) };
  return { kind: "path", ...sender, receiver: `${reads}.${to.layer}`, ...head };
}

/** The keys and values that a query head reads. */
export const kvHeadOf = (layer: number, head: number, { shared }: Pick<Blocks, "shared">): number => Math.floor(head / (shared[layer] ?? 1));

/** The two ends of a path edit that the map has; null: it is about something else. Of several heads, the first. */
export function endsOf(edit: Edit, { shared }: Pick<Blocks, "shared">): { from: End; to: End } | null {
  if (edit.kind !== "path") return null;
  const [sender, at] = String(edit.sender).split(".");
  const [receiver, to] = String(edit.receiver).split(".");
  const first = (value: unknown): number | null => (value === null || value === undefined ? null : Number([value].flat()[0]));
  const from: End | null = sender === "embed" ? "embed" : sender === "mlp_out" ? { layer: Number(at), head: null } : sender === "z" ? { layer: Number(at), head: first(edit.sender_head) ?? 0 } : null;
  const kv = first(edit.kv_head);
  const head = receiver === "q" ? first(edit.head) : kv === null ? null : kv * (shared[Number(to)] ?? 1);
  const into: End | null = receiver === "final_norm" ? "logits" : receiver === "mlp_in" ? { layer: Number(to), head: null } : "qkv".includes(receiver) ? { layer: Number(to), head: head ?? 0 } : null;
  return from && into ? { from, to: into } : null;
}

interface Point {
  x: number;
  y: number;
}

/** Where an arrow meets an end: the middle of a node, the foot of the stream, its head. */
export function pointOf(layout: MapLayout, end: End): Point | null {
  const x = layout.spine.x + layout.spine.w / 2;
  if (end === "embed") return { x, y: layout.height - FOOT };
  if (end === "logits") return { x, y: HEADS - 4 };
  const box = boxOf(layout, end);
  return box && { x: box.x + box.w / 2, y: box.y + box.h / 2 };
}

/** What lies under a point: a node, the embedding at the foot of the stream, the logits at its head. A band of layers is no end: -1. */
export function endAt(layout: MapLayout, { x, y }: Point, node: (Node & { row: { kind: string } }) | null): End | "band" | null {
  const { spine } = layout;
  if (x >= spine.x && x < spine.x + spine.w) {
    if (y < HEADS) return "logits";
    if (y >= layout.height - FOOT - 2) return "embed";
  }
  if (!node) return null;
  return node.row.kind === "band" ? "band" : { layer: node.layer, head: node.head };
}

const round = (value: number): number => Math.round(value * 10) / 10;

/** An arrow that leaves its sender sideways, so that several of one column stay apart. */
export function arrow(from: Point, to: Point): string {
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const bow = Math.min(48, Math.max(14, Math.hypot(dx, dy) / 5)) * (dx < 0 ? -1 : 1);
  const [cx, cy] = [from.x + dx / 2 + (Math.abs(dx) < 30 ? bow : 0), from.y + dy / 2 + (Math.abs(dx) < 30 ? 0 : -Math.abs(bow) / 2)];
  const length = Math.hypot(to.x - cx, to.y - cy) || 1;
  const [ux, uy] = [(to.x - cx) / length, (to.y - cy) / length];
  const [bx, by] = [to.x - 7 * ux, to.y - 7 * uy];
  return `M${round(from.x)} ${round(from.y)}Q${round(cx)} ${round(cy)} ${round(to.x)} ${round(to.y)}M${round(bx - 4 * uy)} ${round(by + 4 * ux)}L${round(to.x)} ${round(to.y)}L${round(bx + 4 * uy)} ${round(by - 4 * ux)}`;
}

/** Paths with their arrows, those whose ends the layout has. */
export function drawn<P extends { from: End; to: End }>(paths: readonly P[], layout: MapLayout): (P & { d: string })[] {
  return paths.flatMap((path) => {
    const [a, b] = [pointOf(layout, path.from), pointOf(layout, path.to)];
    return a && b ? [{ ...path, d: arrow(a, b) }] : [];
  });
}

/** All of the map that cannot read an end, as areas; what is left is its causal cone. */
export function outside(layout: MapLayout, from: End, blocks: Blocks): { x: number; y: number; w: number; h: number }[] {
  if (typeof from === "string") return [];
  const row = rowOf(layout, from.layer);
  if (!row) return [];
  const { heads, spine, mlp } = layout;
  const foot = row.y + row.h;
  const right = mlp.x + mlp.w;
  const areas = [{ x: heads.x, y: foot, w: right - heads.x, h: layout.height - FOOT - foot }];
  if (from.head === null || blocks.parallel) return [{ x: heads.x, y: row.y, w: right - heads.x, h: row.h }, ...areas];
  return [{ x: heads.x, y: row.y, w: spine.x + spine.w - heads.x, h: row.h }, ...areas];
}

/** The outline of what can read an end, from where it stands up to the logits. */
export function cone(layout: MapLayout, from: End, blocks: Blocks): string {
  const start = pointOf(layout, from);
  if (!start) return "";
  const { heads, mlp } = layout;
  const [left, right, top] = [heads.x, mlp.x + mlp.w, HEADS];
  const row = typeof from === "string" ? null : rowOf(layout, from.layer);
  const above = row ? row.y : layout.height - FOOT;
  const beside = row && typeof from === "object" && from.head !== null && !blocks.parallel;
  const side = beside ? `V${round(middle(row) + (row.kind === "open" ? 0 : row.h / 2))}H${mlp.x}V${round(above)}` : `V${round(above)}`;
  return `M${left} ${round(above)}V${top}H${right}${side}H${left}Z`;
}


