/** Directions as weights over a few vectors whose products are known: all that their algebra needs is the Gram matrix. */

/** G[i, j] = v_i . v_j, row by row. */
export interface Gram {
  n: number;
  values: Float64Array;
}

/** Weights over the vectors of a Gram matrix, in its order. */
export type Coordinates = Float64Array;

/** Under this share of what went in, what is left over is rounding. */
const NOTHING = 1e-6;

export function gramOf(rows: readonly (readonly number[])[]): Gram {
  const n = rows.length;
  const values = new Float64Array(n * n);
  rows.forEach((row, i) => row.forEach((value, j) => (values[i * n + j] = value)));
  return { n, values };
}

/** a . b = sum_ij a_i G_ij b_j. */
export function dot({ n, values }: Gram, a: Coordinates, b: Coordinates): number {
  let sum = 0;
  for (let i = 0; i < n; i++) {
    const weight = a[i];
    if (weight === 0) continue;
    for (let j = 0, at = i * n; j < n; j++) sum += weight * values[at + j] * b[j];
  }
  return sum;
}

/** |a|; rounding under the root counts as zero. */
export const norm = (gram: Gram, a: Coordinates): number => Math.sqrt(Math.max(0, dot(gram, a, a)));

/** NaN where one of the two has no length. */
export function cosine(gram: Gram, a: Coordinates, b: Coordinates): number {
  const lengths = norm(gram, a) * norm(gram, b);
  return lengths > 0 ? Math.max(-1, Math.min(1, dot(gram, a, b) / lengths)) : NaN;
}

/** The cosines of every pair, as a table. */
export const cosines = (gram: Gram, all: readonly Coordinates[]): number[][] =>
  all.map((a) => all.map((b) => cosine(gram, a, b)));

const combine = (a: Coordinates, s: number, b: Coordinates, t: number): Coordinates => a.map((value, i) => s * value + t * b[i]);

/** At length one; null where there is no length. */
export function unit(gram: Gram, a: Coordinates): Coordinates | null {
  const length = norm(gram, a);
  return length > 0 ? a.map((value) => value / length) : null;
}

/** a/|a| + b/|b| : both count alike, however long they were. Null where they cancel. */
export function add(gram: Gram, a: Coordinates, b: Coordinates): Coordinates | null {
  const [left, right] = [unit(gram, a), unit(gram, b)];
  if (!left || !right) return left ?? right;
  const sum = combine(left, 1, right, 1);
  return norm(gram, sum) > NOTHING ? sum : null;
}

/** a/|a| - b/|b|. */
export const subtract = (gram: Gram, a: Coordinates, b: Coordinates): Coordinates | null => add(gram, a, b.map((value) => -value));

/** a - (a.b / b.b) b : what of a is not along b. Null where nothing is left. */
export function projectOut(gram: Gram, a: Coordinates, b: Coordinates): Coordinates | null {
  return orthogonalise(gram, a, [b]);
}

/**
 * What of a is along none of the others: Gram-Schmidt, the others first made orthogonal among themselves (twice over, for
 * once leaves rounding where they are nearly parallel). Null where nothing is left.
 */
export function orthogonalise(gram: Gram, a: Coordinates, others: readonly Coordinates[]): Coordinates | null {
  const before = norm(gram, a);
  if (!(before > 0)) return null;
  const basis: Coordinates[] = [];
  for (const other of others) {
    const length = norm(gram, other);
    const left = without(gram, without(gram, other, basis), basis);
    if (norm(gram, left) > NOTHING * length) basis.push(unit(gram, left)!);
  }
  const left = without(gram, without(gram, a, basis), basis);
  return norm(gram, left) > NOTHING * before ? left : null;
}

/** a less its parts along each of an orthonormal set. */
function without(gram: Gram, a: Coordinates, basis: readonly Coordinates[]): Coordinates {
  return basis.reduce((left, along) => combine(left, 1, along, -dot(gram, left, along)), a);
}

/** The same direction with its largest weight at `most` in size: what sliders can show. */
export function scaled(a: Coordinates, most = 1): Coordinates {
  const largest = a.reduce((size, value) => Math.max(size, Math.abs(value)), 0);
  return largest > 0 ? a.map((value) => (value / largest) * most) : a;
}
