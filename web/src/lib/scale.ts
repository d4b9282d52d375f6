/** How large a value has to be for the full colour. */

/** The q-quantile of |v| over [row, pos], position 0 left out (its norm drowns every scale); 1 where all are zero. */
export function robustScale(values: Float32Array, cols: number, q = 0.985): number {
  const first = cols > 1 ? 1 : 0;
  const sizes = new Float32Array(values.length);
  let n = 0;
  for (let start = 0; start < values.length; start += cols)
    for (let i = start + first; i < start + cols; i++) if (Number.isFinite(values[i])) sizes[n++] = Math.abs(values[i]);
  return topOf(sizes.subarray(0, n), q);
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
