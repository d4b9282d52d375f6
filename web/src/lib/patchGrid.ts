/** Patching sweeps over the prompt and its companion: what is asked, and the picture of what came. */

import type { Companion, Edit, Metric, Prompt } from "../connect/wire";
import type { HeatMapView, PlainView } from "../views/kinds/plain";
import type { Field } from "./stream";

export const SWEEPS = ["activation-patching", "attribution-patching", "causal-tracing"] as const;
export type SweepName = (typeof SWEEPS)[number];
export const SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z"] as const;
export const MEASURES = ["share", "logits", "log_prob"] as const;
export type Measure = (typeof MEASURES)[number];

/** What is swept. clean: which of the two is the one that answers; mode: denoise puts its values into the other's run, noise the other way. */
export interface PatchSight {
  sweep: SweepName;
  site: (typeof SITES)[number];
  clean: "prompt" | "companion";
  mode: "denoise" | "noise";
  by: Measure;
  /** In place of the two prompts, each prompt of a task and its partner: the mean. */
  average: boolean;
  /** Of causal tracing: the tokens that noise hides, null: those that the companion changes, else the chosen one; and layers at once. */
  subject: number[] | null;
  window: number;
}

export const usualPatch = (): PatchSight => ({ sweep: "activation-patching", site: "resid_pre", clean: "prompt", mode: "denoise", by: "share", average: false, subject: null, window: 1 });

type Said = Pick<Prompt, "text" | "bos" | "by_ids" | "tokens">;
const typed = ({ text, bos, by_ids, tokens }: Said) => ({ kind: "typed", texts: [text], bos, ids: by_ids ? [tokens.map(({ id }) => id)] : null });

/** What the metric of a sweep is, as a method takes it. */
const metricOf = (metric: Metric, by: Measure) =>
  by === "log_prob" ? { kind: "log_prob", token: metric.positive.text } : { kind: "logit_diff", positive: metric.positive.text, negative: metric.negative.text };

/** A sweep as a method's arguments; null where something is lacking. */
export function sweepArgs(sight: PatchSight, prompt: Said | null, companion: Said | null, metric: Metric | null, subject: number[]): Record<string, unknown> | null {
  if (!prompt || !metric) return null;
  if (sight.sweep === "causal-tracing") {
    if (!subject.length) return null;
    return { prompts: typed(prompt), subject, metric: metricOf(metric, sight.by === "share" ? "logits" : sight.by), site: sight.site, window: sight.window, draws: 10, sigma: 3, seed: 0 };
  }
  if (!companion) return null;
  const [clean, corrupted] = sight.clean === "prompt" ? [prompt, companion] : [companion, prompt];
  return { clean: typed(clean), corrupted: typed(corrupted), metric: metricOf(metric, sight.by), site: sight.site, mode: sight.mode, normalize: sight.by !== "logits" };
}

/** Whose run is patched. */
export const patchedRun = ({ clean, mode }: Pick<PatchSight, "clean" | "mode">): "prompt" | "companion" => ((mode === "denoise") === (clean === "prompt") ? "companion" : "prompt");

/** The positions that a companion of as many tokens changes. */
export function changedAt(prompt: Said | null, companion: Companion | null): number[] {
  if (!prompt || companion?.tokens.length !== prompt.tokens.length) return [];
  return prompt.tokens.flatMap(({ id }, pos) => (companion.tokens[pos].id === id ? [] : [pos]));
}

/** Of what a sweep made, its picture of layers. */
export const sweepMap = (views: PlainView[] | null): HeatMapView | null => (views ?? []).find((view): view is HeatMapView => view.kind === "heat_map") ?? null;

/** What is less of a gap than this is never drawn as if it were much. */
const LEAST = 0.02;

/** That picture as a grid, full colour where it is most; still: the number of a cell where nothing happens, from which colour counts. */
export function sweepField(view: HeatMapView, site: string, still: number): Field {
  const [rows, cols] = [view.rows.length, view.columns.length];
  const said = Float32Array.from({ length: rows * cols }, (_, cell) => view.values[Math.floor(cell / cols)][cell % cols] ?? NaN);
  const values = said.map((value) => value - still);
  const share = view.unit === "share";
  const scale = values.reduce((most, value) => Math.max(most, Math.abs(value) || 0), 0);
  return {
    rows, cols, values, said, sites: view.rows.map((layer) => `${site}.${layer}`), sink: new Uint8Array(rows * cols),
    scale: share ? Math.min(1, Math.max(LEAST, scale)) : scale || 1,
  };
}

/** A cell as an edit of the prompt's run, which takes what the companion has there; column: a position, or a head. */
export function cellEdit(site: string, column: number, heads: boolean): Edit {
  const source = { kind: "companion" };
  return heads ? { kind: "patch", site, head: column, source } : { kind: "patch", site, pos: [column], source, align: [[column, column]] };
}
