/** The map's lines, letters and bars as marks: over the canvas on screen, and in a file. */

import { signed } from "../lib/format";
import { digitsFor, looksAt, summed, type LayerData, type MapData, type Tint } from "../lib/map";
import { actsOn, type Act } from "../lib/mapEdits";
import { boxOf, FOOT, HEADS, LEGIBLE, middle, OPEN, OPEN_HEAD, valueIn, type MapLayout, type MapRow } from "../lib/mapLayout";
import { plain, visible } from "../lib/tokens";
import { fit, measure } from "./kinds/numbers";
import { colorScale, type Palette } from "./kinds/palette";
import type { Mark, TextMark } from "./kinds/scene";

export interface MapPicture {
  layout: MapLayout;
  data: MapData;
  tint: Tint;
  scale: number;
  /** Of direct effects, in logits, where the colour is of something else. */
  effects?: number;
  layer: LayerData | null;
  /** The likeliest token at each row, `embed` first. */
  lens: { text: string; p: number | null }[];
  /** The logit difference at each row, of the run and of the one before any edit. */
  curve: number[];
  before: number[];
  acts: Map<string, Map<Act, number>>;
  /** The run before any edit, where cells show direct effects of the edited one: of what is ablated, its numbers are struck through. */
  was: Pick<MapData, "effects" | "mlp"> | null;
  tokens: string[];
  /** How many heads read one KV head, by layer. */
  shared: readonly number[];
  delta: boolean;
}

const SMALL = 9;
/** Values under this share of the scale are not written: their colour says that they are next to nothing. */
const WORTH = 0.12;

export function mapMarks(picture: MapPicture, palette: Palette): Mark[] {
  const marks: Mark[] = [];
  heading(marks, picture, palette);
  for (const row of picture.layout.rows) {
    cells(marks, row, picture, palette);
    spine(marks, row, picture, palette);
    mlp(marks, row, picture, palette);
    lens(marks, row, picture, palette);
  }
  ends(marks, picture, palette);
  curves(marks, picture, palette);
  return marks;
}

const word = (x: number, y: number, text: string, fill: string, more: Partial<TextMark> = {}): Mark => ({
  kind: "text", x, y, text, fill, size: SMALL, anchor: "start", mono: true, ...more,
});

function heading(marks: Mark[], { layout, data, delta }: MapPicture, palette: Palette): void {
  const { heads, spine, mlp, lens, curve } = layout;
  const every = Math.ceil(22 / heads.each);
  for (let head = 0; head < data.heads; head += every) marks.push(word(heads.x + (head + 0.5) * heads.each - 0.5, 15, `H${head}`, palette.text3, { anchor: "middle" }));
  const title = (x: number, text: string, anchor: TextMark["anchor"] = "middle") => marks.push(word(x, 15, text, palette.text3, { mono: false, size: 10, anchor }));
  if (spine.w >= 50) title(spine.x + spine.w / 2, "residual");
  title(mlp.x + mlp.w / 2, "MLP");
  if (lens.w) title(lens.x, "lens top-1", "start");
  if (curve.w) marks.push(word(curve.x + curve.w, 15, `${delta ? "Δ" : ""}${signed(data.metric)}`, palette.text, { anchor: "end", bold: true, size: 10 }));
}

/** A number that holds no more. */
function struck(marks: Mark[], x: number, y: number, value: number, scale: number, ink: string, anchor: "middle" | "end" | "start", size = 8.5): void {
  const text = signed(value, digitsFor(scale));
  const w = measure(text, size, true);
  const from = anchor === "middle" ? x - w / 2 : anchor === "end" ? x - w : x;
  marks.push(word(x, y, text, ink, { anchor, size, title: `before the edits: ${text}` }));
  marks.push({ kind: "path", d: `M${(from - 1).toFixed(1)} ${y - size * 0.34}h${(w + 2).toFixed(1)}`, stroke: ink });
}

