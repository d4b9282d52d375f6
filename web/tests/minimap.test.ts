import { describe, expect, it } from "vitest";
import { brushed, keyed, mapHeight, mapValues } from "../src/lib/minimap";

const field = (rows: number, cols: number, value: (row: number, col: number) => number, sinks: [number, number][] = []) => {
  const values = Float32Array.from({ length: rows * cols }, (_, i) => value(Math.floor(i / cols), i % cols));
  const sink = new Uint8Array(rows * cols);
  for (const [row, col] of sinks) sink[row * cols + col] = 1;
  return { rows, cols, values, sink, scale: 1 };
};

describe("the map of a whole prompt", () => {
  it("shows of the cells under a pixel the one farthest from zero, the last row on top", () => {
    const shown = mapValues(field(2, 6, (row, col) => (row ? [1, -3, 2, 0, 0, -0.5][col] : col)), 3);
    expect([...shown]).toEqual([-3, 2, -0.5, 1, 3, 5]);
  });
  it("loses no token, however many there are to a pixel", () => {
    for (const [cols, width] of [[2278, 700], [301, 300], [1000, 7], [50, 120]])
      for (const strong of [0, 1, Math.floor(cols / 2), cols - 1])
        expect(Math.max(...mapValues(field(1, cols, (_, col) => (col === strong ? 9 : 1)), width))).toBe(9);
  });
  it("is drowned by no sink, and knows nothing where there are only such", () => {
    const shown = mapValues(field(1, 4, (_, col) => (col < 2 ? 500 : 2), [[0, 0], [0, 1]]), 2);
    expect([...shown]).toEqual([NaN, 2]);
  });
  it("has a pixel a layer, or several layers to one", () => {
    expect([2, 31, 32, 33, 81].map(mapHeight)).toEqual([2, 31, 32, 17, 27]);
    expect(mapValues(field(81, 5, () => 1), 5)).toHaveLength(27 * 5);
    for (const height of [24, 31]) for (const strong of [0, 15, 30]) expect(Math.max(...mapValues(field(31, 5, (row) => (row === strong ? 9 : 1)), 5, height))).toBe(9);
  });
});

describe("the brush", () => {
  it("stands about the point, within the whole", () => {
    expect([0, 500, 990, 1000].map((at) => brushed(at, 100, 1000))).toEqual([0, 450, 900, 900]);
  });
  it("goes by token, by view and to the ends", () => {
    const size = { view: 100, full: 1000, step: 10 };
    expect(["ArrowRight", "ArrowLeft", "PageDown", "PageUp", "Home", "End", "j"].map((key) => keyed(key, 200, size))).toEqual([210, 190, 290, 110, 0, 900, null]);
    expect(keyed("ArrowLeft", 4, size)).toBe(0);
    expect(keyed("End", 0, { ...size, full: 50 })).toBe(0);
  });
});
