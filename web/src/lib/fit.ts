/** Fitting a dictionary, as a form: what can be asked of a model, what it costs, and the intent it makes. */

import type { FitRecipe, Kind, ModelInfo, TextRef } from "../connect/wire";

export const METHODS: { id: Kind; name: string; about: string }[] = [
  { id: "pca", name: "PCA", about: "Directions of most variance about the mean, at right angles" },
  { id: "svd", name: "SVD", about: "The same with nothing subtracted: directions of most length" },
  { id: "nmf", name: "NMF", about: "Parts that only add, for activations that are not negative" },
  { id: "mean_difference", name: "Mean difference", about: "From the mean of a second text to that of the first" },
  { id: "unembedding", name: "Unembedding rows", about: "The directions that raise single tokens' logits, the final norm folded in" },
];

export interface SiteOffer {
  name: string;
  about: string;
  layered: boolean;
  head: boolean;
  /** Why this model has it not. */
  absent: string | null;
}

const SITES: [string, string, boolean, boolean][] = [
  ["resid_post", "the stream after a block", true, false],
  ["resid_pre", "the stream before a block", true, false],
  ["resid_mid", "the stream between attention and MLP", true, false],
  ["embed", "embeddings", false, false],
  ["final_norm", "the stream after the final norm", false, false],
  ["result", "what a head writes", true, true],
  ["z", "a head's mix of values", true, true],
  ["mlp_post", "neurons", true, false],
  ["attn_out", "what attention adds", true, false],
  ["mlp_out", "what an MLP adds", true, false],
  ["attn_in", "what attention reads", true, false],
  ["mlp_in", "what an MLP reads", true, false],
];
export const STREAM = "stream";

/** The places a method can be fitted at. */
export function sitesFor(method: Kind, model: ModelInfo): SiteOffer[] {
  if (method === "unembedding") return [];
  const absent = new Map(model.sites.map((site) => [site.name, site.absent]));
  const single = SITES.map(([name, about, layered, head]) => ({ name, about, layered, head, absent: absent.get(name) ?? null }));
  const whole = { name: STREAM, about: "embeddings and every resid_post, in one pass", layered: false, head: false, absent: null };
  return method === "pca" || method === "svd" ? [whole, ...single] : single;
}

export interface TextForm {
  kind: "builtin" | "typed" | "file" | "hub";
  builtin: string;
  typed: string;
  file: { name: string; text: string } | null;
  hub: string;
  field: string;
}

export interface FitForm {
  method: Kind;
  site: string;
  layer: number;
  head: number;
  text: TextForm;
  second: TextForm;
  tokens: number;
  n: number;
  standardise: boolean;
  clip: boolean;
  words: string;
}

export const BUILT_IN: [string, string][] = [["python-docs", "Python documentation"]];
export const emptyText = (): TextForm => ({ kind: "builtin", builtin: BUILT_IN[0][0], typed: "", file: null, hub: "", field: "text" });

export const emptyForm = (): FitForm => ({
  method: "pca", site: STREAM, layer: 0, head: 0, text: emptyText(), second: { ...emptyText(), kind: "typed" },
  tokens: 20_000, n: 30, standardise: false, clip: false, words: "",
});

/** How many directions a method finds unless told. */
export const USUAL_N: Partial<Record<Kind, number>> = { pca: 30, svd: 30, nmf: 10 };
const MOST_WORDS = 200;
/** The server takes 2 MiB of JSON; the rest of the message needs a little. */
const MOST_BYTES = 2 * 1024 * 1024 - 4096;

/** Tokens one to a line, or between commas; · is a space. */
export const wordsOf = (text: string): string[] => [...new Set(text.split(/[\n,]/).map((word) => word.replace(/^\s+|\s+$/g, "").replace(/·/g, " ")).filter(Boolean))];

export interface Refused {
  why: string;
}
export type Made<T> = T | Refused;
export const isRefused = (made: object): made is Refused => "why" in made;

