/** Colours tokens of running text: white is zero, red positive, blue negative; sinks hatched, clipped ones with a corner tick. */

import type { Diverging } from "../lib/color";
import { lookOf, signed } from "./look";

export interface Colouring {
  values: ArrayLike<number> | null;
  scale: number;
  sink: ArrayLike<number> | null;
  colours: Diverging;
}

/** The style of a token's span. */
export interface Dress {
  background: string;
  ink: string;
  image: string;
}
const looks = new WeakMap<HTMLElement, Dress>();
const STRIPES = "1.5px, transparent 1.5px 4.5px";

/** What a token wears. */
export function dressOf(token: number, { values, scale, sink, colours }: Colouring): Dress {
  const value = values?.[token] ?? NaN;
  const look = lookOf(value, signed(colours, scale), !!sink?.[token]);
  if (Number.isNaN(value)) return { background: "", ink: "", image: "" };
  if (look.state === "sink") return { background: "", ink: "", image: `repeating-linear-gradient(135deg, color-mix(in srgb, ${look.color} 45%, transparent) 0 ${STRIPES})` };
  return { background: look.color, ink: look.ink, image: look.clipped ? `linear-gradient(225deg, ${look.ink} 3.5px, transparent 4px)` : "" };
}

/** Sets only what differs from what the span has: a frame of dragging is mostly backgrounds. */
export function paintToken(span: HTMLElement, token: number, colouring: Colouring): void {
  const look = dressOf(token, colouring);
  const had = looks.get(span);
  if (had?.background !== look.background) span.style.backgroundColor = look.background;
  if (had?.ink !== look.ink) span.style.color = look.ink;
  if (had?.image !== look.image) span.style.backgroundImage = look.image;
  looks.set(span, look);
}
