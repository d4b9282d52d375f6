/** Signed numbers as colours: red positive, blue negative, zero exactly the neutral in the middle. */

export type RGB = [number, number, number];

/** From nothing to all. */
export const SEQUENTIAL = [0, 1, 2, 3, 4, 5].map((step) => `--seq-${step}`);
export const DIVERGING = ["n4", "n3", "n2", "n1", "0", "p1", "p2", "p3", "p4"].map((step) => `--div-${step}`);

export function hex(text: string): RGB {
  const digits = text.trim().replace("#", "");
  const n = parseInt(digits.length === 3 ? digits.replace(/./g, "$&$&") : digits, 16); // minifiers write #fff
  return [(n >> 16) & 255, (n >> 8) & 255, n & 255];
}

/** WCAG relative luminance. */
export function luminance(color: RGB): number {
  const [r, g, b] = color.map((x) => (x / 255 <= 0.03928 ? x / 3294.6 : ((x / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Text that stays legible on a cell: black or white, by luminance. */
export const inkOn = (color: RGB): string => (luminance(color) > 0.179 ? "#000000" : "#ffffff");

/** Colours of value / scale over [-1, 1], computed once per theme. */
export class Diverging {
  private static readonly HALF = 255;
  private readonly css: string[] = [];
  private readonly ink: string[] = [];
  /** As the pixels of an ImageData: little-endian RGBA. */
  private readonly pixels = new Uint32Array(2 * Diverging.HALF + 1);

  constructor(readonly stops: RGB[]) {
    for (let i = -Diverging.HALF; i <= Diverging.HALF; i++) {
      const color = this.at(i / Diverging.HALF);
      this.css.push(`rgb(${color.join(",")})`);
      this.ink.push(inkOn(color));
      this.pixels[i + Diverging.HALF] = (255 << 24) | (color[2] << 16) | (color[1] << 8) | color[0];
    }
  }

  /** The colour of t in [-1, 1]; beyond it, the end's. */
  at(t: number): RGB {
    const x = ((Math.max(-1, Math.min(1, t)) + 1) / 2) * (this.stops.length - 1);
    const i = Math.min(Math.floor(x), this.stops.length - 2);
    const mixed = this.stops[i].map((a, k) => Math.round(a + (this.stops[i + 1][k] - a) * (x - i)));
    return mixed as RGB;
  }

  private index(value: number, scale: number): number {
    if (Number.isNaN(value)) return Diverging.HALF;
    return Diverging.HALF + Math.round(Math.max(-1, Math.min(1, value / scale)) * Diverging.HALF);
  }

  color(value: number, scale: number): string {
    return this.css[this.index(value, scale)];
  }

  pixel(value: number, scale: number): number {
    return this.pixels[this.index(value, scale)];
  }

  inkFor(value: number, scale: number): string {
    return this.ink[this.index(value, scale)];
  }
}

/** Of numbers without a sign, from zero to the scale; below zero the same. */
export const unsigned = (stops: RGB[]): Diverging => new Diverging([...stops.slice(1).reverse(), ...stops]);

/** The colours the canvas needs, read from the design tokens in force. */
export interface Paint {
  diverging: Diverging;
  sequential: Diverging;
  surface: string;
  text: string;
  text3: string;
  line2: string;
}

export function readPaint(element: Element): Paint {
  const style = getComputedStyle(element);
  const get = (name: string) => style.getPropertyValue(name).trim() || "#808080";
  return {
    diverging: new Diverging(DIVERGING.map((name) => hex(get(name)))),
    sequential: unsigned(SEQUENTIAL.map((name) => hex(get(name)))),
    surface: get("--surface"),
    text: get("--text"),
    text3: get("--text-3"),
    line2: get("--line-2"),
  };
}

const held = new WeakMap<Element, { theme: string; paint: Paint }>();

/** A page's own, read once a theme: styles are slow to read sixty times a second. */
export function paintFor(root: Element, theme: string): Paint {
  let known = held.get(root);
  if (known?.theme !== theme) held.set(root, (known = { theme, paint: readPaint(root) }));
  return known.paint;
}
