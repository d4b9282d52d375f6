/** The map's edits: which nodes a stack acts on, and the stack with some nodes' edits put on or taken off. */

import type { Edit, ShownEdit } from "../connect/wire";
import { rounded } from "./edits";
import type { Node } from "./map";

export type Act = "ablate" | "freeze" | "isolate" | "scale" | "patch";
const ACTS: Act[] = ["ablate", "freeze", "isolate", "scale", "patch"];

/** Where each act of a node is done: a head's in its z, but its pattern is what is frozen. */
const siteOf = (act: Act, { layer, head }: Node): string => `${head === null ? "mlp_out" : act === "freeze" ? "pattern" : "z"}.${layer}`;
const key = ({ layer, head }: Node): string => `${layer}.${head ?? "mlp"}`;

/** The heads an edit names; null: all. */
const headsOf = (edit: Edit): number[] | null => (edit.head === undefined || edit.head === null ? null : ([edit.head].flat() as number[]));

/** Edits of a whole node: at every position, of nothing within it, and by zero where that is what they put. */
function whole(edit: Edit, act: Act): boolean {
  const within = [edit.pos, edit.kv_head, edit.neuron, edit.feature].some((value) => value !== undefined && value !== null);
  return edit.kind === act && !within && (edit.to === undefined || edit.to === "zero");
}

const covers = (edit: Edit, act: Act, node: Node): boolean =>
  whole(edit, act) && edit.site === siteOf(act, node) && (node.head === null || (headsOf(edit)?.includes(node.head) ?? true));

/** Which acts are done on each node, by `layer.head` or `layer.mlp`; of edits that are switched on. */
export function acted(edits: readonly ShownEdit[], heads: number): Map<string, Map<Act, number>> {
  const found = new Map<string, Map<Act, number>>();
  for (const edit of edits) {
    if (!edit.enabled || edit.error) continue;
    const [name, layer] = [edit.site as string | undefined, Number(String(edit.site).split(".")[1])];
    const act = ACTS.find((one) => edit.kind === one);
    if (!act || !name || Number.isNaN(layer)) continue;
    const mlp = name.startsWith("mlp_out.");
    if (!mlp && !/^(z|result|pattern|scores)\./.test(name)) continue;
    const nodes: Node[] = mlp ? [{ layer, head: null }] : (headsOf(edit) ?? Array.from({ length: heads }, (_, head) => head)).map((head) => ({ layer, head }));
    for (const node of nodes) {
      const acts = found.get(key(node)) ?? new Map<Act, number>();
      found.set(key(node), acts.set(act, act === "scale" ? Number(edit.factor ?? 1) : 1));
    }
  }
  return found;
}
export const actsOn = (all: Map<string, Map<Act, number>>, node: Node): Map<Act, number> => all.get(key(node)) ?? NONE;
const NONE: Map<Act, number> = new Map();

/** Of a node's edits of a kind, whether one is the one that is meant: of patches, those from one run. */
type Meant = (edit: Edit) => boolean;
const any: Meant = () => true;

/** Whether every one of some nodes has it. */
export const done = (edits: readonly Edit[], act: Act, nodes: readonly Node[], meant: Meant = any): boolean =>
  nodes.length > 0 && nodes.every((node) => edits.some((edit) => edit.enabled !== false && covers(edit, act, node) && meant(edit)));

/** The stack without an act on some nodes: of an edit that names more heads, the others stay. */
function without<E extends Edit>(edits: readonly E[], act: Act, nodes: readonly Node[], heads: number): E[] {
  return edits.flatMap((edit) => {
    const mine = nodes.filter((node) => covers(edit, act, node));
    if (!mine.length) return [edit];
    const left = (headsOf(edit) ?? Array.from({ length: heads }, (_, head) => head)).filter((head) => !mine.some((node) => node.head === head));
    return mine.some(({ head }) => head === null) || !left.length ? [] : [{ ...edit, head: one(left) }];
  });
}
const one = (heads: number[]): number | number[] => (heads.length === 1 ? heads[0] : heads);

/** New edits of some nodes: one for each layer. */
function put(act: Act, nodes: readonly Node[], more: Record<string, unknown> = {}): Edit[] {
  const sites = new Map<string, number[]>();
  for (const node of nodes) {
    const site = siteOf(act, node);
    sites.set(site, [...(sites.get(site) ?? []), ...(node.head === null ? [] : [node.head])]);
  }
  const zero = act === "ablate" || act === "isolate" ? { to: "zero" } : {};
  return [...sites].map(([site, heads]) => ({ kind: act, site, ...(heads.length ? { head: one(heads) } : {}), ...zero, ...more }));
}

/** On where a node lacks it, off where all have it. more: what such an edit says beside its place; meant: which one it is. */
export function toggled(edits: readonly Edit[], act: Act, nodes: readonly Node[], heads: number, more: Record<string, unknown> = {}, meant: Meant = any): Edit[] {
  const able = act === "isolate" ? nodes.filter(({ head }) => head !== null) : nodes;
  if (done(edits, act, able, meant)) return without(edits, act, able, heads);
  const lacking = able.filter((node) => !done(edits, act, [node], meant));
  return [...without(edits, act, lacking, heads), ...put(act, lacking, more)]; // what was switched off, or is from elsewhere, makes way
}

/** Each node's factor a step up or down; at one the edit goes. */
export function scaled(edits: readonly Edit[], nodes: readonly Node[], step: number, heads: number): Edit[] {
  const factors = new Map<number, Node[]>();
  for (const node of nodes) {
    const now = edits.find((edit) => covers(edit, "scale", node));
    const factor = rounded(Number(now?.factor ?? 1) + step);
    factors.set(factor, [...(factors.get(factor) ?? []), node]);
  }
  const rest = without(edits, "scale", nodes, heads);
  return [...rest, ...[...factors].flatMap(([factor, some]) => (factor === 1 ? [] : put("scale", some, { factor })))];
}
