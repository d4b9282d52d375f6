/** Numbers as text; tokens are in tokens.ts. */

/** Of what is read along a direction. */
export type StreamUnit = "centred" | "standardised" | "raw" | "cos" | "folded" | "folded-centred" | "logit" | "logit-centred" | "activation" | "mixed" | "mixed-raw";
export type ValueUnit = StreamUnit | "probability" | "rank" | "nats" | "share" | "metric";

const LOGITS: readonly ValueUnit[] = ["folded", "folded-centred", "logit", "logit-centred"];
export const isLogit = (unit: ValueUnit): boolean => LOGITS.includes(unit);

/** A sum of coordinates, of encoders some, and not read along one direction. */
export const isSum = (unit: ValueUnit): boolean => ["activation", "mixed", "mixed-raw"].includes(unit);

export const UNIT_NAMES: Record<ValueUnit, string> = {
  centred: "x·d, centred",
  standardised: "x·d, standardised",
  raw: "x·d, raw",
  cos: "cos",
  folded: "logits, norm-folded",
  "folded-centred": "logits, centred",
  logit: "logits, raw",
  "logit-centred": "logits, centred",
  activation: "activation",
  mixed: "activations and x·d, centred",
  "mixed-raw": "activations and x·d, raw",
  probability: "probability",
  rank: "rank",
  nats: "nats",
  share: "share of the gap",
  metric: "logits",
};

/** Before a value. */
export const UNIT_SHORT: Record<ValueUnit, string> = {
  centred: "x·d", standardised: "x·d", raw: "x·d", cos: "cos", folded: "logit", "folded-centred": "logit, centred",
  logit: "logit diff", "logit-centred": "logit diff, centred", activation: "activation", mixed: "weighted sum", "mixed-raw": "weighted sum",
  probability: "probability", rank: "rank", nats: "nats", share: "restores", metric: "metric",
};

/** Where there is room for a word. */
export const UNIT_BRIEF: Record<ValueUnit, string> = {
  centred: "x·d", standardised: "x·d", raw: "x·d", cos: "cos", folded: "logits", "folded-centred": "logits",
  logit: "logits", "logit-centred": "logits", activation: "activ.", mixed: "sum", "mixed-raw": "sum",
  probability: "p", rank: "rank", nats: "nats", share: "share", metric: "logits",
};

/** In which space the numbers are, in words. */
export const UNIT_ABOUT: Record<ValueUnit, string> = {
  centred: "Centred: x·d less the data-set mean's, row by row",
  standardised: "Standardised: each axis of x less its mean, over its σ, then along d",
  raw: "Raw: x·d as it is, nothing subtracted",
  cos: "Cosine: x·d over the lengths of both",
  folded: "Norm-folded: logits, x read through the final norm; exact at the last row",
  "folded-centred": "Norm-folded and centred: logits less the data-set mean's",
  logit: "Logits, x read through the final norm; exact at the last row",
  "logit-centred": "Logits less the data-set mean's share",
  activation: "Activation: what the encoder gives",
  mixed: "Weighted sum: activations, and x·d centred",
  "mixed-raw": "Weighted sum: activations, and x·d raw",
  probability: "Probability of a next token, the row read as if it were the last",
  rank: "Rank of a token among all, 0 the likeliest",
  nats: "Nats",
  share: "Share of the gap between the two runs: 0 the run that is patched, 1 the one patched from",
  metric: "The metric, in its own unit",
};

/** A signed number with a true minus. */
export function signed(value: number, digits = 2): string {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

/** Numbers that are seldom below zero, and how many digits they have. */
const UNSIGNED: Partial<Record<ValueUnit, number>> = { probability: 3, rank: 0, nats: 2, share: 2 };
const plainly = (value: number, digits: number): string => (Number.isFinite(value) ? value.toFixed(digits).replace(/^-(?=.*[1-9])/, "−").replace(/^-/, "") : "–");

export function inUnit(value: number, unit: ValueUnit): string {
  if (unit === "cos") return signed(value, 3);
  if (UNSIGNED[unit] !== undefined) return plainly(value, UNSIGNED[unit]);
  const size = Math.abs(value);
  return signed(value, size >= 100 ? 0 : isLogit(unit) ? 2 : size > 0 && size < 1 ? 3 : 1);
}

/** Short enough for a cell. */
export function inCell(value: number, unit: ValueUnit): string {
  if (Number.isNaN(value)) return "–";
  if (UNSIGNED[unit] !== undefined) return plainly(value, Math.min(2, UNSIGNED[unit]));
  const digits = unit === "cos" ? 2 : Math.abs(value) < 9.95 ? 1 : 0;
  return value.toFixed(digits).replace("-", "−");
}

export function probability(p: number): string {
  return (p >= 0.995 || p === 0 ? p.toFixed(2) : p >= 0.01 ? p.toFixed(2) : p >= 0.001 ? p.toFixed(3) : "<.001").replace(/^0\./, ".");
}

export const scientific = (value: number): string => value.toExponential(1).replace("e-", "e−").replace("e+", "e");

/** The end of a scale: three significant digits at most. */
export const bound = (value: number): string => String(value >= 100 ? Math.round(value) : Number(value.toPrecision(2)));

export { tokenTyped, visible } from "./tokens";

export const siteLayer = (site: string): number => Number(site.split(".")[1] ?? -1);

/** A name somebody gave, inside a sentence: its writing direction stays its own. */
export const isolated = (name: string): string => `\u2068${name}\u2069`;

/** A time as people say it: `12 s`, `3 min`. */
export function span(seconds: number): string {
  if (seconds < 1) return "under a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

/** A size as people say it: `3.1 MB`. */
export function bytes(n: number): string {
  const [size, unit] = n < 1e3 ? [n, "B"] : n < 1e6 ? [n / 1e3, "kB"] : n < 1e9 ? [n / 1e6, "MB"] : [n / 1e9, "GB"];
  return `${unit === "B" || size >= 100 ? Math.round(size) : size.toFixed(1)} ${unit}`;
}
