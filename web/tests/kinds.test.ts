import { describe, expect, it } from "vitest";
import { curve } from "../src/views/kinds/curve";
import { heatMap } from "../src/views/kinds/heatmap";
import { histogram } from "../src/views/kinds/histogram";
import { headsFor } from "../src/views/kinds/matrix";
import { asLabel } from "../src/lib/tokens";
import { fit, measure, number, roundUp, tickTexts, ticks } from "../src/views/kinds/numbers";
import { colorScale } from "../src/views/kinds/palette";
import { pattern } from "../src/views/kinds/pattern";
import { restore, type CurveView, type HeatMapView, type HistogramView, type ScatterView, type TokenStripView } from "../src/views/kinds/plain";
import { scatter } from "../src/views/kinds/scatter";
import { svgFile, type Box, type Mark, type Scene, type TextMark } from "../src/views/kinds/scene";
import { sheetScene } from "../src/views/kinds/savers";
import { csv, fileName } from "../src/views/kinds/sheet";
import { tokenStrip } from "../src/views/kinds/strip";
import { palette } from "./palette";

const WIDE = 640;
const base = { title: "T", unit: "logits", note: "", limit: null };
const map = (more: Partial<HeatMapView> = {}): HeatMapView => ({
  ...base, kind: "heat_map", values: [[0, 2], [-4, null]], rows: ["r0", "r1"], columns: ["c0", " c1"], row_title: "layer", column_title: "token",
  scale: "diverging", low: null, high: null, marks: [], texts: null, bottom_up: false, ...more,
});
const line = (y: (number | null)[], more = {}) => ({ name: "acc", y, low: null, high: null, dashed: false, ...more });
const curveOf = (more: Partial<CurveView> = {}): CurveView => ({
  ...base, kind: "curve", x: [0, 1, 2], lines: [line([1, 2, 4])], x_title: "layer", y_title: "accuracy", references: [], ...more,
});
const points = (more: Partial<ScatterView> = {}): ScatterView => ({
  ...base, kind: "scatter", x: [0, 1, null], y: [5, 6, 7], groups: null, texts: null, diagonal: false, x_title: "a", y_title: "b", references: [], ...more,
});
const strip = (tokens: string[], values: (number | null)[]): TokenStripView => ({ ...base, kind: "token_strip", tokens, values, scale: "diverging" });

const texts = (scene: Scene): TextMark[] => scene.marks.filter((mark): mark is TextMark => mark.kind === "text");
const said = (scene: Scene): string[] => texts(scene).map((mark) => mark.text);
const middle = ({ x, y, w, h }: Box): [number, number] => [x + w / 2, y + h / 2];
const rects = (scene: Scene) => scene.dense.filter((mark): mark is Extract<Mark, { kind: "rect" }> => mark.kind === "rect");

/** Where a text lies, by its anchor and turn. */
function place(mark: TextMark): Box {
  const w = measure(mark.text, mark.size, !!mark.mono);
  const start = { start: 0, middle: w / 2, end: w }[mark.anchor];
  return mark.up ? { x: mark.x - mark.size, y: mark.y - w + start, w: mark.size, h: w } : { x: mark.x - start, y: mark.y - mark.size, w, h: mark.size };
}
const touch = (a: Box, b: Box) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;
function overlapping(marks: TextMark[]): string[] {
  const found = marks.map((mark) => ({ box: place(mark), text: mark.text }));
  return found.flatMap((a, i) => found.slice(i + 1).filter((b) => touch(a.box, b.box)).map((b) => `${a.text} / ${b.text}`));
}

