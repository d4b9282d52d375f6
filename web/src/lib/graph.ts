/** A causal graph as the Graph tab has it: what is chosen in it, what its thresholds are, what follows from a choice. */

import type { Edit, GraphNode, GraphShown } from "../connect/wire";

/** What is looked at: a node or an edge, by the ids that the picture has. */
export type Chosen = { node: string } | { source: string; target: string } | null;

export interface Thresholds {
  /** Least |weight|; 0: all. */
  least: number;
  /** The share of all influence on the next token that the nodes shown have; 1: all. */
  influence: number;
  /** Edges between any two dictionaries; 0: all. */
  perLevel: number;
  /** Edges on paths of at least so many; 1: all. */
  path: number;
}

export const ALL: Thresholds = { least: 0, influence: 1, perLevel: 0, path: 1 };
/** Edges between two dictionaries that are shown first: about as many as can be told apart. */
export const FIRST_EDGES = 25;

/** As the query `graph` takes them. */
export function asked({ least, influence, perLevel, path }: Thresholds): { least?: number; influence?: number; per_level?: number; path?: number } {
  return {
    ...(least > 0 ? { least } : {}),
    ...(influence < 1 ? { influence } : {}),
    ...(perLevel > 0 ? { per_level: perLevel } : {}),
    ...(path > 1 ? { path } : {}),
  };
}

/** A slider's place, 0 to 1, as a weight: by equal ratios between the least and the largest; 0 is all. */
export function weightAt(place: number, [low, high]: number[]): number {
  if (place <= 0 || !(high > 0)) return 0;
  const from = Math.max(low, high * 1e-4);
  return from * (high / from) ** Math.min(1, place);
}
export function placeOf(weight: number, [low, high]: number[]): number {
  const from = Math.max(low, high * 1e-4);
  if (weight <= 0 || !(high > from)) return 0;
  return Math.max(0, Math.min(1, Math.log(weight / from) / Math.log(high / from)));
}

/** The place of what is chosen among the picture's values: nodes, then edges; null where it is not in it. */
export function itemOf(shown: GraphShown, chosen: Chosen): number | null {
  if (!chosen) return null;
  const at = (id: string) => shown.nodes.findIndex((node) => node.id === id);
  if ("node" in chosen) return at(chosen.node) < 0 ? null : at(chosen.node);
  const [source, target] = [at(chosen.source), at(chosen.target)];
  const edge = shown.edges.findIndex((one) => one.source === source && one.target === target);
  return edge < 0 ? null : shown.nodes.length + edge;
}

export function chosenAt(shown: GraphShown, item: number): Chosen {
  if (item < shown.nodes.length) return { node: shown.nodes[item].id };
  const edge = shown.edges[item - shown.nodes.length];
  return edge ? { source: shown.nodes[edge.source].id, target: shown.nodes[edge.target].id } : null;
}

export interface Intervention {
  edits: Edit[];
  /** Nodes that no edit takes out, and why. */
  left: { id: string; why: string }[];
}

/** The edits that take nodes out of the live run, one for each dictionary and position, at the graph's own positions where it is of this prompt. */
export function intervention(shown: GraphShown, ids: string[], here: boolean): Intervention {
  const dictionaries = new Map(shown.dictionaries.map((one) => [one.id, one]));
  const grouped = new Map<string, { held: GraphShown["dictionaries"][number]; pos: number[] | null; index: number[] }>();
  const left: Intervention["left"] = [];
  for (const id of ids) {
    const parts = partsOf(id);
    const held = parts && dictionaries.get(parts.dictionary);
    if (!parts || !held) left.push({ id, why: "it is no feature" });
    else if (parts.index === null) left.push({ id, why: "it is what the dictionary leaves out, which no feature's edit changes" });
    else if (held.missing !== null) left.push({ id, why: held.missing });
    else {
      const pos = !here ? null : parts.pos !== null ? [parts.pos] : shown.positions;
      const key = JSON.stringify([held.id, pos]);
      const one = grouped.get(key) ?? { held, pos, index: [] };
      if (!one.index.includes(parts.index)) one.index.push(parts.index);
      grouped.set(key, one);
    }
  }
  const edits = [...grouped.values()].map(({ held, pos, index }): Edit => {
    const sorted = index.toSorted((a, b) => a - b);
    const where = pos ? { pos } : {};
    if (held.here !== null) return { kind: "feature", dictionary: held.here, index: sorted, scale: shown.scale, ...where };
    const part = held.write_site.startsWith("z.") ? { head: sorted } : { neuron: sorted }; // the model's own
    return shown.scale === 0 ? { kind: "ablate", site: held.write_site, ...part, to: "zero", ...where } : { kind: "scale", site: held.write_site, ...part, factor: shown.scale, ...where };
  });
  return { edits, left };
}

/** "sae@resid_post.8/123@5": its dictionary, feature and position; the feature is null of an error. */
export function partsOf(id: string): { dictionary: string; index: number | null; pos: number | null } | null {
  const found = /^(.+)\/(\d+|error)(?:@(\d+))?$/.exec(id);
  if (!found) return null;
  return { dictionary: found[1], index: found[2] === "error" ? null : Number(found[2]), pos: found[3] === undefined ? null : Number(found[3]) };
}

/** The nodes of the graph that some of the picture's stand for. */
export const membersOf = (shown: GraphShown, ids: string[]): string[] => [...new Set(ids.flatMap((id) => shown.nodes.find((node) => node.id === id)?.members ?? []))];

/** What a node is called where it stands alone. */
export function nameOf(node: GraphNode): string {
  const at = node.pos === null ? "" : ` at ${node.pos}`;
  return node.dictionary && node.group === "" ? `${node.label} of ${node.dictionary}${at}` : node.label;
}

export type Column = "source" | "target" | "weight" | "exact";

/** The edges in a column's order. */
export function sorted(shown: GraphShown, by: Column, descending: boolean): number[] {
  const value = (i: number): string | number => {
    const edge = shown.edges[i];
    if (by === "weight") return Math.abs(edge.weight);
    if (by === "exact") return edge.exact === null ? -1 : Math.abs(edge.exact);
    return nameOf(shown.nodes[edge[by]]);
  };
  const collator = new Intl.Collator("en", { numeric: true });
  const order = (a: number, b: number): number => {
    const [x, y] = [value(a), value(b)];
    return typeof x === "number" && typeof y === "number" ? x - y : collator.compare(String(x), String(y));
  };
  return shown.edges.map((_, i) => i).sort((a, b) => (descending ? -order(a, b) : order(a, b)) || a - b);
}
