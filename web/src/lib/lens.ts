/** The logit lens of a run, cell by cell, and what of it a picture shows. */

import type { QueryAnswers } from "../connect/connector";
import { floats } from "../connect/safetensors";
import type { ValueUnit } from "./format";
import { robustScale } from "./scale";
import { rowSite, type Field } from "./stream";

/** What colour is of: the likeliest token's probability; of a chosen token its probability or rank; KL from the run's end; entropy. */
export const LENS_SHOWS = ["top", "chance", "rank", "kl", "entropy"] as const;
export type LensShow = (typeof LENS_SHOWS)[number];

export interface Likely {
  text: string;
  p: number;
}

/** [row, pos], row 0 the embedding; NaN, and no top tokens, where a position is still to be read. */
export interface LensData {
  rows: number;
  cols: number;
  k: number;
  top: Int32Array;
  p: Float32Array;
  entropy: Float32Array;
  kl: Float32Array;
  rank: Float32Array;
  chance: Float32Array;
  texts: ReadonlyMap<number, string>;
  /** Positions that are there. */
  read: number;
}

const unknown = (n: number): Float32Array => new Float32Array(n).fill(NaN);

/** A lens with the positions of one more answer in it. */
export function withPart(before: LensData | null, cols: number, file: QueryAnswers["lens_grid"]): LensData {
  const first = Number(file.metadata.first);
  const { shape, data: p } = floats(file, "probability");
  const [rows, count, k] = shape;
  const made: LensData = before
    ? { ...before, top: before.top.slice(), p: before.p.slice(), entropy: before.entropy.slice(), kl: before.kl.slice(), rank: before.rank.slice(), chance: before.chance.slice() }
    : { rows, cols, k, top: new Int32Array(rows * cols * k).fill(-1), p: unknown(rows * cols * k), entropy: unknown(rows * cols), kl: unknown(rows * cols), rank: unknown(rows * cols), chance: unknown(rows * cols), texts: new Map(), read: 0 };
  const texts = new Map(made.texts);
  for (const [id, text] of Object.entries(JSON.parse(file.metadata.texts) as Record<string, string>)) texts.set(Number(id), text);
  for (let row = 0; row < rows; row++) {
    const [from, to] = [row * count, row * cols + first];
    for (let i = 0; i < count; i++) made.rank[to + i] = file.tensors.rank.data[from + i];
    made.entropy.set(floats(file, "entropy").data.subarray(from, from + count), to);
    made.kl.set(floats(file, "kl").data.subarray(from, from + count), to);
    made.chance.set(floats(file, "chance").data.subarray(from, from + count), to);
    made.p.set(p.subarray(from * k, (from + count) * k), to * k);
    for (let i = 0; i < count * k; i++) made.top[to * k + i] = file.tensors.top.data[from * k + i];
  }
  return { ...made, texts, read: made.read + count };
}

/** The likeliest tokens of a cell. */
export function likely({ top, p, k, texts }: LensData, cell: number): Likely[] {
  const found: Likely[] = [];
  for (let i = cell * k; i < (cell + 1) * k && top[i] >= 0; i++) found.push({ text: texts.get(top[i]) ?? "?", p: p[i] });
  return found;
}

/** The numbers of every cell. */
export function shownOf(data: LensData, show: LensShow): Float32Array {
  if (show !== "top") return data[show];
  return Float32Array.from({ length: data.rows * data.cols }, (_, cell) => data.p[cell * data.k]);
}

/** Ranks as colours: the first is full, the last is nothing, in between by the logarithm. */
const nearness = (rank: Float32Array, vocab: number): Float32Array => rank.map((r) => 1 - Math.log1p(r) / Math.log(vocab));

export const LENS_UNITS: Record<LensShow, ValueUnit> = { top: "probability", chance: "probability", rank: "rank", kl: "nats", entropy: "nats" };

/** A picture of a lens; before: less another's, in the same cells. */
export function lensField(data: LensData, show: LensShow, vocab: number, before: LensData | null = null): Field {
  const { rows, cols } = data;
  const cells = rows * cols;
  const texts = Array.from({ length: cells }, (_, cell) => data.texts.get(data.top[cell * data.k]) ?? "");
  const ground = { rows, cols, sink: new Uint8Array(cells), sites: Array.from({ length: rows }, (_, row) => rowSite(row)), texts };
  const numbers = shownOf(data, show);
  if (before) {
    const others = shownOf(before, show);
    const said = numbers.map((value, cell) => value - others[cell]);
    const values = show === "rank" ? said.map((change) => Math.sign(change) * Math.log1p(Math.abs(change))) : said;
    return { ...ground, values, said, scale: robustScale(values, cols) };
  }
  if (show === "rank") return { ...ground, values: nearness(numbers, vocab), said: numbers, scale: 1, sequential: true, ends: [`${vocab}`, "0"] };
  const scale = show === "kl" ? robustScale(numbers, cols) : show === "entropy" ? Math.log(vocab) : 1;
  const end = show === "kl" || show === "entropy" ? scale.toFixed(1) : "1";
  return { ...ground, values: numbers, scale, sequential: true, ends: ["0", end] };
}
