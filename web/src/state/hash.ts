/** The page's own view state, and its life in the address: only what differs from the default is written. */

import type { Chat, Edit, ProbeRecipe } from "../connect/wire";
import { MOST_WHOLE, type Unit } from "../lib/dictionaries";
import { headsKey, readHeads, usualHeads, type HeadsSight } from "../lib/headsSight";
import { LENS_SHOWS, type LensShow } from "../lib/lens";
import { nodeKey, readNode, type Node } from "../lib/map";
import { pickKey, readPick, usualTask, type PromptsPick } from "../lib/averages";
import { MEASURES, SITES, SWEEPS, usualPatch, type PatchSight } from "../lib/patchGrid";
import { parseTerm, type Terms, type Weights } from "../lib/mix";

export type Mode = "base" | "edit" | "delta";

export interface View {
  tab: string;
  direction: "logit" | "mix";
  /** Of the chosen dictionary's components. */
  weights: Weights;
  /** Of other dictionaries' components and of saved directions. */
  terms: Terms;
  /** What else stands among the sliders: dictionaries by id, saved directions as "saved:NAME". */
  also: string[];
  /** The chosen dictionary; empty: the usual one of the model. */
  dictionary: string;
  unit: Unit;
  /** The same choice for the logit difference. */
  logits: "raw" | "centred";
  mode: Mode;
  /** Whether each row has a colour scale of its own; auto: where its numbers grow with depth. */
  scaling: "auto" | "row" | "whole";
  /** Locked colour scale per unit. */
  locks: Record<string, number>;
  numbers: boolean;
  table: boolean;
  fit: boolean;
  selection: { layer: number; pos: number } | null;
  map: MapSight;
  lens: LensSight;
  patch: PatchSight;
  /** The prompts that averages are over. */
  over: PromptsPick;
  heads: HeadsSight;
  /** The address of the feature that is looked at; empty: none. */
  feature: string;
  /** The causal graph of the shelf that is looked at; empty: the latest. */
  graph: string;
}

export const TINTS_BY = ["direct", "attention", "ablation", "weights", "previous-token", "current-token", "first-token", "duplicate-token", "induction"] as const;
export type TintBy = (typeof TINTS_BY)[number];

/** What the lens shows; token: the one that is followed, null: what the run says. through: a tuned lens of the shelf, null: none. */
export interface LensSight {
  show: LensShow;
  token: string | null;
  through: string | null;
}

/** How the map is looked at. */
export interface MapSight {
  tint: TintBy;
  node: Node | null;
  /** The other corner of a rectangle of nodes. */
  corner: Node | null;
  /** The open layer is drawn from within, and at which position: null, the metric's. */
  inside: boolean;
  /** The token to which attention tints; null: the answer. */
  to: number | null;
  pos: number | null;
}

/** What a shared link carries beside the view. */
export interface Shared {
  model: string;
  hash: string;
  /** The model beside it. */
  other?: string | null;
  prompt: string;
  bos: boolean;
  /** Its tokens, where the text alone would be read as others. */
  ids?: number[];
  metric: { positive: string; negative: string } | null;
  /** The conversation that the prompt was made of. */
  chat?: Chat;
  companion?: { text: string | null; bos?: boolean; ids?: number[] };
  edits: Edit[];
  /** The probes its edits are made from, to be fitted again. */
  probes: (ProbeRecipe & { name: string })[];
}

export const defaults = (): View => ({
  tab: "stream",
  direction: "logit",
  weights: {},
  terms: {},
  also: [],
  dictionary: "",
  unit: "own",
  logits: "raw",
  mode: "base",
  scaling: "auto",
  locks: {},
  numbers: false,
  table: false,
  fit: false,
  selection: null,
  map: { tint: "direct", node: null, corner: null, inside: false, to: null, pos: null },
  lens: { show: "top", token: null, through: null },
  patch: usualPatch(),
  over: usualTask(),
  heads: usualHeads(),
  feature: "",
  graph: "",
});

/** What somebody sees who comes without a link: what this prompt adds, and not the offset that any text has. */
export const first = (): View => ({ ...defaults(), logits: "centred" });

const pairs = (record: Record<string | number, number>): string =>
  Object.entries(record)
    .filter(([, value]) => value !== 0)
    .map(([key, value]) => `${key}:${brief(value)}`)
    .join(",");

/** Five digits: a cosine is then right to 1e-4, and the link stays short. */
const brief = (value: number): number => Number(value.toPrecision(5));

