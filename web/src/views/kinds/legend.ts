/** Every picture says what its colours mean. */

import { bound } from "../../lib/format";
import { fit, measure } from "./numbers";
import type { ColorScale, Palette } from "./palette";
import type { Mark } from "./scene";

export const LEGEND_HEIGHT = 34;
const BAR = 148;

const end = (value: number): string => (value < 0 ? "−" : "") + bound(Math.abs(value));

/** The colour bar, with its ends and its unit, its right edge at `right`. */
export function colourBar(scale: ColorScale, unit: string, right: number, palette: Palette): Mark[] {
  const width = Math.min(BAR, Math.max(60, right));
  const left = Math.max(0, right - width);
  const cells = 48;
  const marks: Mark[] = [];
  for (let i = 0; i < cells; i++) {
    const value = scale.low + ((scale.high - scale.low) * i) / (cells - 1);
    marks.push({ kind: "rect", x: left + (i * width) / cells, y: 0, w: width / cells + 0.5, h: 7, fill: scale.color(value) });
  }
  marks.push({ kind: "path", d: `M${left} 0h${width + 0.5}v7h${-width - 0.5}z`, stroke: palette.line });
  const text = (x: number, words: string, anchor: "start" | "middle" | "end", fill = palette.text2): Mark => ({
    kind: "text", x, y: 18, text: words, fill, size: 10, anchor, mono: true,
  });
  const [low, high] = [end(scale.low), (scale.name === "diverging" ? "+" : "") + end(scale.high)];
  marks.push(text(left, low, "start"), text(left + width, high, "end"));
  const room = width - 2 * Math.max(measure(low, 10, true), measure(high, 10, true)) - 8;
  const said = fit(unit || (scale.name === "diverging" ? "0" : ""), room, 10, false);
  if (said) marks.push({ kind: "text", x: left + width / 2, y: 18, text: said, fill: palette.text3, size: 10, anchor: "middle" });
  return marks;
}

export interface Entry {
  name: string;
  color: string;
  shape: "line" | "dash" | "dot" | "box";
}

/** Names of series beside their swatches, in as many lines as they need; answers the height. */
export function swatches(entries: Entry[], room: number, palette: Palette): { marks: Mark[]; height: number } {
  const marks: Mark[] = [];
  let [x, y] = [0, 8];
  for (const { name, color, shape } of entries) {
    const text = fit(name, Math.min(260, room - 20), 11, false);
    const width = 20 + measure(text, 11, false);
    if (x > 0 && x + width > room) [x, y] = [0, y + 16];
    if (shape === "line" || shape === "dash") marks.push({ kind: "path", d: `M${x} ${y - 1}h14`, stroke: color, width: 2, dash: shape === "dash" ? "4 3" : "" });
    else if (shape === "dot") marks.push({ kind: "circle", x: x + 7, y: y - 1, r: 3.5, fill: color, stroke: "none", opacity: 1 });
    else marks.push({ kind: "rect", x: x + 2, y: y - 5, w: 10, h: 8, fill: color });
    marks.push({ kind: "text", x: x + 19, y: y + 3, text, fill: palette.text2, size: 11, anchor: "start", title: text === name ? undefined : name });
    x += width + 14;
  }
  return { marks, height: entries.length ? y + 10 : 0 };
}
