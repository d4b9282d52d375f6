/** The axes that curve, histogram and scatter share. */

import { fit, known, measure, tickTexts, ticks, type Maybe } from "./numbers";
import type { Palette } from "./palette";
import type { ReferenceView } from "./plain";
import type { Mark } from "./scene";

export type Domain = [number, number];

/** From the least to the most that is finite, a little wider; never of no width. */
export function domainOf(values: (Maybe | undefined)[], margin = 0.04): Domain {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!known(value) || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) return [0, 1];
  if (low === high) return [low - 0.5, high + 0.5];
  const pad = (high - low) * margin;
  return [low - pad, high + pad];
}

export interface Plan {
  width: number;
  /** Where the plot begins, below the legend. */
  top: number;
  height: number;
  x: Domain;
  y: Domain;
  /** Names instead of numbers along x, at 0, 1, 2 ... */
  labels?: string[];
  xTitle: string;
  yTitle: string;
  references: ReferenceView[];
}

export interface Plot {
  marks: Mark[];
  left: number;
  right: number;
  top: number;
  bottom: number;
  height: number;
  x(value: number): number;
  y(value: number): number;
}

const SIZE = 10;

/** Titles joined with their unit. */
export const titled = (title: string, unit: string): string => (title && unit ? `${title} (${unit})` : title || unit);

export function axes(plan: Plan, palette: Palette): Plot {
  const yAt = ticks(plan.y[0], plan.y[1], Math.max(2, plan.height / 44));
  const yTexts = tickTexts(yAt);
  const left = Math.ceil(Math.max(...yTexts.map((text) => measure(text, SIZE, true)), 8)) + 10;
  const right = plan.width - 10;
  const named = plan.references.filter((line) => line.axis === "x" && line.name);
  const top = plan.top + (plan.yTitle ? 18 : 6) + (named.length ? 12 : 0);
  const bottom = top + plan.height;
  const x = (value: number) => left + ((value - plan.x[0]) / (plan.x[1] - plan.x[0])) * (right - left);
  const y = (value: number) => bottom - ((value - plan.y[0]) / (plan.y[1] - plan.y[0])) * (bottom - top);
  const marks: Mark[] = [];
  const text = (at: number, down: number, words: string, anchor: "start" | "middle" | "end", mono = true, fill = palette.text2, title?: string) =>
    marks.push({ kind: "text", x: at, y: down, text: words, fill, size: SIZE, anchor, mono, title });

  yAt.forEach((value, i) => {
    marks.push({ kind: "path", d: `M${left} ${y(value).toFixed(1)}H${right}`, stroke: value === 0 ? palette.line2 : palette.line });
    text(left - 6, y(value) + 3.5, yTexts[i], "end");
  });
  const low = plan.labels ? labelled(plan.labels) : numbered();
  marks.push({ kind: "path", d: `M${left} ${bottom}H${right}`, stroke: palette.line2 });
  if (plan.yTitle) {
    const words = fit(plan.yTitle, right, SIZE + 1, false);
    marks.push({ kind: "text", x: 0, y: plan.top + 9, text: words, fill: palette.text3, size: SIZE + 1, anchor: "start", title: plan.yTitle });
  }
  if (plan.xTitle) {
    const words = fit(plan.xTitle, right - left, SIZE + 1, false);
    marks.push({ kind: "text", x: (left + right) / 2, y: low + 14, text: words, fill: palette.text3, size: SIZE + 1, anchor: "middle", title: plan.xTitle });
  }
  references();
  return { marks, left, right, top, bottom, height: low + (plan.xTitle ? 20 : 4), x, y };

  /** Ticks far enough apart that no two numbers touch; answers how far down they reach. */
  function numbered(): number {
    let about = Math.max(2, (right - left) / 60);
    let at = ticks(plan.x[0], plan.x[1], about);
    const crowded = () => {
      const step = at.length > 1 ? x(at[1]) - x(at[0]) : Infinity;
      return Math.max(...tickTexts(at).map((t) => measure(t, SIZE, true))) + 10 > step;
    };
    while (crowded() && about > 1) at = ticks(plan.x[0], plan.x[1], (about /= 1.5));
    const texts = tickTexts(at);
    at.forEach((value, i) => {
      marks.push({ kind: "path", d: `M${x(value).toFixed(1)} ${bottom}v4`, stroke: palette.line2 });
      text(x(value), bottom + 14, texts[i], "middle");
    });
    return bottom + 16;
  }

  function labelled(labels: string[]): number {
    const step = labels.length > 1 ? x(1) - x(0) : right - left;
    const longest = Math.max(...labels.map((label) => measure(label, SIZE, true)), 1);
    const room = Math.min(longest, 84);
    const up = longest + 6 > step && step < 56;
    const every = up ? Math.max(1, Math.ceil(12 / step)) : 1;
    labels.forEach((label, i) => {
      if (i % every) return;
      const words = fit(label, up ? room : step - 4, SIZE, true);
      const title = words === label ? undefined : label;
      if (up) marks.push({ kind: "text", x: x(i) + 3.5, y: bottom + 8, text: words, fill: palette.text2, size: SIZE, anchor: "end", mono: true, up: true, title });
      else text(x(i), bottom + 14, words, "middle", true, palette.text2, title);
    });
    return bottom + (up ? room + 12 : 16);
  }

  function references(): void {
    let busy = -Infinity; // names stand beside each other, or not at all
    for (const line of [...plan.references].sort((a, b) => a.at - b.at)) {
      const upright = line.axis === "x";
      const at = upright ? x(line.at) : y(line.at);
      const inside = upright ? at >= left && at <= right : at >= top && at <= bottom;
      if (!inside) continue;
      const d = upright ? `M${at.toFixed(1)} ${top}V${bottom}` : `M${left} ${at.toFixed(1)}H${right}`;
      marks.push({ kind: "path", d, stroke: palette.text3, dash: "3 3" });
      if (!line.name) continue;
      if (!upright) {
        text(right, at - 4, fit(line.name, (right - left) / 2, SIZE, false), "end", false, palette.text3, line.name);
        continue;
      }
      const words = fit(line.name, 120, SIZE, false);
      const width = measure(words, SIZE, false);
      const from = Math.max(left, Math.min(right - width, at - width / 2));
      if (from < busy + 6) continue;
      text(from, top - 4, words, "start", false, palette.text3, line.name);
      busy = from + width;
    }
  }
}

/** The references among what has to be in sight. */
export const referenced = (references: ReferenceView[], axis: "x" | "y"): number[] =>
  references.filter((line) => line.axis === axis).map((line) => line.at);
