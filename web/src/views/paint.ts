/** Colours tokens of running text: white is zero, red positive, blue negative; sinks hatched, clipped ones with a corner tick. */

import type { Diverging } from "../lib/color";
import { isClipped } from "../lib/scale";

export interface Colouring {
  values: ArrayLike<number> | null;
  scale: number;
  sink: ArrayLike<number> | null;
  colours: Diverging;
}

export interface Look {
  background: string;
  ink: string;
  image: string;
}
const looks = new WeakMap<HTMLElement, Look>();
const bars = new WeakMap<HTMLElement, string>();
const STRIPES = "1.5px, transparent 1.5px 4.5px";

/** What a token wears. */
export function lookOf(token: number, { values, scale, sink, colours }: Colouring): Look {
  const value = values?.[token] ?? NaN;
  if (Number.isNaN(value)) return { background: "", ink: "", image: "" };
  const color = colours.color(value, scale);
  if (sink?.[token]) return { background: "", ink: "", image: `repeating-linear-gradient(135deg, color-mix(in srgb, ${color} 45%, transparent) 0 ${STRIPES})` };
  const ink = colours.inkFor(value, scale);
  return { background: color, ink, image: isClipped(value, scale) ? `linear-gradient(225deg, ${ink} 3.5px, transparent 4px)` : "" };
}

/** Sets only what differs from what the span has: a frame of dragging is mostly backgrounds. */
export function paintToken(span: HTMLElement, token: number, colouring: Colouring): void {
  const look = lookOf(token, colouring);
  const had = looks.get(span);
  if (had?.background !== look.background) span.style.backgroundColor = look.background;
  if (had?.ink !== look.ink) span.style.color = look.ink;
  if (had?.image !== look.image) span.style.backgroundImage = look.image;
  looks.set(span, look);
}

/** The same as a bar below each token, for text that keeps its own background. */
export function underlineToken(span: HTMLElement, token: number, { values, scale, colours }: Colouring): void {
  const color = colours.color(values?.[token] ?? 0, scale);
  if (bars.get(span) === color) return;
  bars.set(span, color);
  span.style.borderBottomColor = color;
}
