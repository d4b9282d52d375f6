/** The page's own view state, and its life in the address: only what differs from the default is written. */

import type { Edit, ProbeRecipe } from "../connect/wire";
import type { Unit, Weights } from "../lib/mix";

export type Mode = "base" | "edit" | "delta";

export interface View {
  tab: string;
  direction: "logit" | "mix";
  weights: Weights;
  /** Basis site; empty: the first the model offers. */
  site: string;
  unit: Unit;
  /** The same choice for the logit difference. */
  logits: "raw" | "centred";
  mode: Mode;
  /** Locked colour scale per unit. */
  locks: Record<string, number>;
  numbers: boolean;
  table: boolean;
  fit: boolean;
  selection: { layer: number; pos: number } | null;
}

/** What a shared link carries beside the view. */
export interface Shared {
  model: string;
  hash: string;
  prompt: string;
  bos: boolean;
  metric: { positive: string; negative: string } | null;
  edits: Edit[];
  /** The probes its edits are made from, to be fitted again. */
  probes: (ProbeRecipe & { name: string })[];
}

export const defaults = (): View => ({
  tab: "stream",
  direction: "logit",
  weights: {},
  site: "",
  unit: "centred",
  logits: "raw",
  mode: "base",
  locks: {},
  numbers: false,
  table: false,
  fit: false,
  selection: null,
});

const pairs = (record: Record<string | number, number>): string =>
  Object.entries(record)
    .filter(([, value]) => value !== 0)
    .map(([key, value]) => `${key}:${value}`)
    .join(",");

function unpairs(text: string): Record<string, number> {
  const record: Record<string, number> = {};
  for (const part of text.split(",")) {
    const [key, value] = part.split(":");
    if (key && Number.isFinite(Number(value))) record[key] = Number(value);
  }
  return record;
}

export function encodeView(view: View, shared: Shared | null = null): string {
  const usual = defaults();
  const query = new URLSearchParams();
  if (view.tab !== usual.tab) query.set("tab", view.tab);
  if (view.direction !== usual.direction) query.set("dir", view.direction);
  if (pairs(view.weights)) query.set("w", pairs(view.weights));
  if (view.site) query.set("site", view.site);
  if (view.unit !== usual.unit) query.set("unit", view.unit);
  if (view.logits !== usual.logits) query.set("logits", view.logits);
  if (view.mode !== usual.mode) query.set("view", view.mode);
  if (pairs(view.locks)) query.set("lock", pairs(view.locks));
  for (const flag of ["numbers", "table", "fit"] as const) if (view[flag]) query.set(flag, "1");
  if (view.selection) query.set("at", `${view.selection.layer}.${view.selection.pos}`);
  if (shared) query.set("share", JSON.stringify(shared));
  return query.toString();
}

const oneOf = <T extends string>(value: string | null, allowed: readonly T[], usual: T): T =>
  allowed.includes(value as T) ? (value as T) : usual;

export function decodeView(hash: string): { view: View; shared: Shared | null } {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const view = defaults();
  view.tab = query.get("tab") ?? view.tab;
  view.direction = oneOf(query.get("dir"), ["logit", "mix"], view.direction);
  for (const [index, weight] of Object.entries(unpairs(query.get("w") ?? "")))
    if (/^\d+$/.test(index)) view.weights[+index] = Math.max(-1, Math.min(1, weight));
  view.site = query.get("site") ?? "";
  view.unit = oneOf(query.get("unit"), ["centred", "raw", "cos"], view.unit);
  view.logits = oneOf(query.get("logits"), ["raw", "centred"], view.logits);
  view.mode = oneOf(query.get("view"), ["base", "edit", "delta"], view.mode);
  for (const [unit, scale] of Object.entries(unpairs(query.get("lock") ?? ""))) if (scale > 0) view.locks[unit] = scale;
  for (const flag of ["numbers", "table", "fit"] as const) view[flag] = query.get(flag) === "1";
  const at = /^(-?\d+)\.(\d+)$/.exec(query.get("at") ?? "");
  if (at) view.selection = { layer: +at[1], pos: +at[2] };
  return { view, shared: decodeShared(query.get("share")) };
}

/** A link comes from anyone: take only what has the right shape; the server checks the rest. */
function decodeShared(text: string | null): Shared | null {
  if (!text) return null;
  try {
    const raw = JSON.parse(text) as Partial<Shared>;
    if (typeof raw.prompt !== "string" || typeof raw.model !== "string") return null;
    const { positive, negative } = raw.metric ?? {};
    const metric = typeof positive === "string" && typeof negative === "string" ? { positive, negative } : null;
    const edits = Array.isArray(raw.edits) ? raw.edits : [];
    const probes = Array.isArray(raw.probes) ? raw.probes.filter((probe) => typeof probe?.name === "string") : [];
    return { model: raw.model, hash: String(raw.hash ?? ""), prompt: raw.prompt, bos: raw.bos === true, metric, edits, probes };
  } catch {
    return null;
  }
}