describe("a heat map", () => {
  const scene = heatMap.draw(map({ limit: 2 }), WIDE, palette);

  it("is red above zero, blue below, and neutral at zero", () => {
    const [zero, up, down] = rects(scene).map((rect) => rect.fill.match(/\d+/g)?.map(Number));
    expect(zero).toEqual([247, 247, 245]);
    expect(up).toEqual([178, 24, 43]);
    expect(down).toEqual([33, 102, 172]);
  });

  it("hatches what is not known and ticks what is clipped", () => {
    expect(scene.dense.filter((mark) => mark.kind === "hatch")).toHaveLength(1);
    expect(scene.dense.filter((mark) => mark.kind === "path")).toHaveLength(1);
    const inside = heatMap.draw(map({ limit: 4, values: [[0, 2], [-4, 1]] }), WIDE, palette);
    expect(inside.dense.filter((mark) => mark.kind !== "rect")).toEqual([]);
  });

  it("reads the value under the pointer and walks by arrow key", () => {
    const { reader } = scene;
    for (let i = 0; i < reader.count; i++) expect(reader.at(...middle(reader.box(i)))).toBe(i);
    expect(reader.words(1)).toEqual({ head: "layer r0 · token ·c1", value: "+2 logits", more: [] });
    expect(reader.words(2).more).toEqual(["beyond the scale"]);
    expect(reader.words(3).value).toBe("–");
    expect([reader.step(0, 1, 0), reader.step(0, 0, 1), reader.step(0, -1, -1), reader.step(3, 1, 1)]).toEqual([1, 2, 0, 3]);
    expect(reader.at(-5, -5)).toBeNull();
  });

  it("puts the first row at the bottom where it is asked to, and its values with it", () => {
    const turned = heatMap.draw(map({ bottom_up: true, marks: [[0, 1]] }), WIDE, palette).reader;
    expect(turned.words(0)).toMatchObject({ head: "layer r1 · token c0", value: "−4 logits" });
    expect(scene.reader.words(0)).toMatchObject({ head: "layer r0 · token c0" });
  });

  it("says intervals and texts", () => {
    const full = map({ low: [[-1, 1], [-5, null]], high: [[1, 3], [-3, null]], texts: [["the", " a"], ["b", "c"]] });
    expect(heatMap.draw(full, WIDE, palette).reader.words(1).more).toEqual(["·a", "1 to 3"]);
    expect(heatMap.table(full).rows[0]).toEqual(["r0", "0 [−1, 1] the", "2 [1, 3] ·a"]);
    expect(heatMap.file!(full).rows[1]).toEqual(["r0", " c1", 2, 1, 3, " a"]);
  });

  it.each([[9, 600], [40, 600], [64, 360], [300, 800], [1000, 800]])("has labels that never overlap: %i columns in %i px", (n, width) => {
    const columns = Array.from({ length: n }, (_, i) => ` token${i}`);
    const rows = Array.from({ length: 80 }, (_, i) => String(i));
    for (const names of [columns, columns.map((_, i) => String(i))]) {
      const drawn = heatMap.draw(map({ values: rows.map(() => names.map(() => 0)), columns: names, rows }), width, palette);
      expect(overlapping(texts(drawn).slice(0, 400))).toEqual([]);
    }
  });

  it("cuts a long label, and says it whole", () => {
    const long = "a label much longer than there is room for in the margin";
    const label = texts(heatMap.draw(map({ rows: [long, "b"] }), WIDE, palette)).find((mark) => mark.title === long)!;
    expect(label.text).toMatch(/^a label.*…$/);
  });
});

describe("colour scales", () => {
  it("are symmetric and leave the rarest out, unless told", () => {
    const values = Array.from({ length: 1000 }, (_, i) => (i === 7 ? -500 : Math.sin(i)));
    const scale = colorScale(values, "diverging", null, palette);
    expect(scale.low).toBe(-scale.high);
    expect(scale.high).toBeLessThan(1.01);
    expect(scale.clipped(-500)).toBe(true);
    expect(colorScale(values, "diverging", 600, palette).clipped(-500)).toBe(false);
  });

  it("of one sign begin at zero, or at the least", () => {
    const scale = colorScale([0.25, 0.5], "sequential", null, palette);
    expect([scale.low, scale.high]).toEqual([0, 0.5]);
    expect(scale.color(0)).toBe("rgb(255,255,255)");
    expect(scale.color(0.5)).toBe("rgb(65,48,127)");
    expect(colorScale([-1, 3], "sequential", null, palette).low).toBe(-1);
    expect(colorScale([], "sequential", null, palette).high).toBeGreaterThan(0);
    expect(colorScale([0, 0], "diverging", null, palette).color(0)).toBe("rgb(247,247,245)");
  });
});