const LONGEST_LIST = 24;
const LONGEST_ADDRESS = 300;
const LONGEST_TOKEN = 400;
const PATCHED = ["sweep", "site", "clean", "mode", "by", "window"] as const;
const listed = (keys: string[]): string => keys.map(encodeURIComponent).join(",");

function unlisted(text: string | null): string[] {
  try {
    return (text ?? "").split(",").filter(Boolean).slice(0, LONGEST_LIST).map(decodeURIComponent);
  } catch {
    return []; // not percent-encoded as we do it
  }
}

const terms = (found: Terms): string => listed(Object.entries(found).filter(([, value]) => value !== 0).map(([key, value]) => `${key}*${brief(value)}`));

function unterms(text: string | null): Terms {
  const found: Terms = {};
  for (const part of unlisted(text)) {
    const at = part.lastIndexOf("*");
    const [key, weight] = [part.slice(0, at), Number(part.slice(at + 1))];
    if (at > 0 && parseTerm(key) && Number.isFinite(weight)) found[key] = clamp(weight);
  }
  return found;
}

const clamp = (weight: number): number => Math.max(-1, Math.min(1, weight));

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
  if (view.tab !== (view.feature ? "features" : usual.tab)) query.set("tab", view.tab);
  if (view.direction !== usual.direction) query.set("dir", view.direction);
  if (pairs(view.weights)) query.set("w", pairs(view.weights));
  if (terms(view.terms)) query.set("mix", terms(view.terms));
  if (view.also.length) query.set("also", listed(view.also));
  if (view.dictionary) query.set("d", view.dictionary);
  if (view.unit !== usual.unit) query.set("unit", view.unit);
  if (view.logits !== usual.logits) query.set("logits", view.logits);
  if (view.mode !== usual.mode) query.set("view", view.mode);
  if (view.scaling !== usual.scaling) query.set("scale", view.scaling);
  if (pairs(view.locks)) query.set("lock", pairs(view.locks));
  for (const flag of ["numbers", "table", "fit"] as const) if (view[flag]) query.set(flag, "1");
  if (view.selection) query.set("at", `${view.selection.layer}.${view.selection.pos}`);
  const { tint, node, corner, inside, to, pos } = view.map;
  if (tint === "attention" && to !== null) query.set("to", String(to));
  if (tint !== usual.map.tint) query.set("tint", tint);
  if (node) query.set("node", [node, ...(corner ? [corner] : [])].map(nodeKey).join("-"));
  if (inside) query.set("inside", pos === null ? "1" : `at ${pos}`);
  if (view.lens.show !== usual.lens.show) query.set("lens", view.lens.show);
  if (view.lens.token !== null) query.set("token", view.lens.token);
  if (view.lens.through !== null) query.set("through", view.lens.through);
  for (const name of PATCHED) if (view.patch[name] !== usual.patch[name]) query.set(`patch-${name}`, String(view.patch[name]));
  if (headsKey(view.heads) !== headsKey(usual.heads)) query.set("heads", headsKey(view.heads));
  if (view.patch.average) query.set("patch-of", "task");
  if (pickKey(view.over) !== pickKey(usual.over)) query.set("task", pickKey(view.over));
  if (view.patch.subject) query.set("patch-subject", view.patch.subject.join("."));
  if (view.feature) query.set("feature", view.feature);
  if (view.graph) query.set("graph", view.graph);
  if (shared) query.set("share", JSON.stringify(shared));
  return query.toString();
}

const oneOf = <T extends string>(value: string | null, allowed: readonly T[], usual: T): T =>
  allowed.includes(value as T) ? (value as T) : usual;

