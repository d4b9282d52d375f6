/** The map's numbers: what every part of one run adds to the logit difference, at one position. */

import type { QueryAnswers } from "../connect/connector";
import { bytes, floats } from "../connect/safetensors";
import { topOf } from "./scale";

/** A part of a layer: one of its heads, or its MLP. */
export interface Node {
  layer: number;
  /** Null: the MLP. */
  head: number | null;
}

export interface MapData {
  run: string;
  layers: number;
  heads: number;
  pos: number;
  metric: number;
  /** [layer, head]. */
  effects: Float32Array;
  attn: Float32Array;
  /** Null: the model has no MLP that writes by itself. */
  mlp: Float32Array | null;
  /** Beside layers, by name: `embed`, edits of the stream, biases. */
  terms: Record<string, number>;
  /** [layer, head, key]: attention from the position. */
  looks: Float32Array | null;
  /** [layer, head, side, side]: 255 for all attention. */
  thumbs: Uint8Array | null;
  side: number;
  /** Why there are no patterns. */
  absent: string;
}

export function readMap(file: QueryAnswers["map"], run: string): MapData {
  const { shape, data: effects } = floats(file, "heads");
  const thumbs = file.tensors.thumbs ? bytes(file, "thumbs") : null;
  const { pos, metric, terms, absent } = file.metadata;
  return {
    run, layers: shape[0], heads: shape[1], effects, attn: floats(file, "attn").data,
    mlp: file.tensors.mlp ? floats(file, "mlp").data : null,
    pos: JSON.parse(pos) as number, metric: JSON.parse(metric) as number, terms: JSON.parse(terms) as Record<string, number>,
    looks: file.tensors.looks ? floats(file, "looks").data : null, thumbs: thumbs?.data ?? null, side: thumbs?.shape.at(-1) ?? 0,
    absent: (JSON.parse(absent) as string | null) ?? "",
  };
}

/** A step of a layer, as Python says it. */
export interface SiteRow {
  /** Empty: a part that no site shows, and that `place` names. */
  site: string;
  place: string;
  shape: Record<string, number>;
  about: string;
  norm: number | null;
  /** At the position, by head where there are heads: lengths, or the largest value and `where` it is. */
  values: number[];
  where: number[] | null;
  equation: string;
  reads: string[];
  /** The site that is the same tensor, and is drawn for it. */
  same: string | null;
}

/** One layer in full. */
export interface LayerData {
  layer: number;
  run: string;
  pos: number;
  /** [head, query, key]; null where the model has no patterns. */
  pattern: Float32Array | null;
  side: number;
  norms: Float32Array;
  neurons: { index: number; effect: number }[];
  sites: SiteRow[];
  absent: string;
}

export function readLayer(file: QueryAnswers["map_layer"], layer: number, run: string): LayerData {
  const pattern = file.tensors.pattern ? floats(file, "pattern") : null;
  const effects = file.tensors.neuron_effect ? floats(file, "neuron_effect").data : new Float32Array();
  const { sites, absent, pos } = file.metadata;
  return {
    layer, run, pos: JSON.parse(pos) as number, pattern: pattern?.data ?? null, side: pattern?.shape.at(-1) ?? 0, norms: floats(file, "z_norm").data,
    neurons: Array.from(effects, (effect, i) => ({ index: Number(file.tensors.neuron?.data[i]), effect })),
    sites: JSON.parse(sites) as SiteRow[], absent: (JSON.parse(absent) as string | null) ?? "",
  };
}

/** More tokens than this in the open row are drawn from what was made small: there every bright cell stays. */
export const MOST_DRAWN = 48;

/** What a head attends to most at the layer's position. */
export function looksAt({ layer, sites }: LayerData, head: number): { key: number; weight: number } | null {
  const row = sites.find(({ site }) => site === `pattern.${layer}`);
  return row?.where ? { key: row.where[head], weight: row.values[head] } : null;
}

/** The attention of every head to one token; NaN where the model has no patterns. */
export function attentionTo({ looks, layers, heads }: MapData, key: number): Float32Array {
  const width = looks ? looks.length / (layers * heads) : 0;
  return Float32Array.from({ length: layers * heads }, (_, i) => looks?.[i * width + key] ?? NaN);
}

/** Values of every head and MLP, from whatever tints them. */
export interface Tint {
  heads: Float32Array;
  mlp: Float32Array | null;
}

/** Their full colour, those of both runs together: 98.5 % of them are within it. */
export function tintScale(...tints: (Tint | null)[]): number {
  const sizes = tints.flatMap((tint) => (tint ? [...tint.heads, ...(tint.mlp ?? [])] : [])).filter(Number.isFinite);
  return topOf(Float32Array.from(sizes, Math.abs), 0.985);
}

/** Decimals that tell apart what is a tenth of the scale. */
export const digitsFor = (scale: number): number => (scale >= 0.5 ? 2 : scale >= 0.05 ? 3 : 4);

const less = (b: Float32Array, a: Float32Array): Float32Array => b.map((value, i) => value - a[i]);

/** b less a. */
export function difference(b: MapData, a: MapData): MapData {
  const names = new Set([...Object.keys(a.terms), ...Object.keys(b.terms)]);
  return {
    ...b, metric: b.metric - a.metric, effects: less(b.effects, a.effects), attn: less(b.attn, a.attn),
    mlp: b.mlp && a.mlp && less(b.mlp, a.mlp),
    looks: b.looks && a.looks?.length === b.looks.length ? less(b.looks, a.looks) : null,
    terms: Object.fromEntries([...names].map((name) => [name, (b.terms[name] ?? 0) - (a.terms[name] ?? 0)])),
  };
}

/** What is there of the metric once each layer has written: the embedding, then layer by layer. Terms that belong to no layer stand first. */
export function summed({ layers, attn, mlp, terms }: MapData): number[] {
  let sum = Object.values(terms).reduce((total, term) => total + term, 0);
  const found = [sum];
  for (let layer = 0; layer < layers; layer++) found.push((sum += attn[layer] + (mlp?.[layer] ?? 0)));
  return found;
}

/** How a node is called: `23.3`, `mlp 23`. */
export const nodeName = ({ layer, head }: Node): string => (head === null ? `mlp ${layer}` : `${layer}.${head}`);
export const nodeSite = ({ layer, head }: Node): string => (head === null ? `mlp_out.${layer}` : `z.${layer} head ${head}`);
export const sameNode = (a: Node | null, b: Node | null): boolean => a?.layer === b?.layer && a?.head === b?.head;

/** A node in an address: `23.3`, `23.mlp`. */
export const nodeKey = ({ layer, head }: Node): string => `${layer}.${head ?? "mlp"}`;
export function readNode(text: string): Node | null {
  const found = /^(\d{1,4})\.(\d{1,4}|mlp)$/.exec(text);
  return found && { layer: +found[1], head: found[2] === "mlp" ? null : +found[2] };
}

/** Every node of the rectangle between two. */
export function between(a: Node, b: Node, heads: number): Node[] {
  const column = ({ head }: Node) => head ?? heads;
  const [low, high] = [Math.min(a.layer, b.layer), Math.max(a.layer, b.layer)];
  const [from, to] = [Math.min(column(a), column(b)), Math.max(column(a), column(b))];
  const found: Node[] = [];
  for (let layer = low; layer <= high; layer++) for (let head = from; head <= to; head++) found.push({ layer, head: head === heads ? null : head });
  return found;
}