describe("an attention pattern", () => {
  const view = { kind: "pattern" as const, title: "", note: "", tokens: ["a", " b"], weights: [[1, 0], [0.25, 0.75]] };
  const { reader, dense } = pattern.draw(view, WIDE, palette);

  it("is the lower triangle, query by key", () => {
    expect(dense.filter((mark) => mark.kind === "rect")).toHaveLength(3);
    expect(reader.at(...middle(reader.box(1)))).toBeNull();
    expect(reader.words(2)).toEqual({ head: "1 ·b → 0 a", value: "0.2500" });
    expect(reader.step(0, 1, 0)).toBe(0);
  });

  it("has no row in its file for what cannot be attended to", () => {
    expect(pattern.file!(view).rows).toEqual([[0, '"a"', 0, '"a"', 1], [1, '" b"', 0, '"a"', 0.25], [1, '" b"', 1, '" b"', 0.75]]);
    expect(pattern.table(view).rows[0]).toEqual(["0 a", 1, null]);
  });
});

describe("a curve", () => {
  const paths = (scene: Scene) => scene.marks.filter((mark): mark is Extract<Mark, { kind: "path" }> => mark.kind === "path");

  it("is broken where a value is not known", () => {
    const drawn = (y: (number | null)[]) => paths(curve.draw(curveOf({ lines: [line(y)] }), WIDE, palette)).filter((path) => path.width === 1.5);
    expect(drawn([1, 2, 3])).toHaveLength(1);
    expect(drawn([1, null, 3])).toHaveLength(2);
  });

  it("has a band over numbers and whiskers over labels", () => {
    const lines = [line([1, 2, 3], { low: [0, 1, 2], high: [2, 3, 4] })];
    expect(paths(curve.draw(curveOf({ lines }), WIDE, palette)).filter((path) => path.opacity === 0.14)).toHaveLength(1);
    const named = curve.draw(curveOf({ lines, x: ["a", "b", "c"] }), WIDE, palette);
    expect(paths(named).filter((path) => path.opacity === 0.14)).toHaveLength(0);
    expect(paths(named).filter((path) => /h6M/.test(path.d))).toHaveLength(3);
  });

  it("shows every interval whole", () => {
    const lines = [line([1, 1, 1], { low: [-9, 1, 1], high: [1, 1, 9] })];
    for (const path of paths(curve.draw(curveOf({ lines }), WIDE, palette)).filter((path) => path.opacity === 0.14))
      for (const [, , y] of path.d.matchAll(/([\d.]+) ([\d.-]+)/g)) expect(Number(y)).toBeGreaterThan(0);
  });

  it("reads the nearest point of the nearest line, and the others with it", () => {
    const lines = [line([1, 2, 4], { low: [0, 1, 3], high: [2, 3, 5] }), line([10, 10, 10], { name: "chance" })];
    const { reader } = curve.draw(curveOf({ lines }), WIDE, palette);
    for (let i = 0; i < reader.count; i++) expect(reader.at(...middle(reader.box(i)))).toBe(i);
    expect(reader.words(1)).toEqual({ head: "layer 1 · acc", value: "2 logits", more: ["1 to 3", "chance: 10"] });
    expect([reader.step(1, 1, 0), reader.step(1, 0, 1), reader.step(2, 1, 0)]).toEqual([2, 4, 2]);
    expect(curve.table(curveOf({ lines })).columns).toEqual(["layer", "acc", "acc low", "acc high", "chance"]);
  });

  it.each([200, 360, 800])("has labels that never overlap in %i px", (width) => {
    const references = [1, 1.01, 1.02, 2].map((at) => ({ at, name: `reference at ${at}`, axis: "x" as const }));
    const views = [
      curveOf({ references }),
      curveOf({ x: [1e-6, 2e-6, 3e-6], lines: [line([1e9, 2e9, 3e9])] }),
      curveOf({ x: Array.from({ length: 90 }, (_, i) => `resid_post.${i}`), lines: [line(Array.from({ length: 90 }, (_, i) => i))] }),
      curveOf({ x: Array.from({ length: 31 }, (_, i) => (i ? String(i - 1) : "emb")), lines: [line(Array.from({ length: 31 }, (_, i) => i))] }),
    ];
    for (const view of views) expect(overlapping(texts(curve.draw(view, width, palette)))).toEqual([]);
  });

  it("names every reference", () => {
    const references = [1, 1.01, 1.02].map((at) => ({ at, name: `at ${at}`, axis: "x" as const }));
    expect(said(curve.draw(curveOf({ references }), WIDE, palette))).toEqual(expect.arrayContaining(["at 1", "at 1.01", "at 1.02"]));
  });
});

