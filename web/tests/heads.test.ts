import { describe, expect, it } from "vitest";
import { cellOf, formatWeight, headMap, headScatter, linesIn, lookers, measureOf, nodeAt, patternOf, patternView, pooled, row, strongest } from "../src/lib/heads";

const ramp = (n: number) => Float32Array.from({ length: n }, (_, i) => i / n);
/** Every pair's weight its own: q + k / 100. */
const numbered = (side: number) => Float32Array.from({ length: side * side }, (_, i) => (i % side <= Math.floor(i / side) ? Math.floor(i / side) + (i % side) / 100 : 0));

describe("all heads", () => {
  it.each([[true, 5], [false, 4]])("of a map are found again in their cells, MLPs %s", (mlp, columns) => {
    for (let cell = 0; cell < 3 * columns; cell++) expect(cellOf(nodeAt(cell, 3, 4, mlp), 3, 4, mlp)).toBe(cell);
    expect(nodeAt(0, 3, 4, mlp)).toEqual({ layer: 2, head: 0 });
    expect(nodeAt(4, 3, 4, mlp)).toEqual(mlp ? { layer: 2, head: null } : { layer: 1, head: 0 });
  });

  it("are drawn with the MLP beside the last head; what is not known stays so; shares below zero are signed", () => {
    const of = { title: "t", unit: "logits", limit: 2 };
    const view = headMap({ heads: Float32Array.of(1, -2, NaN, 4), mlp: Float32Array.of(5, NaN) }, 2, of);
    expect([view.values, view.columns, view.scale]).toEqual([[[1, -2, 5], [null, 4, null]], ["0", "1", "mlp"], "diverging"]);
    const shares = (heads: Float32Array) => headMap({ heads, mlp: null }, 2, { ...of, unit: "share" }).scale;
    expect([shares(Float32Array.of(0, 0.5)), shares(Float32Array.of(-0.1, 0.5)), shares(Float32Array.of(NaN, 0.5))]).toEqual(["sequential", "diverging", "sequential"]);
  });

  it("stand in a scatter under their names, the picked ones large", () => {
    const view = headScatter(ramp(6), ramp(6), 3, [measureOf("direct"), measureOf("induction")], [{ layer: 1, head: 2 }, { layer: 0, head: null }]);
    expect([view.texts![5], view.emphasis]).toEqual(["1.2", [5]]);
  });

  it("that look at a token are found, the most first", () => {
    const looks = Float32Array.of(0.1, 0.9, 0.5, 0.5, 0.7, 0.3, 0.2, 0.8); // 2 x 2 heads, 2 keys
    expect(lookers(looks, 2, 2, 0, 2)).toEqual([{ node: { layer: 1, head: 0 }, weight: looks[4] }, { node: { layer: 0, head: 1 }, weight: 0.5 }]);
  });
});

describe("a pattern", () => {
  const plain = (side: number, values = numbered(side)) => patternOf(values, side, { weighted: false, signed: false });

  it("is read along a token's row and down its column", () => {
    const pattern = plain(4);
    expect([...row(pattern, 2, "out")].map((x) => x.toFixed(2))).toEqual(["2.00", "2.01", "2.02", "0.00"]);
    expect([...row(pattern, 1, "in")].map((x) => x.toFixed(2))).toEqual(["0.00", "1.01", "2.01", "3.01"]);
    expect(strongest(row(pattern, 1, "in"), 2)).toEqual([3, 2]);
    expect(strongest(Float32Array.of(0, -3, 2, 0, 1), 5)).toEqual([1, 2, 4]);
  });

  it.each([[7, 3], [1000, 560], [5, 9]])("of %i tokens in %i cells keeps every block's largest", (side, most) => {
    const values = new Float32Array(side * side);
    const [q, k] = [side - 1, Math.floor(side / 3)];
    values[q * side + k] = -0.5;
    const small = pooled(plain(side, values), most);
    expect(small.side).toBeLessThanOrEqual(most);
    expect(small.values[Math.floor(q / small.block) * small.side + Math.floor(k / small.block)]).toBe(-0.5);
    expect(small.values.filter((x) => x !== 0)).toHaveLength(1);
  });

  it("has the lines of one token, either way, or the strongest in view", () => {
    const pattern = patternOf(numbered(6), 6, { weighted: true, signed: false });
    expect(linesIn(pattern, [0, 6], 99, { way: "out", token: 3 }).map(({ key }) => key)).toEqual([3, 2, 1, 0]);
    expect(linesIn(pattern, [0, 6], 99, { way: "in", token: 4 }).map(({ query }) => query)).toEqual([5, 4]);
    expect(linesIn(pattern, [4, 6], 2, null)).toMatchObject([{ query: 5, key: 5 }, { query: 5, key: 4 }]);
    const inView = (at: number) => at >= 2 && at < 4;
    const lines = linesIn(pattern, [2, 4], 99, null);
    expect(lines.every(({ query, key }) => inView(query) || inView(key))).toBe(true);
    expect(lines).toHaveLength(3 + 4 + 2 + 2); // of queries 2 and 3 all keys; of 4 and 5 the two keys in view
  });

  it("is full at all attention; weighted or a difference, at its largest; keys after the query are no part of it", () => {
    expect(plain(3).top).toBe(1);
    expect(patternOf(Float32Array.of(-3, 2), 1, { weighted: false, signed: true }).top).toBe(3);
    expect(patternOf(new Float32Array(4), 2, { weighted: true, signed: false }).top).toBe(1);
    expect(patternView(plain(2), ["a", " b"], "t", "attention")).toMatchObject({ values: [[0, null], [1, expect.closeTo(1.01)]], rows: ["0 a", "1 ·b"], scale: "sequential", limit: 1 });
  });

  it("says its numbers", () => {
    expect([0.6314, 77.01, 0.00002, -0.25, 0].map((x) => formatWeight(x, false))).toEqual(["0.631", "77.0", "2.0e−5", "−0.250", "0"]);
    expect(formatWeight(0.5, true)).toBe("+0.500");
  });
});
