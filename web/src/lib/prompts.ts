/** A page of prompts as one row of tokens: its values along the direction, and who stands beside whom. */

import type { QueryAnswers } from "../connect/connector";
import { bytes, floats } from "../connect/safetensors";
import { robustTop } from "./scale";
import { inline } from "./tokens";
import type { PromptsAnswer, ShownPrompt } from "../connect/wire";

export interface Page {
  id: string;
  prompts: ShownPrompt[];
  /** Of each prompt, the number of its first token; one more at the end. */
  starts: Int32Array;
}

export function readPage({ id, prompts }: PromptsAnswer): Page {
  const starts = new Int32Array(prompts.length + 1);
  prompts.forEach((prompt, i) => (starts[i + 1] = starts[i] + prompt.tokens.length));
  return { id, prompts, starts };
}

/** One row of the stream over all tokens, in the coordinates of a dictionary: [token, k], and what to subtract, [k]. */
export interface RowCoefs {
  k: number;
  /** Which of its directions; null for all. */
  indices: readonly number[] | null;
  coef: Float32Array;
  offset: Float32Array;
  sigma: Float32Array | null;
  norm: Float32Array;
  sink: Uint8Array;
}

type Row = QueryAnswers["prompts_coef"] | QueryAnswers["prompts_logits"];

export const readNorm = (file: Row): Float32Array => floats(file, "norm").data;
/** Which tokens are attention sinks, as the server says. */
export const readSink = (file: Row): Uint8Array => bytes(file, "sink").data;

export function readRow(file: QueryAnswers["prompts_coef"], indices: readonly number[] | null = null): RowCoefs {
  const { shape, data: coef } = floats(file, "coef");
  const sigma = file.tensors.sigma ? floats(file, "sigma").data : null;
  return { k: shape[1], indices, coef, offset: floats(file, "offset").data, sigma, norm: readNorm(file), sink: readSink(file) };
}

/** Full colour on a page, as in the Stream tab: each prompt's first token and attention sinks are left out; 1 where all are zero. */
export function pageScale(values: Float32Array, starts: Int32Array, sink: ArrayLike<number> | null = null): number {
  const sizes = values.map((value, token) => (sink?.[token] ? NaN : Math.abs(value)));
  for (const start of starts) if (start < sizes.length) sizes[start] = NaN;
  return robustTop(sizes.filter(Number.isFinite));
}

/** Items from the least value to the greatest; what is not a number is left out. */
export function ranked(values: ArrayLike<number>): Int32Array {
  const known = Int32Array.from({ length: values.length }, (_, i) => i).filter((i) => Number.isFinite(values[i]));
  return known.sort((a, b) => values[a] - values[b]);
}

/** The n next above an item (nearest last, so that they read downwards) and the n next below it. */
export function neighbours(order: Int32Array, item: number, n: number): { above: number[]; below: number[] } {
  const at = order.indexOf(item);
  if (at < 0) return { above: [], below: [] };
  return { above: [...order.slice(at + 1, at + 1 + n)].reverse(), below: [...order.slice(Math.max(0, at - n), at)].reverse() };
}

/** The prompt that holds a token of the page, and its place in it. */
export function placeOf({ starts }: { starts: Int32Array }, token: number): { prompt: number; pos: number } {
  let prompt = 0;
  while (prompt < starts.length - 2 && starts[prompt + 1] <= token) prompt++;
  return { prompt, pos: token - starts[prompt] };
}

const BEFORE = 24;
const AFTER = 16;

/** What stands around a token, a few words to either side, as it is shown. */
export function context(tokens: ArrayLike<{ text: string }>, pos: number): { before: string; text: string; after: string } {
  let [before, after]: string[][] = [[], []];
  for (let i = pos - 1; i >= 0 && before.length < BEFORE; i--) before = [...inline(tokens[i].text), ...before];
  for (let i = pos + 1; i < tokens.length && after.length < AFTER; i++) after = [...after, ...inline(tokens[i].text)];
  return { before: before.slice(-BEFORE).join(""), text: tokens[pos].text, after: after.slice(0, AFTER).join("") };
}
