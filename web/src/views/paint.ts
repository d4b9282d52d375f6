/** Colours tokens of running text: white is zero, red positive, blue negative; sinks hatched, clipped ones with a corner tick. */

import type { Diverging } from "../lib/color";
import { isClipped } from "../lib/scale";

export interface Colouring {
  values: ArrayLike<number> | null;
  scale: number;
  sink: ArrayLike<number> | null;
  colours: Diverging;
}

const last = new WeakMap<HTMLElement, string>();
const STRIPES = "1.5px, transparent 1.5px 4.5px";

/** Sets what differs from what the span has: dragging changes few of them by much. */
export function paintToken(span: HTMLElement, token: number, { values, scale, sink, colours }: Colouring): void {
  const value = values?.[token] ?? NaN;
  const color = Number.isNaN(value) ? "" : colours.color(value, scale);
  const [hatched, clipped] = [!!color && !!sink?.[token], !!color && isClipped(value, scale)];
  const look = `${color}${hatched ? "h" : clipped ? "c" : ""}`;
  if (last.get(span) === look) return;
  last.set(span, look);
  const { style } = span;
  const ink = color && !hatched ? colours.inkFor(value, scale) : "";
  style.color = ink;
  style.backgroundColor = hatched ? "" : color;
  style.backgroundImage = hatched ? `repeating-linear-gradient(135deg, color-mix(in srgb, ${color} 45%, transparent) 0 ${STRIPES})` : clipped ? `linear-gradient(225deg, ${ink} 3.5px, transparent 4px)` : "";
}

/** The same as a bar below each token, for text that keeps its own background. */
export function underlineToken(span: HTMLElement, token: number, { values, scale, colours }: Colouring): void {
  const color = colours.color(values?.[token] ?? 0, scale);
  if (last.get(span) === color) return;
  last.set(span, color);
  span.style.borderBottomColor = color;
}
