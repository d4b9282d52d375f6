import { describe, expect, it } from "vitest";
import { isClipped, robustScale, topOf } from "../src/lib/scale";

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
