import type { QueryAnswers } from "../connect/connector";
import { bytes, floats } from "../connect/safetensors";

/** One run's stream, whatever it is read along; cells are [row, pos], row 0 is `embed`. */
export interface StreamData {
  run: string;
  rows: number;
  cols: number;
  norm: Float32Array;
  /** Which are attention sinks, as the server says. */
  sink: Uint8Array;
  /** The most likely next tokens at each position; empty where they are still to come. */
  next: { text: string; p: number }[][];
  /** Those of all positions are there; else of the last alone. */
  whole: boolean;
}

export function readStream(file: QueryAnswers["stream"], run: string): StreamData {
  const { shape, data: norm } = floats(file, "norm");
  const [rows, cols] = shape;
  const p = floats(file, "next_p");
  const texts = JSON.parse(file.metadata.next_text ?? "[]") as string[][];
  const known = texts.map((row, pos) => row.map((text, i) => ({ text, p: p.data[pos * p.shape[1] + i] })));
  const whole = p.shape[0] === cols;
  const next = whole ? known : [...Array.from({ length: cols - known.length }, () => []), ...known];
  return { run, rows, cols, norm, sink: bytes(file, "sink").data, next, whole };
}

/** One run in the coordinates of one dictionary: [row, pos, k], and what to subtract of each row, [row, k]. */
export interface Coefs {
  rows: number;
  cols: number;
  k: number;
  /** Which of its directions; null for all. */
  indices: readonly number[] | null;
  coef: Float32Array;
  offset: Float32Array;
  /** The sites of the rows. */
  sites: string[];
  /** The row of the dictionary's own site. */
  fitted: number | null;
  /** The final norm's divisors, in the lens space: of the vectors already, of the offsets not. */
  sigma: Float32Array | null;
  sink: Uint8Array;
}

export function readCoefs(file: QueryAnswers["coef"], indices: readonly number[] | null = null): Coefs {
  const { shape, data: coef } = floats(file, "coef");
  const [rows, cols, k] = shape;
  const sites = JSON.parse(file.metadata.rows ?? "[]") as string[];
  const fitted = JSON.parse(file.metadata.fitted_row ?? "null") as number | null;
  return {
    rows, cols, k, indices, coef, offset: floats(file, "offset").data,
    sites: sites.length === rows ? sites : Array.from({ length: rows }, (_, row) => rowSite(row)),
    fitted,
    sigma: file.tensors.sigma ? floats(file, "sigma").data : null,
    sink: bytes(file, "sink").data,
  };
}

/** The logit difference of a run, and the same less the data-set mean's share of it (NaN where no mean is known). */
export interface Logits {
  raw: Float32Array;
  centred: Float32Array;
}

export function readLogits(file: QueryAnswers["logits"]): Logits {
  const raw = floats(file, "value").data;
  const offset = floats(file, "offset").data;
  return { raw, centred: raw.map((value, i) => value - offset[i]) };
}

/** What the grid draws: one signed number a cell, and how much of it is full colour. */
export interface Field {
  rows: number;
  cols: number;
  values: Float32Array;
  /** Of the whole picture. */
  scale: number;
  /** Of each row, where each has its own. */
  byRow?: Float32Array | null;
  /** Cells of tokens that are an attention sink in any row. */
  sink: Uint8Array;
  /** The sites of its rows, where they are not the stream's. */
  sites?: readonly string[];
  /** Its numbers have no sign: colour goes from zero to the scale. */
  sequential?: boolean;
  /** What stands in the cells, where that is not their numbers. */
  texts?: readonly string[];
  /** What the cells say, where colour is by another number. */
  said?: Float32Array;
  /** Of the line beside it: what its left and right edge are. */
  ends?: [string, string];
}

/** A cell's number, as it is said. */
export const saidAt = ({ values, said }: Pick<Field, "values" | "said">, cell: number): number => (said ?? values)[cell];

export const scaleAt = ({ scale, byRow }: Pick<Field, "scale" | "byRow">, row: number): number => byRow?.[row] ?? scale;

/** A token that is an attention sink in one row is marked in all of them. */
export function wholeColumns(sink: Uint8Array, cols: number): Uint8Array {
  const columns = new Uint8Array(cols);
  for (let i = 0; i < sink.length; i++) columns[i % cols] |= sink[i];
  return sink.map((_, i) => columns[i % cols]);
}

/** The stream's rows; a picture of others names them itself. */
export const rowSite = (row: number): string => (row === 0 ? "embed" : `resid_post.${row - 1}`);
export const siteOf = (field: { sites?: readonly string[] }, row: number): string => field.sites?.[row] ?? rowSite(row);
export function rowName(field: { sites?: readonly string[] }, row: number): string {
  const site = siteOf(field, row);
  return site === "embed" ? "emb" : (site.split(".")[1] ?? site);
}
