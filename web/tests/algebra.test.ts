import { describe, expect, it } from "vitest";
import { add, cosine, cosines, dot, gramOf, norm, orthogonalise, projectOut, scaled, subtract, unit, type Coordinates } from "../src/lib/algebra";

const [n, d] = [6, 9];
/** Explicit vectors, far from orthogonal, to compare with. */
const noise = (at: number) => (Math.sin(at * 12.9898) * 43758.5453) % 1;
const vectors = Array.from({ length: n }, (_, i) => Array.from({ length: d }, (_, j) => (noise(i * d + j + 1) + 0.4) * (1 + i)));
const inner = (a: number[], b: number[]) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const gram = gramOf(vectors.map((a) => vectors.map((b) => inner(a, b))));
const explicit = (a: Coordinates) => Array.from({ length: d }, (_, j) => vectors.reduce((sum, v, i) => sum + a[i] * v[j], 0));
const length = (a: number[]) => Math.sqrt(inner(a, a));
const along = (...weights: number[]): Coordinates => Float64Array.from({ length: n }, (_, i) => weights[i] ?? 0);

const a = along(0.5, -1, 0, 0.25, 0, 0.1);
const b = along(0, 0.3, 1, 0, -0.7, 0);
const c = along(0, 0, 0, 1, 1, 1);

describe("what the Gram matrix knows", () => {
  it("is the explicit vectors' products, norms and cosines", () => {
    expect(dot(gram, a, b)).toBeCloseTo(inner(explicit(a), explicit(b)), 9);
    expect(norm(gram, a)).toBeCloseTo(length(explicit(a)), 9);
    expect(norm(gram, a), "and not the weights' own length").not.toBeCloseTo(Math.hypot(...a), 1);
    expect(cosine(gram, a, b)).toBeCloseTo(inner(explicit(a), explicit(b)) / length(explicit(a)) / length(explicit(b)), 9);
  });

  it("tables the cosines: ones on the diagonal, the same both ways, unknown where there is no direction", () => {
    const table = cosines(gram, [a, b, along()]);
    expect([table[0][0], table[1][1]].every((one) => Math.abs(one - 1) < 1e-12)).toBe(true);
    expect(table[0][1]).toBeCloseTo(table[1][0], 12);
    expect(table[2].every(Number.isNaN)).toBe(true);
  });

  it("brings a direction to length one", () => {
    expect(length(explicit(unit(gram, a)!))).toBeCloseTo(1, 12);
    expect(unit(gram, along())).toBeNull();
  });
});

describe("adding and subtracting", () => {
  it("adds directions, not lengths: scaling one of them changes nothing", () => {
    const sum = add(gram, a, b)!;
    const other = add(gram, a.map((x) => 40 * x), b)!;
    expect(cosine(gram, sum, other)).toBeCloseTo(1, 12);
    expect(cosine(gram, sum, a)).toBeCloseTo(cosine(gram, sum, b), 12);
  });

  it("undoes itself, and leaves nothing of a direction less itself", () => {
    expect(subtract(gram, a, a.map((x) => 3 * x))).toBeNull();
    expect(add(gram, a, a.map((x) => -x))).toBeNull();
    expect(cosine(gram, subtract(gram, a, b)!, add(gram, a, b)!)).toBeCloseTo(0, 12);
  });

  it("takes the other where the mix is still empty", () => {
    expect(cosine(gram, add(gram, along(), b)!, b)).toBeCloseTo(1, 12);
    expect(cosine(gram, subtract(gram, along(), b)!, b)).toBeCloseTo(-1, 12);
  });
});

describe("projecting out", () => {
  it("leaves nothing along the other, and is idempotent", () => {
    const once = projectOut(gram, a, b)!;
    expect(Math.abs(cosine(gram, a, b)), "there was something to take out").toBeGreaterThan(0.05);
    expect(cosine(gram, once, b)).toBeCloseTo(0, 12);
    const twice = projectOut(gram, once, b)!;
    twice.forEach((value, i) => expect(value).toBeCloseTo(once[i], 12));
  });

  it("changes what stands at right angles not at all", () => {
    const free = projectOut(gram, a, b)!;
    projectOut(gram, free, b)!.forEach((value, i) => expect(value).toBeCloseTo(free[i], 12));
  });

  it("leaves nothing of what lies along the other", () => {
    expect(projectOut(gram, b.map((x) => -2 * x), b)).toBeNull();
    expect(projectOut(gram, along(), b)).toBeNull();
  });
});

describe("orthogonalising", () => {
  it("leaves no cosine with any of the others, though these lean on each other", () => {
    expect(Math.abs(cosine(gram, b, c))).toBeGreaterThan(0.05);
    const left = orthogonalise(gram, a, [b, c])!;
    expect(Math.abs(cosine(gram, left, b))).toBeLessThan(1e-9);
    expect(Math.abs(cosine(gram, left, c))).toBeLessThan(1e-9);
    const naive = projectOut(gram, projectOut(gram, a, b)!, c)!;
    expect(Math.abs(cosine(gram, naive, b)), "one after the other does not do it").toBeGreaterThan(1e-3);
  });

  it("survives others that are nearly the same", () => {
    const near = b.map((x, i) => x + (i === 5 ? 1e-4 : 0));
    const left = orthogonalise(gram, a, [b, near, b])!;
    for (const other of [b, near]) expect(Math.abs(cosine(gram, left, other))).toBeLessThan(1e-7);
  });

  it("leaves nothing of what the others span", () => {
    expect(orthogonalise(gram, a, [b, c, along(0.5, -1.3, -1, 0.25, 0.7, 0.1)])).toBeNull();
  });
});

describe("for the sliders", () => {
  it("keeps the direction and brings the largest weight to one", () => {
    const big = along(3, -6);
    expect([...scaled(big).slice(0, 2)]).toEqual([0.5, -1]);
    expect(cosine(gram, big, scaled(big))).toBeCloseTo(1, 12);
    expect([...scaled(along())]).toEqual([...along()]);
  });
});
