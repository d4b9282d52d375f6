/** Numbers and tokens as text. */

export type ValueUnit = "centred" | "raw" | "cos" | "logit" | "logit-centred";

export const isLogit = (unit: ValueUnit): boolean => unit === "logit" || unit === "logit-centred";

export const UNIT_NAMES: Record<ValueUnit, string> = {
  centred: "x·d, centred",
  raw: "x·d, raw",
  cos: "cos",
  logit: "logits, raw",
  "logit-centred": "logits, centred",
};

/** A signed number with a true minus. */
export function signed(value: number, digits = 2): string {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

export function inUnit(value: number, unit: ValueUnit): string {
  if (unit === "cos") return signed(value, 3);
  const size = Math.abs(value);
  return signed(value, size >= 100 ? 0 : isLogit(unit) ? 2 : size > 0 && size < 1 ? 3 : 1);
}

/** Short enough for a cell. */
export function inCell(value: number, unit: ValueUnit): string {
  if (Number.isNaN(value)) return "–";
  const digits = unit === "cos" ? 2 : Math.abs(value) < 9.95 ? 1 : 0;
  return value.toFixed(digits).replace("-", "−");
}

export function probability(p: number): string {
  return (p >= 0.995 || p === 0 ? p.toFixed(2) : p >= 0.01 ? p.toFixed(2) : p >= 0.001 ? p.toFixed(3) : "<.001").replace(/^0\./, ".");
}

export const scientific = (value: number): string => value.toExponential(1).replace("e-", "e−").replace("e+", "e");

/** The end of a scale: three significant digits at most. */
export const bound = (value: number): string => String(value >= 100 ? Math.round(value) : Number(value.toPrecision(2)));

/** A token as plain text with its spaces and newlines visible. */
export const visible = (text: string): string =>
  text.replace(/ /g, "·").replace(/\r?\n/g, "↵").replace(/\t/g, "⇥") || "∅";

/** What someone typed for a token: a dot stands for a space. */
export const tokenTyped = (text: string): string => text.replace(/·/g, " ").replace(/↵/g, "\n");

export const siteLayer = (site: string): number => Number(site.split(".")[1] ?? -1);

/** A name somebody gave, inside a sentence: its writing direction stays its own. */
export const isolated = (name: string): string => `\u2068${name}\u2069`;