export function decodeView(hash: string): { view: View; shared: Shared | null } {
  const query = new URLSearchParams(hash.replace(/^#/, ""));
  const view = query.size ? defaults() : first();
  view.feature = (query.get("feature") ?? "").slice(0, LONGEST_ADDRESS);
  view.graph = (query.get("graph") ?? "").slice(0, LONGEST_ADDRESS);
  view.tab = query.get("tab") ?? (view.feature ? "features" : view.tab);
  view.direction = oneOf(query.get("dir"), ["logit", "mix"], view.direction);
  for (const [index, weight] of Object.entries(unpairs(query.get("w") ?? "")).slice(0, MOST_WHOLE))
    if (/^\d+$/.test(index)) view.weights[+index] = clamp(weight);
  view.terms = unterms(query.get("mix"));
  view.also = unlisted(query.get("also"));
  const site = query.get("site"); // of links made while components were the only dictionaries
  view.dictionary = query.get("d") ?? (site ? `pca@${site}` : "");
  view.unit = oneOf(query.get("unit"), ["own", "centred", "raw", "cos"], view.unit);
  view.logits = oneOf(query.get("logits"), ["raw", "centred"], view.logits);
  view.mode = oneOf(query.get("view"), ["base", "edit", "delta"], view.mode);
  view.scaling = oneOf(query.get("scale"), ["auto", "row", "whole"], view.scaling);
  for (const [unit, scale] of Object.entries(unpairs(query.get("lock") ?? ""))) if (scale > 0) view.locks[unit] = scale;
  for (const flag of ["numbers", "table", "fit"] as const) view[flag] = query.get(flag) === "1";
  const at = /^(-?\d+)\.(\d+)$/.exec(query.get("at") ?? "");
  if (at) view.selection = { layer: +at[1], pos: +at[2] };
  const [node, corner] = (query.get("node") ?? "").split("-").map(readNode);
  const inside = /^(1|at (\d+))$/.exec(query.get("inside") ?? "");
  const tint = oneOf(query.get("tint"), TINTS_BY, view.map.tint);
  view.map = { tint, node: node ?? null, corner: (node && corner) ?? null, inside: !!inside, to: /^\d+$/.test(query.get("to") ?? "") ? Number(query.get("to")) : null, pos: inside?.[2] ? +inside[2] : null };
  view.lens = { show: oneOf(query.get("lens"), LENS_SHOWS, view.lens.show), token: query.get("token")?.slice(0, LONGEST_TOKEN) || null, through: query.get("through")?.slice(0, LONGEST_TOKEN) || null };
  const { patch } = view;
  view.heads = readHeads(query.get("heads"));
  view.over = readPick(query.get("task")) ?? view.over;
  const subject = (query.get("patch-subject") ?? "").split(".").filter((pos) => /^\d+$/.test(pos)).map(Number);
  view.patch = {
    sweep: oneOf(query.get("patch-sweep"), SWEEPS, patch.sweep), site: oneOf(query.get("patch-site"), SITES, patch.site), clean: oneOf(query.get("patch-clean"), ["prompt", "companion"], patch.clean),
    mode: oneOf(query.get("patch-mode"), ["denoise", "noise"], patch.mode), by: oneOf(query.get("patch-by"), MEASURES, patch.by),
    average: query.get("patch-of") === "task", subject: subject.length ? subject : null, window: Math.min(1000, Math.max(1, Math.round(Number(query.get("patch-window")) || patch.window))),
  };
  return { view, shared: decodeShared(query.get("share")) };
}

const idsIn = ({ ids }: { ids?: unknown }): { ids?: number[] } => (Array.isArray(ids) && ids.length && ids.every(Number.isInteger) ? { ids } : {});

function chatOf(raw: Partial<Chat> | undefined): Chat | undefined {
  const messages = Array.isArray(raw?.messages) ? raw.messages.filter((turn) => typeof turn?.role === "string" && typeof turn.content === "string") : [];
  return messages.length ? { messages, answer: raw!.answer !== false } : undefined;
}

/** A link comes from anyone: take only what has the right shape; the server checks the rest. */
function decodeShared(text: string | null): Shared | null {
  if (!text) return null;
  try {
    const raw = JSON.parse(text) as Partial<Shared>;
    if (typeof raw.prompt !== "string" || typeof raw.model !== "string") return null;
    const { positive, negative } = raw.metric ?? {};
    const metric = typeof positive === "string" && typeof negative === "string" ? { positive, negative } : null;
    const companion = typeof raw.companion?.text === "string" ? { text: raw.companion.text, bos: raw.companion.bos === true, ...idsIn(raw.companion) } : undefined;
    const edits = Array.isArray(raw.edits) ? raw.edits.filter((edit) => typeof edit?.kind === "string") : [];
    const probes = Array.isArray(raw.probes) ? raw.probes.filter((probe) => typeof probe?.name === "string") : [];
    const other = typeof raw.other === "string" && raw.other ? { other: raw.other } : {};
    return { model: raw.model, hash: String(raw.hash ?? ""), ...other, prompt: raw.prompt, bos: raw.bos === true, ...idsIn(raw), metric, chat: chatOf(raw.chat), companion, edits, probes };
  } catch {
    return null;
  }
}