describe("a histogram", () => {
  const one = (name: string, counts: number[]) => ({ name, counts, n: counts.reduce((a, b) => a + b), mean: 1, left_out: 0 });
  const view = (series: HistogramView["series"]): HistogramView => ({ ...base, kind: "histogram", edges: [0, 1, 2, 3], series, x_title: "x", references: [] });

  it("counts equal series and compares the shares of unequal ones", () => {
    expect(said(histogram.draw(view([one("a", [1, 0, 2]), one("b", [3, 0, 0])]), WIDE, palette))).toContain("count");
    const unequal = histogram.draw(view([one("a", [1, 0, 2]), one("b", [30, 0, 0])]), WIDE, palette);
    expect(said(unequal)).toContain("share");
    expect(unequal.reader.words(0)).toEqual({ head: "0 to 1 logits", value: "a 1 (33.3 %)", more: ["b 30 (100 %)"] });
  });

  it("reads the bin under the pointer", () => {
    const { reader } = histogram.draw(view([one("a", [1, 0, 2])]), WIDE, palette);
    for (let i = 0; i < reader.count; i++) expect(reader.at(...middle(reader.box(i)))).toBe(i);
  });

  it("says what it left out", () => {
    expect(histogram.notes(view([{ ...one("a", [1, 0, 2]), left_out: 4 }])).join()).toContain("a: 4 left out");
    expect(histogram.notes(view([one("a", [1, 0, 2])])).join("")).toBe("");
  });
});

describe("a scatter", () => {
  it("draws what has a place, and says what has none", () => {
    const { reader } = scatter.draw(points(), WIDE, palette);
    expect(reader.count).toBe(2);
    expect(reader.at(...middle(reader.box(1)))).toBe(1);
    expect(reader.words(1).value).toBe("1 · 6");
    expect(scatter.notes(points())).toContain("1 not drawn: a coordinate is not finite");
  });

  it("has the same scale on both axes where y = x is drawn", () => {
    const { reader } = scatter.draw(points({ x: [0, 10], y: [0, 1], diagonal: true }), 400, palette);
    const [a, b] = [reader.box(0), reader.box(1)];
    const square = scatter.draw(points({ x: [0, 10], y: [0, 1] }), 400, palette).reader;
    expect(Math.abs(a.y - b.y) / Math.abs(a.x - b.x)).toBeLessThan(0.15);
    expect(Math.abs(square.box(0).y - square.box(1).y) / Math.abs(square.box(0).x - square.box(1).x)).toBeGreaterThan(0.5);
  });

  it("gives a group its own look, also when the colours are used up", () => {
    const n = 8;
    const view = points({ x: [...Array(n).keys()], y: [...Array(n).keys()], groups: [...Array(n).keys()].map(String) });
    const looks = scatter.draw(view, WIDE, palette).marks.filter((mark) => mark.kind === "circle" && mark.r === 3).map((mark) => mark.kind === "circle" && mark.fill + mark.stroke);
    expect(new Set(looks).size).toBe(n);
  });

  it("of many points is one canvas", () => {
    const many = Array.from({ length: 600 }, (_, i) => i);
    expect(scatter.draw(points({ x: many, y: many }), WIDE, palette).dense).toHaveLength(600);
    expect(scatter.draw(points(), WIDE, palette).dense).toHaveLength(0);
  });
});

describe("a token strip", () => {
  it("breaks lines within the room and at newlines, and walks between them", () => {
    const { reader, width } = tokenStrip.draw(strip([..."abcdefghij"].map((c) => ` ${c.repeat(6)}`), Array(10).fill(1)), 200, palette);
    const boxes = Array.from({ length: 10 }, (_, i) => reader.box(i));
    expect(Math.max(...boxes.map((box) => box.x + box.w))).toBeLessThanOrEqual(width);
    expect(new Set(boxes.map((box) => box.y)).size).toBeGreaterThan(2);
    expect(reader.box(reader.step(0, 0, 1)).y).toBeGreaterThan(reader.box(0).y);
    boxes.forEach((box, i) => expect(reader.at(...middle(box))).toBe(i));
    const broken = tokenStrip.draw(strip(["a\n", "b"], [1, 1]), 200, palette).reader;
    expect(broken.box(1).y).toBeGreaterThan(broken.box(0).y);
  });
});

