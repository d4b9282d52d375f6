import { describe, expect, it } from "vitest";
import { isClipped, robustScale, robustTop, rowScales, topOf } from "../src/lib/scale";
import { scaleAt, wholeColumns } from "../src/lib/stream";

describe("the scale", () => {
  it("is the 98.5th percentile of |value|, position 0 left out", () => {
    const [rows, cols] = [100, 11];
    const values = new Float32Array(rows * cols);
    for (let r = 0; r < rows; r++) for (let c = 0; c < cols; c++) values[r * cols + c] = c === 0 ? 1e6 : -(r * 10 + c);
    expect(robustScale(values, cols)).toBe(986);
  });

  it("does not move when position 0 does", () => {
    const values = Float32Array.from({ length: 60 }, (_, i) => Math.sin(i));
    const moved = values.map((v, i) => (i % 6 === 0 ? 22_000 : v));
    expect(robustScale(moved, 6)).toBe(robustScale(values, 6));
  });

  it("stays usable with one token, with zeros, with numbers that are none", () => {
    expect(robustScale(new Float32Array([2, -3]), 1)).toBe(3);
    expect(robustScale(new Float32Array(12), 4)).toBe(1);
    expect(robustScale(new Float32Array([0, NaN, 0, 2]), 2)).toBe(2);
    const sparse = new Float32Array(2000);
    sparse[1] = 5;
    expect(robustScale(sparse, 2000)).toBe(5);
  });

  it("of a difference is that of the cells that differ, not of their rounding", () => {
    const [rows, cols] = [31, 17];
    const values = Float32Array.from({ length: rows * cols }, (_, i) => (i % 3 ? 1e-6 : -2e-6) * (1 + (i % 7)));
    for (let r = 28; r < rows; r++) for (let c = 12; c < cols; c++) values[r * cols + c] = 4 + c / 10;
    expect(robustScale(values, cols)).toBeCloseTo(5.6, 6);
  });

  it("calls only what lies beyond the end clipped", () => {
    expect(isClipped(2, 2)).toBe(false);
    expect(isClipped(-2.1, 2)).toBe(true);
  });
});

describe("the quantile", () => {
  it("is that of the sorted sizes, whatever their order", () => {
    for (const n of [1, 2, 3, 10, 1000]) {
      const sizes = Float32Array.from({ length: n }, (_, i) => Math.abs(Math.sin(7 * i)) * (i % 5));
      const sorted = sizes.slice().sort();
      for (const q of [0, 0.3, 0.985]) expect(topOf(sizes.slice(), q)).toBe(sorted[Math.floor(q * n)] || sorted[n - 1] || 1);
    }
  });
});

/** x·d, centred, of "When John and Mary went to the store, John gave a bottle of milk to" in SmolLM2-135M, as Python has them. */
const LAYER_0_PC_7 = [3.13, 1.73, -4.01, 4.36, 2.05, -3.83, 1.56, -3.42, -5.09, 2.39, 3.98, 9.09, -10.09, -5.48, -1.03, -3.97];
const LAYER_3_PC_0 = [627.07, 14.13, 6.55, -14.57, 3.73, -2.12, 648.15, -1.15, -3.02, -2.25, -1.62, -9.2, -12.85, -5.45, -18.19, -11.85];

describe("a scale that few cells would drown", () => {
  it("is of the others: one token of a row far above the rest is cut off, and nothing near it", () => {
    expect(robustScale(Float32Array.from(LAYER_3_PC_0), 16)).toBeCloseTo(18.19, 4);
    expect(robustScale(Float32Array.from(LAYER_0_PC_7), 16)).toBeCloseTo(10.09, 4);
  });

  it("of a row is its own, whatever other rows hold", () => {
    const values = Float32Array.from([...LAYER_0_PC_7, ...LAYER_3_PC_0]);
    const whole = robustScale(values, 16);
    const rows = rowScales(values, 16, null, whole);
    expect([...rows].map((x) => Number(x.toFixed(2)))).toEqual([10.09, 18.19]);
    for (const times of [1, 10, 1000]) expect(rowScales(values.map((x, i) => (i < 16 ? x : times * x)), 16, null, whole)[0]).toBe(rows[0]);
    expect([scaleAt({ scale: whole, byRow: rows }, 1), scaleAt({ scale: whole, byRow: null }, 1), scaleAt({ scale: whole }, 0)]).toEqual([rows[1], whole, whole]);
  });

  it("leaves out the whole column of a sink, and the first", () => {
    const values = Float32Array.from({ length: 48 }, (_, i) => (i % 16) + 1 + Math.floor(i / 16));
    const sink = new Uint8Array(48);
    sink[16 + 15] = 1; // in one row only
    const marked = wholeColumns(sink, 16);
    expect([...marked].flatMap((is, i) => (is ? [i] : []))).toEqual([15, 31, 47]);
    for (const drown of [1, 1e6]) {
      const drowned = values.map((x, i) => (i % 16 === 0 || i % 16 === 15 ? drown * x : x));
      expect([robustScale(drowned, 16, marked), ...rowScales(drowned, 16, marked, 17)]).toEqual([17, 15, 16, 17]);
    }
  });

  it("counts sinks where there is nothing else, and shows no rounding as if it were something", () => {
    expect(robustScale(new Float32Array([9, 3]), 2, [0, 1])).toBe(3);
    const values = new Float32Array([5, 1e-7, -1e-7, 5, 8, -8]);
    expect(rowScales(values, 3, null, 8)[0]).toBeCloseTo(8e-3, 9);
  });

  it("never exceeds the percentile nor the greatest, never cuts more than a quarter, and follows a change of unit", () => {
    for (let seed = 1; seed < 60; seed++) {
      const n = 5 + ((seed * 7) % 40);
      const sizes = Float32Array.from({ length: n }, (_, i) => Math.abs(Math.sin(seed * 12.9898 + i * 78.233)) ** (1 + (seed % 5)) * (i % 11 === 0 ? 50 : 1));
      const scale = robustTop(sizes.slice());
      expect(scale).toBeLessThanOrEqual(topOf(sizes.slice(), 0.985));
      expect(sizes.filter((size) => size > scale).length).toBeLessThanOrEqual(Math.ceil(n / 4));
      expect(robustTop(sizes.map((size) => 8 * size))).toBe(8 * scale);
    }
  });

  it("of a feature that is mostly silent is of where it speaks", () => {
    const sizes = new Float32Array(60);
    [3, 4, 5, 6, 7, 400].forEach((size, i) => (sizes[i * 9] = size));
    expect(robustTop(sizes)).toBe(7);
  });

  it("of a difference that is zero but for one token is of that token", () => {
    const values = new Float32Array(31 * 16);
    for (let row = 10; row < 31; row++) values[row * 16 + 15] = row - 5;
    expect(robustScale(values, 16)).toBe(25);
    expect(rowScales(values, 16, null, 25)[20]).toBe(15);
    expect(rowScales(values, 16, null, 25)[3]).toBe(1); // nothing to draw
  });
});