function cells(marks: Mark[], row: MapRow, { layout, data, tint, scale, layer, acts, was, tokens, shared }: MapPicture, palette: Palette): void {
  const name = row.from === row.to ? String(row.from) : `${row.from}–${row.to}`;
  const open = row.kind === "open";
  marks.push(word(layout.heads.x - 5, open ? row.y + 20 : middle(row) + 3, open ? `L${name}` : name, open ? palette.text : palette.text3, { anchor: "end", bold: open, size: open ? 10 : SMALL }));
  for (let head = 0; head < data.heads; head++) {
    const box = boxOf(layout, { layer: row.to, head })!;
    const value = valueIn(row, (at) => tint.heads[at * data.heads + head]);
    const ink = Number.isNaN(value) ? palette.text : palette.diverging.inkFor(value, scale);
    const gone = was && row.from === row.to && actsOn(acts, { layer: row.to, head }).has("ablate") ? was.effects[row.to * data.heads + head] : NaN;
    if (open && box.w >= LEGIBLE - 1 && !Number.isNaN(gone)) struck(marks, box.x + box.w / 2, box.y + box.h - 26, gone, scale, ink, "middle");
    if (open && box.w >= LEGIBLE - 1) {
      const looks = layer && looksAt(layer, head);
      const middleX = box.x + box.w / 2;
      if (!Number.isNaN(value)) marks.push(word(middleX, box.y + box.h - 15, short(value, scale, box.w, 9.5), ink, { anchor: "middle", bold: true, size: 9.5 }));
      if (looks) marks.push(word(middleX, box.y + box.h - 4, attends(plain(tokens[looks.key] ?? ""), looks.weight, box.w - 2), ink, { anchor: "middle", size: 8.5, title: `most attention to ${looks.key} ${visible(tokens[looks.key] ?? "")}` }));
    } else if (layout.numbers && Math.abs(gone) >= WORTH * scale) {
      struck(marks, box.x + box.w - 3, middle(row) + 3, gone, scale, ink, "end", 8);
    } else if (layout.numbers && Math.abs(value) >= WORTH * scale) {
      marks.push(word(box.x + box.w - 2, middle(row) + 3, signed(value, digitsFor(scale) - 1), ink, { anchor: "end", size: 8.5 }));
    }
    if (row.from === row.to) edited(marks, box, actsOn(acts, { layer: row.to, head }), ink, palette, open && box.w >= LEGIBLE - 1 ? box.h - 37 : box.h);
  }
  if (open) groups(marks, row, layout, data.heads, shared[row.to] ?? 1, palette);
}

/** A number with as many of its decimals as there is room for, and one at least. */
function short(value: number, scale: number, room: number, size: number): string {
  let digits = digitsFor(scale);
  while (digits > 1 && measure(signed(value, digits), size, true) * 1.04 > room) digits--;
  return signed(value, digits);
}

/** A token and its weight; without the weight where both have no room. */
function attends(token: string, weight: number, room: number): string {
  const both = `${token} ${weight.toFixed(2).replace(/^0/, "")}`;
  return measure(both, 8.5, true) <= room ? both : fit(token, room, 8.5, true);
}

/** Heads that read the same keys and values. */
function groups(marks: Mark[], row: MapRow, { heads }: MapLayout, count: number, each: number, palette: Palette): void {
  if (each <= 1 || heads.each * each < 30) return;
  const y = row.y + OPEN - 18;
  for (let group = 0; group < Math.floor(count / each); group++) {
    const [from, to] = [heads.x + group * each * heads.each + 1, heads.x + (group + 1) * each * heads.each - 2];
    marks.push({ kind: "path", d: `M${from} ${y}H${to}`, stroke: palette.line2 });
    const words = `KV ${group} · heads ${group * each}–${(group + 1) * each - 1}`;
    marks.push(word((from + to) / 2, y + 11, fit(words, to - from, SMALL, true), palette.text3, { anchor: "middle" }));
  }
}

type Box = { x: number; y: number; w: number; h: number };

/** crossed: how far down a cross goes, above what is written. */
function edited(marks: Mark[], { x, y, w, h }: Box, acts: Map<Act, number>, ink: string, palette: Palette, crossed = h): void {
  const [, freeze, , accent] = palette.series;
  if (acts.has("ablate")) {
    marks.push({ kind: "path", d: `M${x + 0.5} ${y + 0.5}h${w - 1}v${h - 1}h${1 - w}zM${x + 1} ${y + 1}l${w - 2} ${crossed - 2}M${x + w - 1} ${y + 1}l${2 - w} ${crossed - 2}`, stroke: ink, width: 1.2 });
  }
  if (acts.has("isolate")) marks.push({ kind: "path", d: `M${x + 1} ${y + 1}h${w - 2}v${h - 2}h${2 - w}z`, stroke: accent, width: 2 });
  if (acts.has("freeze")) {
    marks.push({ kind: "path", d: `M${x + 0.5} ${y + 0.5}h${w - 1}v${h - 1}h${1 - w}z`, stroke: freeze });
    if (w >= 14) marks.push({ kind: "path", d: flake(x + w - 6, y + 5.5, 3.2), stroke: freeze, width: 1.1 });
  }
  if (acts.has("patch")) {
    marks.push({ kind: "path", d: `M${x + 0.5} ${y + 0.5}h${w - 1}v${h - 1}h${1 - w}z`, stroke: accent, dash: "3 2" });
    if (w >= 14) marks.push({ kind: "path", d: `M${x + 2.5} ${y + 5.5}h6l-2.5 -2.5m2.5 2.5l-2.5 2.5`, stroke: accent, width: 1.2 });
  }
  const factor = acts.get("scale");
  if (factor !== undefined && w >= 14) marks.push(word(x + 2, y + h - 2, `×${factor}`, ink, { size: 8, bold: true }));
}

