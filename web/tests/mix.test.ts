import { describe, expect, it } from "vitest";
import { mixField, oneHot, unitWeights } from "../src/lib/mix";
import { readCoef, readStream, type StreamData } from "../src/lib/stream";
import { parseSafetensors } from "../src/connect/safetensors";
import { f32, pack } from "./pack";

const [rows, cols, k] = [4, 5, 6];
const random = (n: number, seed: number) => Array.from({ length: n }, (_, i) => Math.sin(seed + i * 12.9898) * 3);

function stream(): StreamData {
  const file = pack(
    {
      coef: f32([rows, cols, k], random(rows * cols * k, 1)),
      offset: f32([rows, k], random(rows * k, 2)),
      norm: f32([rows, cols], random(rows * cols, 3).map((x) => 10 + x)),
      next_p: f32([cols, 2], random(cols * 2, 4)),
    },
    { next_text: JSON.stringify(Array.from({ length: cols }, () => [" a", "<b>"])) },
  );
  const parsed = parseSafetensors(file);
  return { ...readStream(parsed, "r1"), ...readCoef(parsed), site: "resid_post.2" };
}

describe("mixing", () => {
  const data = stream();
  const weights = { 1: 0.5, 4: -1, 99: 1 };

  it("reads shapes and predictions from the file", () => {
    expect([data.rows, data.cols, data.k]).toEqual([rows, cols, k]);
    expect(data.next[4][1].text).toBe("<b>");
  });

  it.each(["centred", "raw", "cos"] as const)("agrees with the plain sum (%s)", (unit) => {
    const field = mixField(data, unitWeights(weights, k)!, unit);
    const length = Math.hypot(0.5, -1); // component 99 is not in this basis
    for (let row = 0; row < rows; row++)
      for (let pos = 0; pos < cols; pos++) {
        let want = 0;
        for (const [i, w] of [[1, 0.5], [4, -1]]) {
          const mean = unit === "centred" ? data.offset[row * k + i] : 0;
          want += (w / length) * (data.coef[(row * cols + pos) * k + i] - mean);
        }
        if (unit === "cos") want /= data.norm[row * cols + pos];
        expect(field[row * cols + pos]).toBeCloseTo(want, 4);
      }
  });

  it("reads one component as that component, whatever its weight's size", () => {
    const alone = mixField(data, unitWeights({ 3: 0.05 }, k)!, "raw");
    alone.forEach((value, cell) => expect(value).toBeCloseTo(data.coef[cell * k + 3], 5));
  });

  it("takes a logit's share of the mean at the scale of each token", () => {
    const sigma = new Float32Array(random(rows * cols, 5).map((x) => 4 + x));
    const [centred, raw] = (["centred", "raw"] as const).map((unit) => mixField({ ...data, sigma }, unitWeights({ 3: 1 }, k)!, unit));
    centred.forEach((value, cell) => expect(raw[cell] - value).toBeCloseTo(data.offset[Math.floor(cell / cols) * k + 3] / sigma[cell], 5));
    expect(Math.max(...raw.map((value, cell) => Math.abs(value - centred[cell])))).toBeGreaterThan(0.1);
  });

  it("is odd in its weights", () => {
    const plus = mixField(data, unitWeights({ 0: 1, 2: 0.5 }, k)!, "centred");
    const minus = mixField(data, unitWeights({ 0: -1, 2: -0.5 }, k)!, "centred");
    plus.forEach((value, i) => expect(minus[i]).toBeCloseTo(-value, 5));
  });

  it("has no direction where every weight is zero", () => {
    expect(unitWeights({}, k)).toBeNull();
    expect(unitWeights({ 2: 0, 3: 0 }, k)).toBeNull();
    expect(unitWeights({ 99: 1 }, k)).toBeNull();
  });

  it("knows a single component", () => {
    expect(oneHot({ 7: 1 })).toBe(7);
    expect(oneHot({ 7: 1, 3: 0 })).toBe(7);
    expect(oneHot({ 7: -1 })).toBeNull();
    expect(oneHot({ 7: 1, 3: 0.5 })).toBeNull();
  });
});
