import { describe, expect, it } from "vitest";
import { unsigned, type Paint } from "../src/lib/color";
import { breakLines } from "../src/lib/lines";
import { streamSvg } from "../src/views/export";
import { heatMap } from "../src/views/kinds/heatmap";
import { hatchPath, type Mark } from "../src/views/kinds/scene";
import { tokenStrip } from "../src/views/kinds/strip";
import { cell, lookOf, signed } from "../src/views/look";
import { dressOf } from "../src/views/paint";
import { palette } from "./palette";

const LIMIT = 3;
/** A sequence that is the same each time. */
function values(seed: number, n: number): number[] {
  let state = seed;
  return Array.from({ length: n }, () => (state = (state * 48271) % 2147483647) / 2147483647).map((x) => Number(((x - 0.5) * 12).toFixed(3)));
}
const shown = (marks: Mark[], i: (rect: Extract<Mark, { kind: "rect" }>) => boolean) => marks.find((mark) => mark.kind === "rect" && i(mark)) as Extract<Mark, { kind: "rect" }>;
const ticks = (marks: Mark[]) => marks.filter((mark) => mark.kind === "path" && mark.fill).length;

describe("a value", () => {
  it.each([1, 2, 3, 4])("looks the same in map, strip, file and text (%i)", (seed) => {
    const row = [...values(seed, 6), 0, LIMIT, -LIMIT, LIMIT * 1.01];
    const scale = { scale: "diverging" as const, limit: LIMIT, title: "", unit: "", note: "" };
    const labels = row.map((_, i) => `t${i}`);
    const map = heatMap.draw({ ...scale, kind: "heat_map", values: [row], rows: ["r"], columns: labels, row_title: "", column_title: "", low: null, high: null, marks: [], texts: null, bottom_up: false }, 900, palette);
    const strip = tokenStrip.draw({ ...scale, kind: "token_strip", tokens: labels, values: row }, 900, palette);
    const paint: Paint = { ...palette, sequential: unsigned(palette.sequential) };
    const file = streamSvg({ field: { rows: 1, cols: row.length, values: Float32Array.from(row), scale: LIMIT, sink: new Uint8Array(row.length) }, norm: row, tokens: labels, next: labels, ids: row, row: 0, unit: "raw", title: "", sentence: "" }, paint);
    const fills = [...file.matchAll(/<rect [^>]*fill="([^"]+)"><title>embed at (\d+)/g)].map(([, fill]) => fill);
    row.forEach((value, i) => {
      const expected = palette.diverging.color(value, LIMIT);
      const dress = dressOf(0, { values: [value], scale: LIMIT, sink: null, colours: palette.diverging });
      const inMap = shown(map.dense, ({ title }) => title === `r, t${i}: ${value}`);
      const inStrip = shown(strip.dense, ({ title }) => title === `${i} t${i}: ${value}`);
      expect([inMap.fill, inStrip.fill, fills[i], dress.background]).toEqual([expected, expected, expected, expected]);
      expect(dress.image !== "").toBe(Math.abs(value) > LIMIT * 1.001);
    });
    const beyond = row.filter((value) => Math.abs(value) > LIMIT * 1.001).length;
    expect(beyond).toBeGreaterThan(0);
    expect([ticks(map.dense), ticks(strip.dense), file.match(/h5v5z/g)!.length]).toEqual([beyond, beyond, beyond]);
  });

  it("of a sink is hatched in its colour, never ticked; one that is not known has none", () => {
    const colours = signed(palette.diverging, LIMIT);
    expect(lookOf(900, colours, true)).toMatchObject({ state: "sink", color: palette.diverging.color(900, LIMIT), clipped: false });
    for (const value of [null, undefined, NaN]) expect(lookOf(value, colours)).toEqual({ state: "unknown", color: "", ink: "", clipped: false });
    const box = { x: 0, y: 0, w: 20, h: 10 };
    expect(cell(box, lookOf(900, colours, true), { tick: 5 }).map(({ kind }) => kind)).toEqual(["hatch"]);
    expect(cell(box, lookOf(900, colours), { tick: 5 }).map(({ kind }) => kind)).toEqual(["rect", "path"]);
    expect(cell(box, lookOf(null, colours), { tick: 5 })).toEqual([]);
  });
});

describe("the hatcher", () => {
  const lines = (path: string) => [...path.matchAll(/M([-\d.]+) ([-\d.]+)L([-\d.]+) ([-\d.]+)/g)].map((found) => found.slice(1).map(Number));
  const hatch = { kind: "hatch" as const, y: 3, w: 30, h: 11, stroke: "#000" };

  it.each([0, 7.3, 31])("draws at 45° and inside its box, at %d", (x) => {
    for (const [x1, y1, x2, y2] of lines(hatchPath({ ...hatch, x }))) {
      expect(x2 - x1).toBeCloseTo(y1 - y2);
      for (const at of [x1, x2]) expect(at).toBeGreaterThanOrEqual(x), expect(at).toBeLessThanOrEqual(x + 30);
      for (const at of [y1, y2]) expect(at).toBeGreaterThanOrEqual(3), expect(at).toBeLessThanOrEqual(14);
    }
  });

  it("runs on from cell to cell where it is told to", () => {
    const phase = (x: number) => lines(hatchPath({ ...hatch, x, step: 5.5, through: true })).map(([x1]) => ((x1 % 5.5) + 5.5) % 5.5);
    for (const at of [...phase(0), ...phase(31), ...phase(62)]) expect(Math.min(at, 5.5 - at)).toBeCloseTo(0);
  });
});

it("a line is ended by its token, and by room", () => {
  expect([...breakLines([2, 2, 2], 9)]).toEqual([0]);
  expect([...breakLines([2, 2, 2], 9, (i) => i === 0)]).toEqual([0, 1]);
  expect([...breakLines([2, 2, 2], 4, (i) => i === 0)]).toEqual([0, 1]);
  expect([...breakLines([2, 2, 2, 9], 4)]).toEqual([0, 2, 3]);
});
