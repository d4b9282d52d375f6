/** How large a value has to be for the full colour. */

/** Of |v|: full colour is here at most. */
const FULL = 0.985;
/** Fewer sizes than this have no quartiles worth the name. */
const FEW = 5;
/** What is less of the largest is rounding: where two runs are the same their difference is, and says nothing of the scale. */
const ROUNDING = 1e-5;
/** A row's scale is at least this share of the picture's, so that rounding is not drawn as if it were something. */
const FLOOR = 1e-3;

type Sinks = ArrayLike<number> | null;

/** The columns that a scale is of: all but the first and those with an attention sink; those too where no other is left. */
function counted(cols: number, sink: Sinks): Int32Array {
  const after = Int32Array.from({ length: cols }, (_, col) => col).subarray(cols > 1 ? 1 : 0);
  const usual = after.filter((col) => !sink?.[col]);
  return usual.length ? usual : after;
}

function sizesOf(values: Float32Array, cols: number, kept: Int32Array, from: number, to: number): Float32Array {
  const sizes = new Float32Array((to - from) * kept.length);
  let n = 0;
  for (let start = from * cols; start < to * cols; start += cols)
    for (let i = 0; i < kept.length; i++) {
      const size = Math.abs(values[start + kept[i]]);
      if (size < Infinity) sizes[n++] = size; // nor NaN
    }
  return sizes.subarray(0, n);
}

/** Full colour over [row, pos], by `robustTop`; position 0 and the columns of attention sinks are left out. sink: by column. */
export function robustScale(values: Float32Array, cols: number, sink: Sinks = null): number {
  return robustTop(sizesOf(values, cols, counted(cols, sink), 0, values.length / Math.max(cols, 1)));
}

/** The same of each row by itself; whole: of the picture. */
export function rowScales(values: Float32Array, cols: number, sink: Sinks, whole: number): Float32Array {
  const kept = counted(cols, sink);
  const least = FLOOR * whole;
  return Float32Array.from({ length: values.length / cols }, (_, row) => Math.max(least, robustTop(sizesOf(values, cols, kept, row, row + 1))));
}

/**
 * The 98.5th percentile of the sizes that are more than the rounding of the largest, or less where a few stand far above the
 * rest: the greatest within Q3 + 3 (Q3 - Q1), the outer fence of a box plot. It spoils them.
 */
export function robustTop(sizes: Float32Array): number {
  let [n, least] = [0, 0]; // plain loops: it runs once a frame while a slider moves
  for (let i = 0; i < sizes.length; i++) if (sizes[i] > least) least = sizes[i];
  least *= ROUNDING;
  for (let i = 0; i < sizes.length; i++) if (sizes[i] > least) sizes[n++] = sizes[i];
  const some = sizes.subarray(0, n);
  if (n < FEW) return topOf(some, 1);
  const [low, high, top] = [topOf(some, 0.25), topOf(some, 0.75), topOf(some, FULL)];
  const fence = high + 3 * (high - low);
  if (top <= fence) return top;
  let most = 0;
  for (let i = 0; i < n; i++) if (some[i] <= fence && some[i] > most) most = some[i];
  return most;
}

/** The q-quantile of sizes, whose order it changes; the greatest where that is zero, 1 where all are. */
export function topOf(sizes: Float32Array, q: number): number {
  const n = sizes.length;
  if (!n) return 1;
  const at = Math.min(n - 1, Math.floor(q * n));
  select(sizes, at);
  return sizes[at] || sizes.subarray(at).reduce((a, b) => Math.max(a, b), 0) || 1;
}

/** Puts the k-th smallest in its place, none greater before it and none smaller after it (Hoare's selection). */
function select(a: Float32Array, k: number): void {
  let [left, right] = [0, a.length - 1];
  while (left < right) {
    const pivot = a[(left + right) >> 1];
    let [i, j] = [left, right];
    while (i <= j) {
      while (a[i] < pivot) i++;
      while (a[j] > pivot) j--;
      if (i <= j) {
        const kept = a[i];
        a[i++] = a[j];
        a[j--] = kept;
      }
    }
    if (k <= j) right = j;
    else if (k >= i) left = i;
    else return;
  }
}

/** Cut off at the scale's end (a hair of tolerance for rounding). */
export const isClipped = (value: number, scale: number): boolean => Math.abs(value) > scale * 1.001;
