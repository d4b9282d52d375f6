/** Numbers as text, round ticks, and labels made fit. */

import { newCanvas } from "../../root/host";

/** A number, or null where it is not known. */
export type Maybe = number | null;

export const known = (value: Maybe | undefined): value is number => typeof value === "number" && !Number.isNaN(value);

const minus = (text: string): string => text.replace("e-", "e−").replace("e+", "e").replace(/^-/, "−");

/** Four significant digits, with a true minus; – where nothing is known. */
export function number(value: Maybe | undefined, digits = 4): string {
  if (!known(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e6 || size < 1e-4) return minus(value.toExponential(digits - 2));
  if (Number.isInteger(value)) return minus(String(value));
  return minus(size >= 10 ** digits ? value.toFixed(0) : value.toPrecision(digits));
}

/** The same, with its sign always said. */
export const signedNumber = (value: Maybe | undefined): string => (known(value) && value > 0 ? "+" : "") + number(value);

/** Round numbers from low to high, about as many as asked for. */
export function ticks(low: number, high: number, about: number, least = 0): number[] {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, about);
  const power = 10 ** Math.floor(Math.log10(rough));
  const round = rough / power;
  const step = Math.max(least, power * (round < 1.5 ? 1 : round < 3.5 ? 2 : round < 7.5 ? 5 : 10));
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}

/** The round number from n up: 1, 2, 5, 10, 20 ... so that what is left of labels counts evenly. */
export function roundUp(n: number): number {
  if (!(n > 1)) return 1;
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].find((m) => m * power >= n)! * power;
}

/** Ticks with as many decimals as their step needs. */
export function tickTexts(at: number[]): string[] {
  const step = at.length > 1 ? Math.abs(at[1] - at[0]) : Math.abs(at[0] ?? 1) || 1;
  const size = Math.max(...at.map(Math.abs), step);
  if (size >= 1e6 || size < 1e-3) return at.map((v) => (v === 0 ? "0" : minus(v.toExponential(1).replace(".0e", "e"))));
  const decimals = Math.max(0, Math.min(6, -Math.floor(Math.log10(step) + 1e-9)));
  return at.map((v) => minus(v.toFixed(decimals)));
}

const widths = new Map<string, number>();
let ruler: CanvasRenderingContext2D | null | undefined;
export const MONO = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace';
export const SANS = 'system-ui, -apple-system, "Segoe UI", Inter, Roboto, "Noto Sans", sans-serif';

/** The width of a text in CSS pixels. */
export function measure(text: string, size: number, mono: boolean): number {
  const key = `${size}${mono ? "m" : "s"}${text}`;
  let width = widths.get(key);
  if (width === undefined) {
    if (ruler === undefined) ruler = newCanvas().getContext("2d");
    if (ruler) ruler.font = `${size}px ${mono ? MONO : SANS}`;
    width = ruler?.measureText(text).width || text.length * size * 0.6;
    if (widths.size > 20_000) widths.clear();
    widths.set(key, width);
  }
  return width;
}

/** A text in lines that have room; a word longer than a line is cut. */
export function wrap(text: string, room: number, size: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/).filter(Boolean)) {
    const longer = lines.length ? `${lines.at(-1)} ${word}` : word;
    if (lines.length && measure(longer, size, false) <= room) lines[lines.length - 1] = longer;
    else lines.push(fit(word, room, size, false));
  }
  return lines;
}

/** As much of a text as has room, with … for the rest. */
export function fit(text: string, room: number, size: number, mono: boolean): string {
  if (measure(text, size, mono) <= room) return text;
  const letters = [...text];
  let [low, high] = [0, letters.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (measure(letters.slice(0, middle).join("") + "…", size, mono) <= room) low = middle;
    else high = middle - 1;
  }
  return low ? letters.slice(0, low).join("") + "…" : "";
}
