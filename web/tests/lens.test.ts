import { describe, expect, it } from "vitest";
import { lensField, likely, shownOf, withPart } from "../src/lib/lens";
import { decodeView, defaults, encodeView } from "../src/state/hash";

const VOCAB = 100;
/** An answer of two rows: cells count from `from`, and each says its own number. */
function part(first: number, count: number) {
  const cells = 2 * count;
  const of = (value: (row: number, pos: number) => number, shape = [2, count]) => ({ shape, data: Float32Array.from({ length: cells }, (_, i) => value(Math.floor(i / count), first + (i % count))) });
  const p = Float32Array.from({ length: cells * 2 }, (_, i) => (i % 2 ? 0.1 : 0.5 + 0.01 * (first + (Math.floor(i / 2) % count))));
  const ids = Float64Array.from({ length: cells * 2 }, (_, i) => (i % 2 ? 1 : 10 + first + (Math.floor(i / 2) % count)));
  const texts = Object.fromEntries([[1, " a"], ...Array.from({ length: count }, (_, i) => [10 + first + i, ` t${first + i}`])]);
  return {
    metadata: { first: String(first), texts: JSON.stringify(texts) },
    tensors: {
      top: { shape: [2, count, 2], data: ids }, probability: { shape: [2, count, 2], data: p },
      entropy: of((row, pos) => row + pos), kl: of((row, pos) => 10 * row + pos), chance: of((_, pos) => pos / 10),
      rank: { shape: [2, count], data: Float64Array.from({ length: cells }, (_, i) => (i < count ? VOCAB - 1 : 0)) },
    },
  } as unknown as Parameters<typeof withPart>[2];
}

describe("the lens of a run", () => {
  const some = withPart(null, 4, part(2, 2));
  const whole = withPart(some, 4, part(0, 2));
  it("is put together from parts, in any order, and knows what is lacking", () => {
    expect(some.read).toBe(2);
    expect([...some.entropy]).toEqual([NaN, NaN, 2, 3, NaN, NaN, 3, 4]);
    expect(likely(some, 0)).toEqual([]);
    expect(whole.read).toBe(4);
    expect([...whole.kl]).toEqual([0, 1, 2, 3, 10, 11, 12, 13]);
    expect(likely(whole, 6).map(({ text }) => text)).toEqual([" t2", " a"]);
    expect([...some.entropy]).toEqual([NaN, NaN, 2, 3, NaN, NaN, 3, 4]); // what was shown stays as it was
  });
  it("is coloured by what is asked for, without a sign", () => {
    const top = lensField(whole, "top", VOCAB);
    expect([top.sequential, top.scale, top.texts?.[1]]).toEqual([true, 1, " t1"]);
    expect(top.values[1]).toBeCloseTo(0.51);
    const rank = lensField(whole, "rank", VOCAB);
    expect([rank.values[0], rank.values[4], rank.said?.[0], rank.said?.[4]]).toEqual([0, 1, VOCAB - 1, 0]);
    expect(lensField(whole, "entropy", VOCAB).scale).toBeCloseTo(Math.log(VOCAB));
  });
  it("has a difference with a sign", () => {
    const change = lensField({ ...whole, kl: whole.kl.map((x) => x + 1) }, "kl", VOCAB, whole);
    expect(change.sequential).toBeUndefined();
    expect([...change.values]).toEqual(new Array(8).fill(1));
    const rank = lensField({ ...whole, rank: whole.rank.map((r) => r + 3) }, "rank", VOCAB, whole);
    expect([rank.said?.[0], rank.values[0]]).toEqual([3, Math.fround(Math.log1p(3))]);
  });
  it("is itself where it is compared with itself", () => {
    const none = lensField(whole, "chance", VOCAB, whole);
    expect([...none.values]).toEqual(new Array(8).fill(0));
    expect(none.scale).toBe(0.01); // rounding is not drawn as if it were something
    const one = lensField({ ...whole, chance: whole.chance.map((p, i) => p + (i === 3 ? 0.4 : 1e-6)) }, "chance", VOCAB, whole);
    expect(one.scale).toBeCloseTo(0.4);
    expect([...shownOf(whole, "chance")]).toEqual([0, 1, 2, 3, 0, 1, 2, 3].map((x) => Math.fround(x / 10)));
  });
  it("is in the address", () => {
    const view = { ...defaults(), tab: "lens", lens: { show: "rank" as const, token: " Mary & co", through: "mine & yours" } };
    expect(decodeView(`#${encodeView(view)}`).view.lens).toEqual(view.lens);
    expect(decodeView("#tab=lens&lens=none").view.lens).toEqual({ show: "top", token: null, through: null });
  });
});
