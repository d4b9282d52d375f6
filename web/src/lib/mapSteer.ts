/** Steering a part of the map: along a direction of its own width in its z, else in the stream behind its layer. */

import type { Edit } from "../connect/wire";
import type { Node } from "./map";

export interface Along {
  direction: unknown;
  label: string;
  /** Null: not known. */
  width: number | null;
  strength: { strength: number; unit: string };
}

/** Where each node is steered; one edit a layer. */
export function steers(nodes: readonly Node[], { direction, width, strength }: Along, dModel: number): Edit[] {
  const sites = new Map<string, number[]>();
  for (const { layer, head } of nodes) {
    const site = width === null || width === dModel ? `resid_post.${layer}` : head === null ? `mlp_post.${layer}` : `z.${layer}`;
    sites.set(site, [...(sites.get(site) ?? []), ...(site.startsWith("z.") && head !== null ? [head] : [])]);
  }
  return [...sites].map(([site, heads]) => ({ kind: "steer", site, ...(heads.length ? { head: heads.length === 1 ? heads[0] : heads } : {}), direction, ...strength }));
}

const listed = (value: unknown): string => JSON.stringify(value === null || value === undefined ? null : [value].flat());
const plain = (value: unknown): string => JSON.stringify(value, (_, part: unknown) => (part && typeof part === "object" && !Array.isArray(part) ? Object.fromEntries(Object.entries(part).filter(([, one]) => one !== null).sort()) : part));

/** The same place and direction, at every position: another strength is the same edit, turned. */
export const sameSteer = (a: Edit, b: Edit): boolean =>
  a.kind === "steer" && b.kind === "steer" && a.site === b.site && listed(a.head) === listed(b.head) && listed(a.pos) === listed(b.pos) && plain(a.direction) === plain(b.direction);

/** On where it is lacking, off where all of it is there. */
export function toggledSteers(edits: readonly Edit[], wanted: readonly Edit[]): Edit[] {
  const has = (one: Edit) => edits.some((edit) => edit.enabled !== false && sameSteer(edit, one));
  const others = edits.filter((edit) => !wanted.some((one) => sameSteer(edit, one)));
  return wanted.every(has) ? others : [...edits.filter((edit) => others.includes(edit) || edit.enabled !== false), ...wanted.filter((one) => !has(one))];
}
