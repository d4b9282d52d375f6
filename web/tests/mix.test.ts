import { describe, expect, it } from "vitest";
import { mixField, oneHot, parseTerm, savedName, savedSource, termKey, Turns, type Part } from "../src/lib/mix";

const [rows, cols] = [4, 5];
const random = (n: number, seed: number) => Float32Array.from({ length: n }, (_, i) => Math.sin(seed + i * 12.9898) * 3);

/** A part with weights at some of its components. */
function part(k: number, seed: number, weights: Record<number, number>): Part {
  const all = Float64Array.from({ length: k }, (_, i) => weights[i] ?? 0);
  return { k, coef: random(rows * cols * k, seed), offset: random(rows * k, seed + 1), sigma: null, weights: all };
}

describe("reading along a mix", () => {
  const parts = [part(6, 1, { 1: 0.5, 4: -1 }), part(3, 5, { 2: 0.25 })];
  const norm = random(rows * cols, 3).map((x) => 10 + x);

  it.each([[true, false], [false, false], [false, true]])("agrees with the plain sum (centred %s, cosine %s)", (centre, cosine) => {
    const field = mixField(parts, { rows, cols, centre, norm: cosine ? norm : null });
    for (let row = 0; row < rows; row++)
      for (let pos = 0; pos < cols; pos++) {
        const cell = row * cols + pos;
        let want = 0;
        for (const { k, coef, offset, weights } of parts)
          for (let i = 0; i < k; i++) want += weights[i] * (coef[cell * k + i] - (centre ? offset[row * k + i] : 0));
        expect(field[cell]).toBeCloseTo(cosine ? want / norm[cell] : want, 4);
      }
  });

  it("takes the mean's share of a row read through the final norm at that vector's scale", () => {
    const sigma = random(rows * cols, 8).map((x) => 5 + x);
    const through = { ...part(2, 4, { 1: 2 }), sigma };
    const field = mixField([through], { rows, cols, centre: true, norm: null });
    field.forEach((value, cell) => expect(value).toBeCloseTo(2 * (through.coef[cell * 2 + 1] - through.offset[Math.floor(cell / cols) * 2 + 1] / sigma[cell]), 4));
  });

  it("is odd in its weights", () => {
    const turned = parts.map((one) => ({ ...one, weights: one.weights.map((w) => -w) }));
    const [plus, minus] = [parts, turned].map((all) => mixField(all, { rows, cols, centre: true, norm: null }));
    plus.forEach((value, i) => expect(minus[i]).toBeCloseTo(-value, 5));
  });

  it("knows nothing where the mean is not known, and only there", () => {
    const lacking = part(2, 9, { 0: 1 });
    lacking.offset.fill(NaN, 2, 4); // row 1
    const field = mixField([lacking], { rows, cols, centre: true, norm: null });
    field.forEach((value, cell) => expect(Number.isNaN(value)).toBe(Math.floor(cell / cols) === 1));
    expect(mixField([lacking], { rows, cols, centre: false, norm: null }).every(Number.isFinite)).toBe(true);
  });

  it("writes into the array it is given, whatever stood there", () => {
    const out = new Float32Array(rows * cols).fill(NaN);
    const field = mixField(parts, { rows, cols, centre: true, norm: null }, out);
    expect(field).toBe(out);
    expect([...field]).toEqual([...mixField(parts, { rows, cols, centre: true, norm: null })]);
  });

  it("takes turns with two buffers", () => {
    const turns = new Turns();
    const [one, two, three] = [turns.next(4), turns.next(4), turns.next(4)];
    expect(one).not.toBe(two);
    expect(three).toBe(one);
    expect(turns.next(9)).toHaveLength(9);
  });
});

describe("what a mix is made of", () => {
  it("has keys that say where from, there and back", () => {
    for (const [source, index] of [["pca@resid_post.23", 7], ["nmf@result.9.h3#2", 0], [savedSource("a/b, 3"), 0]] as const)
      expect(parseTerm(termKey(source, index))).toEqual({ source, index });
    expect(savedName(savedSource("a/1"))).toBe("a/1");
    expect(savedName("pca@embed")).toBeNull();
    for (const bad of ["", "pca@embed", "pca@embed/x", "/3", "saved:"]) expect(parseTerm(bad)).toBeNull();
  });

  it("is one component, or not", () => {
    expect(oneHot({ 7: 1 })).toBe(7);
    expect(oneHot({ 7: 1, 3: 0 })).toBe(7);
    expect(oneHot({ 7: -1 })).toBeNull();
    expect(oneHot({ 7: 1, 3: 0.5 })).toBeNull();
  });
});
