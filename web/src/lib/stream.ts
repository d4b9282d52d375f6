import { floats, type Tensors } from "../connect/safetensors";
import { sinks } from "./scale";

/** One run in the coordinates of one dictionary; cells are [row, pos], row 0 of the stream is `embed`. */
export interface Coef {
  k: number;
  coef: Float32Array;
  /** What centred takes away: [row, k]; NaN where the data-set mean of a row is not known. */
  offset: Float32Array;
  /** Of logits, [row, pos]: what centred takes away is then offset / sigma. Null in other spaces. */
  sigma: Float32Array | null;
  /** The sites of the rows, and which of them the dictionary was fitted at. */
  sites: string[];
  fitted: number | null;
}

export interface StreamData extends Coef {
  run: string;
  site: string;
  rows: number;
  cols: number;
  norm: Float32Array;
  sink: Uint8Array;
  /** The most likely next tokens at each position. */
  next: { text: string; p: number }[][];
}

export type Stream = Omit<StreamData, keyof Coef | "site">;

export function readStream(file: Tensors, run: string): Stream {
  const { shape, data: norm } = floats(file, "norm");
  const [rows, cols] = shape;
  const p = floats(file, "next_p");
  const texts = JSON.parse(file.metadata.next_text ?? "[]") as string[][];
  const next = texts.map((row, pos) => row.map((text, i) => ({ text, p: p.data[pos * p.shape[1] + i] })));
  return { run, rows, cols, norm, sink: sinks(norm, cols), next };
}

/** No dictionary: lengths and predictions only. */
export const NO_COEF: Coef = { k: 0, coef: new Float32Array(), offset: new Float32Array(), sigma: null, sites: [], fitted: null };

export function readCoef(file: Tensors): Coef {
  const coef = floats(file, "coef");
  return {
    k: coef.shape[2],
    coef: coef.data,
    offset: floats(file, "offset").data,
    sigma: file.tensors.sigma ? floats(file, "sigma").data : null,
    sites: JSON.parse(file.metadata.rows ?? "[]") as string[],
    fitted: JSON.parse(file.metadata.fitted_row ?? "null") as number | null,
  };
}

/** The logit difference of a run, and the same less the data-set mean's share of it (NaN where no mean is known). */
export interface Logits {
  raw: Float32Array;
  centred: Float32Array;
}

export function readLogits(file: Tensors): Logits {
  const raw = floats(file, "value").data;
  const offset = floats(file, "offset").data;
  return { raw, centred: raw.map((value, i) => value - offset[i]) };
}

/** What the grid draws: one signed number a cell, and how much of it is full colour. */
export interface Field {
  rows: number;
  cols: number;
  values: Float32Array;
  scale: number;
  sink: Uint8Array;
}

export const rowName = (row: number): string => (row === 0 ? "emb" : String(row - 1));
export const rowSite = (row: number): string => (row === 0 ? "embed" : `resid_post.${row - 1}`);