describe("text", () => {
  it("hides nothing of a label", () => {
    expect([asLabel(" a b "), asLabel("\n"), asLabel(""), asLabel("a\u202eb"), asLabel("\u200b")]).toEqual(["·a b·", "↵", "∅", "a⟨202e⟩b", "⟨200b⟩"]);
    expect(measure(fit("x".repeat(50), 60, 10, true), 10, true)).toBeLessThanOrEqual(60);
    expect(fit("short", 60, 10, true)).toBe("short");
  });

  it("writes numbers with a true minus", () => {
    expect([number(-1.23456), number(0), number(null), number(Infinity), number(3), number(-1e-7), number(123456.7)]).toEqual(["−1.235", "0", "–", "∞", "3", "−1.00e−7", "123457"]);
  });

  it("chooses round ticks", () => {
    expect(ticks(0, 1, 4)).toEqual([0, 0.2, 0.4, 0.6, 0.8, 1]);
    expect(tickTexts(ticks(-0.3, 0.3, 3))).toEqual(["−0.2", "0.0", "0.2"]);
    expect(ticks(0, 1, 4, 1)).toEqual([0, 1]);
    expect([1, 1.1, 3, 7, 12, 60].map(roundUp)).toEqual([1, 2, 5, 10, 20, 100]);
    expect(headsFor(["0", "1", "2"], 40)).toMatchObject({ up: false, every: 1 });
  });
});

describe("what leaves the page", () => {
  it("is CSV that no spreadsheet runs", () => {
    const text = csv({ columns: ["a", "b,c"], rows: [["=1+1", 0.1], ["-3", null], ["x\ny", true], [' "q"', Infinity]] });
    expect(text.split("\n").slice(0, 4)).toEqual(['a,"b,c"', '"""=1+1""",0.1', "-3,", '"""x\\ny""",true']);
    expect(fileName("../../etc: a·b", "map")).toBe("etc-a-b");
  });

  it("is a table as a picture, to its first rows", () => {
    const rows = Array.from({ length: 500 }, (_, i) => [`row ${i}`, i % 7 ? i / 8 : null]);
    const words = said(sheetScene({ columns: ["name", "x"], rows }, palette));
    expect(words).toEqual(expect.arrayContaining(["name", "row 399", "0.1250", "–", "100 more rows are in the CSV"]));
    expect(words).not.toContain("row 400");
    const short = sheetScene({ columns: ["name", "x"], rows: rows.slice(0, 3) }, palette);
    expect(overlapping(texts(short))).toEqual([]);
    expect(said(short).join()).not.toContain("more rows");
  });

  it("is SVG in which no label is markup", () => {
    const evil = "</text><script>alert(1)</script>";
    const scene = heatMap.draw(map({ rows: [evil, "b"], texts: [[evil, "x"], ["y", "z"]] }), WIDE, palette);
    const file = svgFile(scene, evil, [evil], palette);
    const parsed = new DOMParser().parseFromString(file, "image/svg+xml");
    expect(parsed.querySelector("parsererror")).toBeNull();
    expect(file).not.toContain("<script");
    expect(parsed.querySelectorAll("rect > title").length + parsed.querySelectorAll("g > title").length).toBe(4);
  });
});

describe("plain data", () => {
  it("gets its infinities back, at their own places only", () => {
    const found = restore({ kind: "grid", views: [{ values: [[null, 1, null]], infinite: { "values.0.2": "-inf" } }] });
    expect(found.views[0]).toEqual({ values: [[null, 1, -Infinity]] });
    expect(restore({ values: [null], infinite: { "other.7.x": "inf", "__proto__.toString": "inf" } })).toEqual({ values: [null] });
    expect(typeof Object.prototype.toString).toBe("function");
  });
});
