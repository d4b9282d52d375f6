/** What the server says to the page: docs/wire.md as types. What the page asks is made from the Python (`make view-types`). */

import type { MixRef } from "./asked.generated";

export type { DirectionRef, TextRef } from "./asked.generated";

/** One direction of a mix; the sum of weight times direction is brought to unit length. */
export type MixTerm = MixRef["terms"][number];

export interface ErrorBody {
  type: string;
  message: string;
  received?: string | null;
  allowed?: string | null;
  fix?: string | null;
}

export interface Tok {
  id: number;
  text: string;
}

export interface TokenP extends Tok {
  p: number;
}

export interface Check {
  name: string;
  error: number;
  first: number;
  tolerance: number;
  passed: boolean;
  about: string;
}

export interface Certificate {
  passed: boolean;
  worst: number;
  worst_check: string;
  cached: boolean;
  seconds: number;
  checks: Check[];
}

export interface SiteInfo {
  name: string;
  layers: number;
  dims: string;
  absent: string | null;
}

export type Kind = "pca" | "svd" | "nmf" | "mean_difference" | "unembedding";
export type Space = "raw" | "centred" | "lens";

export interface DictionaryInfo {
  /** Such as `pca@resid_post.23`, `nmf@z.3.h2`, `pca@resid_post.23#2`; never given twice. */
  id: string;
  site: string;
  head: number | null;
  /** The site as people say it: `result.9 head 3`. */
  place: string;
  /** "saved" is not the server's: the page takes a saved direction for a dictionary of one. */
  kind: Kind | "saved";
  n: number;
  space: Space;
  standardised: boolean;
  fitted_on: string;
  tokens: number;
  /** It came with Residscope, and cannot be forgotten. */
  shipped: boolean;
  width: number;
  /** Of its sites and tensors; none of a saved direction. */
  hash?: string;
  write_site?: string;
  /** Of an encoder false: its coordinates are activations, and no products with a direction. */
  linear?: boolean;
  /** Whether it is read against the stream's rows, or against its own site in every layer. */
  beside_stream?: boolean;
  /** What an encoder's features go through last. */
  activation?: "relu" | "topk" | "jumprelu" | null;
}

export interface ModelInfo {
  name: string;
  family: string;
  n_layers: number;
  n_heads: number;
  n_kv_heads: number;
  d_model: number;
  d_vocab: number;
  context: number;
  dtype: string;
  device: string;
  threads: number;
  hash: string;
  bos: boolean;
  certificate: Certificate;
  sites: SiteInfo[];
  dictionaries: DictionaryInfo[];
}

export interface ModelOffer {
  name: string;
  about: string;
  cached: boolean;
}

export type Phase = "empty" | "loading" | "running" | "idle" | "failed";

export interface Status {
  phase: Phase;
  detail: string;
  progress: number | null;
  forward_ms: number | null;
  error: ErrorBody | null;
}

/** An edit as it is sent: its kind, and what that kind takes, as the manifest says. */
export interface Edit {
  id?: string;
  enabled?: boolean;
  kind: string;
  [argument: string]: unknown;
}

/** The one number of an edit that a person turns. */
export interface Slider {
  name: string;
  value: number;
  min: number;
  max: number;
  step: number;
  unit: string;
}

export type Covariance = "total" | "within";
export type ConceptMethod = "mean_difference" | "project_out" | "constant_dose";

/** An edit as the session shows it: its name, and what leaving it out would change. */
export type ShownEdit = Edit & {
  id: string;
  enabled: boolean;
  label: string;
  glyph: string;
  /** Where it acts, or what it does, beside its label. */
  beside: string;
  slider: Slider | null;
  at: { layer: number | null; pos: number | null };
  delta: number | null;
  inert: string | null;
  error: string | null;
};

export interface Metric {
  positive: Tok;
  negative: Tok;
  chosen: boolean;
}

export interface Run {
  id: string;
  /** Lower than the state's: it answers an earlier question. */
  version: number;
  label: string;
  prompt: string;
  /** Of the runs on screen; null of the others. */
  tokens: Tok[] | null;
  edits: number;
  metric: number | null;
  top: TokenP[];
  seconds: number;
}

export interface Selection {
  layer: number;
  pos: number;
}

export interface Prompt {
  text: string;
  bos: boolean;
  tokens: Tok[];
}

export interface SavedPrompt {
  text: string;
  tokens: number;
  /** Null until it has been run. */
  top: string | null;
  p: number | null;
}

export interface SavedDirection {
  name: string;
  site: string;
  head: number | null;
  space: Space;
  width: number;
  norm: number;
  /** Its id in the library, where it was opened from there. */
  library: string | null;
}

/** A method call under way, or that has ended. cost, left, seconds: in seconds. */
export interface Job {
  id: string;
  method: string;
  title: string;
  name: string;
  phase: "waiting" | "running" | "done" | "failed" | "cancelled";
  stage: string;
  progress: number | null;
  left: number | null;
  cost: number | null;
  seconds: number | null;
  revision: number;
  items: string[];
  note: string;
  /** What it warned of, such as a C at the end of its grid. */
  warnings?: string[];
  error: ErrorBody | null;
  /** What it was asked for; null where that is long. */
  args: Record<string, unknown> | null;
}

/** Something on the shelf. */
export interface ItemInfo {
  name: string;
  kind: string;
  title: string;
  method: string;
  /** When, in seconds since 1970. */
  made: number;
  bytes: number;
  /** Of a dictionary, what the model has it by; of a probe, what edits say. */
  id: string | null;
  args: Record<string, unknown> | null;
  warnings?: string[];
}