export const flake = (x: number, y: number, r: number): string => [0, 1, 2].map((i) => `M${x - r * Math.cos((i * Math.PI) / 3)} ${y - r * Math.sin((i * Math.PI) / 3)}L${x + r * Math.cos((i * Math.PI) / 3)} ${y + r * Math.sin((i * Math.PI) / 3)}`).join("");

const wide = (value: number, scale: number): number => Math.max(0.75, Math.min(4, (4 * Math.abs(value)) / scale));

/** What attention and MLP add, as arrows into the stream, as strong as what they add. */
function spine(marks: Mark[], row: MapRow, { layout, data, scale: tinted, effects: scale = tinted, curve }: MapPicture, palette: Palette): void {
  const { spine, heads, mlp } = layout;
  const [x, open] = [spine.x + spine.w / 2, row.kind === "open"];
  const at = curve[row.to + 1];
  const most = Math.max(...curve.map((value) => Math.abs(value)).filter(Number.isFinite), 1e-9);
  marks.push({ kind: "rect", x: x - 2.5, y: row.y, w: 5, h: row.h, fill: Number.isFinite(at) ? palette.diverging.color(at, most) : palette.line });
  const attn = valueIn(row, (layer) => data.attn[layer]);
  const low = open ? row.y + OPEN_HEAD + 54 : middle(row) + row.h / 6;
  marks.push({ kind: "path", d: `M${heads.x + heads.w + 1} ${low}H${x - 3}`, stroke: palette.diverging.color(attn, scale), width: wide(attn, scale) });
  if (open) marks.push(word(x - 5, low - 5, short(attn, scale, spine.w / 2 + 6, SMALL), palette.text2, { anchor: "end" }));
  const nodes: [number, number][] = [[low, open ? 5 : 1.6]];
  if (data.mlp) {
    const up = open ? row.y + OPEN_HEAD : middle(row) - row.h / 6;
    const value = valueIn(row, (layer) => data.mlp![layer]);
    marks.push({ kind: "path", d: open ? `M${mlp.x + mlp.w / 2} ${middle(row) - 14}V${up}H${x + 5}` : `M${mlp.x} ${up}H${x + 3}`, stroke: palette.diverging.color(value, scale), width: wide(value, scale) });
    if (open) {
      marks.push({ kind: "path", d: `M${x + 3} ${low + 20}H${mlp.x + mlp.w / 2}V${middle(row) + 14}`, stroke: palette.line2 });
      marks.push({ kind: "path", d: `M${x - 3} ${row.y + OPEN - 12}H${x - spine.w / 2 + 6}V${low + 8}l-3 5m3 -5l3 5`, stroke: palette.line2 });
    }
    nodes.push([up, open ? 5 : 1.6]);
  }
  for (const [y, r] of nodes) {
    marks.push({ kind: "circle", x, y, r, fill: palette.surface, stroke: palette.text2, opacity: 1 });
    if (open) marks.push({ kind: "path", d: `M${x - 3} ${y}h6M${x} ${y - 3}v6`, stroke: palette.text2 });
  }
}

function mlp(marks: Mark[], row: MapRow, { layout, data, tint, scale, effects = scale, layer, acts, was }: MapPicture, palette: Palette): void {
  if (!data.mlp) return;
  const { mlp, bars } = layout;
  const open = row.kind === "open";
  const box = boxOf(layout, { layer: row.to, head: null })!;
  const value = valueIn(row, (at) => data.mlp![at]);
  const tinted = tint.mlp ? valueIn(row, (at) => tint.mlp![at]) : NaN;
  marks.push({ kind: "rect", ...box, fill: Number.isNaN(tinted) ? palette.sunken : palette.diverging.color(tinted, scale) });
  const ink = Number.isNaN(tinted) ? palette.text2 : palette.diverging.inkFor(tinted, scale);
  marks.push(word(mlp.x + mlp.w / 2, box.y + box.h / 2 + 3, "mlp", ink, { anchor: "middle" }));
  if (row.from === row.to) edited(marks, box, actsOn(acts, { layer: row.to, head: null }), ink, palette);
  if (!bars.w) return;
  const numbered = bars.w >= 70;
  const bar = (y: number, h: number, effect: number, from: number, room: number, full: number, always: boolean) => {
    const w = Math.max(0.75, Math.min(1, Math.abs(effect) / full) * room);
    marks.push({ kind: "rect", x: from, y: y - h / 2, w, h, fill: palette.diverging.color(Math.sign(effect) * 0.75, 1) });
    if (numbered && (always || Math.abs(effect) >= 0.06 * full)) marks.push(word(from + w + 3, y + 3, signed(effect, digitsFor(full)), always ? palette.text : palette.text2, { size: 8.5 }));
  };
  const room = bars.w - (numbered ? 32 : 4);
  if (!open) return bar(middle(row), Math.min(7, row.h - 4), value, bars.x, room, effects, false);
  const y = row.y + OPEN_HEAD;
  const said = numbered ? `mlp ${signed(value, digitsFor(effects))}` : signed(value, digitsFor(effects));
  marks.push(word(bars.x, y + 2, said, palette.text2));
  if (was?.mlp && actsOn(acts, { layer: row.to, head: null }).has("ablate")) struck(marks, bars.x + (numbered ? measure(said, SMALL, true) + 5 : 0), y + (numbered ? 2 : 12), was.mlp[row.to], effects, palette.text3, "start");
  const neurons = numbered ? (layer?.neurons.slice(0, 6) ?? []) : [];
  const most = Math.max(...neurons.map(({ effect }) => Math.abs(effect)), 1e-9);
  neurons.forEach(({ index, effect }, i) => {
    marks.push(word(bars.x + 24, y + 17 + 13 * i, String(index), palette.text3, { anchor: "end", size: 8.5, title: `neuron ${index}` }));
    bar(y + 14 + 13 * i, 6, effect, bars.x + 28, bars.w - 60, most, true);
  });
}