export function textRef(form: TextForm, which = "text"): Made<TextRef> {
  switch (form.kind) {
    case "builtin":
      return { kind: "builtin", name: form.builtin };
    case "hub":
      return /^[\w.-]+\/[\w.-]+$/.test(form.hub.trim()) ? { kind: "hub", name: form.hub.trim(), field: form.field.trim() || "text" } : { why: `Name the ${which}'s data set as owner/name` };
    case "typed":
      return form.typed.trim() ? small({ kind: "typed", name: `typed ${which}`, text: form.typed }) : { why: `Type the ${which} first` };
    case "file":
      return form.file ? small({ kind: "typed", ...form.file }) : { why: `Choose the ${which}'s file first` };
  }
}

function small(ref: TextRef & { kind: "typed" }): Made<TextRef> {
  const bytes = new TextEncoder().encode(JSON.stringify(ref.text)).length;
  if (bytes <= MOST_BYTES) return ref;
  return { why: `${ref.name} is ${(bytes / 1024 / 1024).toFixed(1)} MiB; up to 2 MiB can be sent from here. Fit on more from Python or with residscope directions fit` };
}

const layered = (form: FitForm): boolean => SITES.some(([name, , layers]) => name === form.site && layers);
const headed = (form: FitForm): boolean => SITES.some(([name, , , heads]) => name === form.site && heads);

/** What the intent `fit` takes, or why the form cannot be sent as it is. */
export function fitArgs(form: FitForm, model: ModelInfo): Made<FitRecipe> {
  const { method } = form;
  if (method === "unembedding") {
    const words = wordsOf(form.words);
    if (!words.length) return { why: "Name the tokens: one to a line, · for a space" };
    if (words.length > MOST_WORDS) return { why: `${words.length} tokens are named; up to ${MOST_WORDS} can be` };
    return { method, words };
  }
  if (!(form.tokens >= 1000 && form.tokens <= 1_000_000)) return { why: "Tokens: from 1,000 to 1,000,000" };
  if (layered(form) && !(form.layer >= 0 && form.layer < model.n_layers)) return { why: `Layers go from 0 to ${model.n_layers - 1}` };
  if (headed(form) && !(form.head >= 0 && form.head < model.n_heads)) return { why: `Heads go from 0 to ${model.n_heads - 1}` };
  const text = textRef(form.text);
  if (isRefused(text)) return text;
  const args: FitRecipe = { method, site: layered(form) ? `${form.site}.${form.layer}` : form.site, text, tokens: form.tokens };
  if (headed(form)) args.head = form.head;
  if (method === "mean_difference") {
    const second = textRef(form.second, "second text");
    return isRefused(second) ? second : { ...args, second };
  }
  if (!(form.n >= 1 && form.n <= 200)) return { why: "Directions: from 1 to 200" };
  args.n = form.n;
  if (method === "pca" && form.standardise) args.standardise = true;
  if (method === "nmf" && form.clip) args.clip = true;
  return args;
}

/** How many blocks have to run for it. */
export function depth(form: FitForm, layers: number): number {
  if (form.site === "embed") return 0;
  if (!layered(form)) return layers;
  return form.site === "resid_pre" || form.site === "attn_in" ? form.layer : form.layer + 1;
}

/** What it costs, before it is begun. */
export function cost(form: FitForm, model: ModelInfo): string {
  if (form.method === "unembedding") return "At once: the rows are read from the weights, no text is run.";
  const blocks = depth(form, model.n_layers);
  const texts = form.method === "mean_difference" ? "twice, once for each text" : "once";
  const through = blocks === 0 ? "the embedding alone" : blocks === model.n_layers ? `all ${blocks} layers` : `${blocks} of ${model.n_layers} layers`;
  const then = form.method === "nmf" ? ", then rounds of updates on what was kept" : "";
  return `${form.tokens.toLocaleString("en")} tokens through ${through}, ${texts}${then}. You can go on working meanwhile.`;
}

/** How much longer, from how far it has come; empty while that cannot be told. */
export function remaining(progress: number, seconds: number): string {
  if (progress < 0.02 || seconds < 1) return "";
  const left = (seconds * (1 - progress)) / progress;
  if (left < 3) return "a moment more";
  return left < 90 ? `about ${Math.round(left / (left < 20 ? 1 : 5)) * (left < 20 ? 1 : 5)} s left` : `about ${Math.round(left / 60)} min left`;
}