export interface Shelf {
  items: ItemInfo[];
  bytes: number;
  budget: number;
  can_restore: boolean;
}

export interface State {
  /** Counts what is to be computed. */
  version: number;
  model: ModelInfo | null;
  models: ModelOffer[];
  status: Status;
  prompt: Prompt | null;
  metric: Metric | null;
  edits: ShownEdit[];
  can_undo: boolean;
  can_redo: boolean;
  runs: Run[];
  current: { a: string | null; b: string | null };
  selection: Selection;
  saved: SavedPrompt[];
  directions: SavedDirection[];
  probes: ProbeInfo[];
  jobs: Job[];
  items: Shelf;
  /** Things to tell once. */
  notices: string[];
}

export interface Badge {
  claim: string;
  /** Null: not known yet. */
  shown: boolean | null;
  said: string;
  sentence: string;
  numbers: Record<string, number | string | null>;
}

/** A token of a text with what stands around it; values are null where they are left out. */
export interface Example {
  row: number;
  pos: number;
  value: number;
  at: number;
  tokens: string[];
  values: (number | null)[];
}

/** What is known of a direction so far; a part is null until it comes, or for the reason in `missing`. */
export interface Evidence {
  job: string | null;
  item: string | null;
  revision: number;
  done: boolean;
  label: string;
  badges: { correlates: Badge; used: Badge };
  tokens: { top: PoleToken[]; bottom: PoleToken[] } | null;
  examples: {
    top: Example[];
    bottom: Example[];
    intervals: { low: number; high: number; n: number; examples: Example[] }[];
    histogram: { kind: string };
    limit: number;
  } | null;
  null: { kind: string }[] | null;
  stability: { kind: string }[] | null;
  dose: { kind: string }[] | null;
  removal: { kind: string }[] | null;
  missing: Partial<Record<"tokens" | "stability" | "dose" | "removal", string>>;
  corpus: string | null;
  tokens_read: number | null;
  held_out: string | null;
}

export type ProbeData =
  | { kind: "task"; task: string; n: number; seed: number; prefixes: boolean }
  | { kind: "file"; name: string; text?: string }
  | { kind: "item"; name: string };

/** All that a probe depends on, beside the model. */
export interface ProbeRecipe {
  data: ProbeData;
  site: string;
  position: string;
  label: string;
}

export interface ProbeInfo extends Omit<ProbeRecipe, "data"> {
  /** What edits say: given once, whatever its item is called. */
  name: string;
  /** Its item of the shelf; null while a job is at work on it. */
  item: string | null;
  job: string | null;
  /** How far its map is; "none": it came without its prompts. */
  mapped: "none" | "part" | "whole";
  /** A file without its text; null where it is not known. */
  data: ProbeData | null;
  /** Grows as its map fills. */
  revision: number;
  classes: string[];
  accuracy: number;
  interval: [number, number];
  control: number | null;
  selectivity: number | null;
  C: number;
  train: number;
  held_out: number;
}

/** What can be chosen in some data. */
export interface ProbeChoices {
  name: string;
  n: number;
  labels: { name: string; classes: number; most: Record<string, number> }[];
  positions: { name: string; lacking: number }[];
  texts: string[];
}

export interface ProbeDetail {
  name: string;
  revision: number;
  /** To either side, in nats. */
  reach: number;
  map: { kind: string };
  map_at: { sites: string[]; positions: string[] };
  cloud: { kind: string };
  margins: { of: string; view: { kind: string } }[];
  examples: { text: string; label: string; answers: [string, string] | null }[];
}

export interface ProbeMove {
  at: number[];
  slope: number[];
  xy: number[];
  xy_slope: number[];
}

/** What a probe reads at one token of a run, and where each edit would put it. */
export interface ProbeReading {
  run: string;
  pos: number;
  /** The prompt is one of the probe's own data; `label` is then its label. */
  own: boolean;
  label: string | null;
  log_prob: number[];
  xy: number[];
  moves: Record<ConceptMethod, Record<string, ProbeMove>>;
  steps: Partial<Record<Covariance, { length: number | null; xy: number[] }>> | null;
}

export interface PoleToken {
  text: string;
  value: number;
}

export interface Component {
  index: number;
  label: string;
  variance: number | null;
  sd: number | null;
  cos_logit_diff: number | null;
  top: PoleToken[];
  bottom: PoleToken[];
}

/** A dictionary's components, and what they say; `top` and `bottom` are empty where its width is not the stream's. */
export interface DictionaryDetail {
  id: string;
  site: string;
  head: number | null;
  place: string;
  kind: Kind;
  space: Space;
  standardised: boolean;
  fitted_on: string;
  tokens: number;
  components: Component[];
}

/** Inner products of read vectors; `of` says whose: a dictionary's id, or `saved:NAME`, and the index there. */
export interface Gram {
  of: [string, number][];
  gram: number[][];
}

export interface DirectionReading {
  label: string;
  about: string;
  norm: number;
  variance: number | null;
  sd: number | null;
  cos_logit_diff: number | null;
  top: PoleToken[];
  bottom: PoleToken[];
}

/** One prompt of a page; `next`: the three likeliest tokens after each of its own. */
export interface ShownPrompt {
  text: string;
  own: boolean;
  tokens: Tok[];
  next: { text: string; p: number }[][];
}

export interface PromptsAnswer {
  id: string;
  prompts: ShownPrompt[];
}
