import { floats, type Tensors } from "../connect/safetensors";
import { sinks } from "./scale";

/** One run's stream in the coordinates of one basis; cells are [row, pos], row 0 is `embed`. */
export interface StreamData {
  run: string;
  site: string;
  rows: number;
  cols: number;
  k: number;
  coef: Float32Array;
  offset: Float32Array;
  norm: Float32Array;
  sink: Uint8Array;
  /** The most likely next tokens at each position. */
  next: { text: string; p: number }[][];
}

export function readStream(file: Tensors, run: string, site: string): StreamData {
  const { shape, data: norm } = floats(file, "norm");
  const [rows, cols] = shape;
  const coef = file.tensors.coef ? floats(file, "coef").data : new Float32Array(); // no basis: lengths and predictions only
  const offset = file.tensors.coef ? floats(file, "offset").data : new Float32Array();
  const k = coef.length / (rows * cols);
  const p = floats(file, "next_p");
  const texts = JSON.parse(file.metadata.next_text ?? "[]") as string[][];
  const next = texts.map((row, pos) => row.map((text, i) => ({ text, p: p.data[pos * p.shape[1] + i] })));
  return { run, site, rows, cols, k, coef, offset, norm, sink: sinks(norm, cols), next };
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