function lens(marks: Mark[], row: MapRow, { layout, lens }: MapPicture, palette: Palette): void {
  const top = lens[row.to + 1];
  if (!layout.lens.w || !top) return;
  const { x, w } = layout.lens;
  const scale = colorScale([], "sequential", 1, palette);
  const h = Math.min(row.h - 1, 20);
  const [y, ink] = [middle(row) - h / 2, scale.ink(top.p ?? 0)];
  marks.push({ kind: "rect", x, y, w, h, fill: scale.color(top.p ?? 0) });
  marks.push(word(x + 4, middle(row) + 3, fit(plain(top.text), w - 36, SMALL, true), ink, { title: top.text }));
  if (top.p !== null) marks.push(word(x + w - 4, middle(row) + 3, top.p.toFixed(2), ink, { anchor: "end" }));
}

/** The embedding below, the unembedding above, and what belongs to no layer. */
function ends(marks: Mark[], { layout, data, scale: tinted, effects: scale = tinted }: MapPicture, palette: Palette): void {
  const x = layout.spine.x + layout.spine.w / 2;
  const foot = layout.height - FOOT;
  marks.push({ kind: "path", d: `M${x - 4.5} ${HEADS}L${x} ${HEADS - 7}L${x + 4.5} ${HEADS}z`, fill: palette.text });
  const terms = Object.entries(data.terms).map(([name, value]) => `${name} ${signed(value, digitsFor(scale))}`).join(" · ");
  marks.push(word(x, foot + 13, fit(terms, Math.max(80, layout.width - x), SMALL, true), palette.text3, { title: terms }));
}

/** The logit difference layer by layer: as the lens reads it, and dashed the sum of the direct effects up to there. */
function curves(marks: Mark[], { layout, data, curve, before }: MapPicture, palette: Palette): void {
  const { x, w } = layout.curve;
  if (!w) return;
  const sums = summed(data);
  const all = [0, ...curve, ...before, ...sums].filter(Number.isFinite);
  const [low, high] = [Math.min(...all), Math.max(...all, Math.min(...all) + 1e-6)];
  const at = (value: number) => x + 4 + ((w - 8) * (value - low)) / (high - low);
  const height = (index: number): number => {
    const row = layout.rows.find(({ from, to }) => index - 1 >= from && index - 1 <= to);
    return row && index > 0 ? row.y + row.h * (1 - (index - row.from) / (row.to - row.from + 1)) + row.h / (2 * (row.to - row.from + 1)) : layout.height - FOOT + 5;
  };
  const line = (values: number[]) => values.flatMap((value, i) => (Number.isFinite(value) ? `${at(value).toFixed(1)} ${height(i).toFixed(1)}` : [])).join("L");
  marks.push({ kind: "path", d: `M${at(0)} ${HEADS}V${layout.height - FOOT + 8}`, stroke: palette.line2 });
  if (before.length) marks.push({ kind: "path", d: `M${line(before)}`, stroke: palette.text3, width: 1, opacity: 0.5 });
  marks.push({ kind: "path", d: `M${line(sums)}`, stroke: palette.text3, dash: "3 2" });
  if (!curve.length) return;
  marks.push({ kind: "path", d: `M${line(curve)}`, stroke: palette.text, width: 1.25 });
  curve.forEach((value, i) => Number.isFinite(value) && marks.push({ kind: "circle", x: at(value), y: height(i), r: 2, fill: palette.diverging.color(value, Math.max(Math.abs(low), high)), stroke: palette.text2, opacity: 1 }));
}
