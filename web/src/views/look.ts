/** What a value looks like, the same in a grid's cell, a matrix, a file and on a token. */

import type { Diverging } from "../lib/color";
import { isClipped } from "../lib/scale";
import type { Box, Mark } from "./kinds/scene";

/** How values become colours; beyond the ends they are clipped. */
export interface Colours {
  color(value: number): string;
  /** Text that stays legible on it. */
  ink(value: number): string;
  clipped(value: number): boolean;
}

/** Red above zero, blue below, full at `limit`. */
export const signed = (of: Diverging, limit: number): Colours => ({
  color: (value) => of.color(value, limit),
  ink: (value) => of.inkFor(value, limit),
  clipped: (value) => isClipped(value, limit),
});

export interface Look {
  /** `sink`: an attention sink's, which is hatched in its colour. */
  state: "known" | "unknown" | "sink";
  color: string;
  ink: string;
  clipped: boolean;
}

export function lookOf(value: number | null | undefined, colours: Colours, sink = false): Look {
  const known = typeof value === "number" && !Number.isNaN(value);
  const [color, ink] = known || sink ? [colours.color(value ?? NaN), colours.ink(value ?? NaN)] : ["", ""];
  return { state: sink ? "sink" : known ? "known" : "unknown", color, ink, clipped: known && !sink && colours.clipped(value) };
}

interface Way {
  /** The size of the corner that says: beyond the scale. */
  tick: number;
  /** For what is not known: hatched on a ground, or a dot; left out, nothing. */
  unknown?: { fill: string; stroke: string } | { dot: string };
  /** Stripes of a sink run on from cell to cell. */
  through?: boolean;
  /** The colours are there already. */
  bare?: boolean;
  title?: string;
}

/** One cell of a picture. */
export function cell(box: Box, look: Look, { tick, unknown, through, bare, title }: Way): Mark[] {
  const { x, y, w, h } = box;
  if (look.state === "sink") return [{ kind: "hatch", ...box, stroke: look.color, width: 1.2, step: 5.5, through, title }];
  if (look.state === "unknown") {
    if (!unknown) return [];
    if ("dot" in unknown) return [{ kind: "rect", x: x + w / 2 - 1, y: y + h / 2 - 1, w: 2, h: 2, fill: unknown.dot }];
    return [{ kind: "rect", ...box, fill: unknown.fill }, { kind: "hatch", ...box, stroke: unknown.stroke, title }];
  }
  const marks: Mark[] = bare ? [] : [{ kind: "rect", ...box, fill: look.color, title }];
  if (look.clipped) marks.push({ kind: "path", d: `M${x + w - tick} ${y}h${tick}v${tick}z`, fill: look.ink });
  return marks;
}
