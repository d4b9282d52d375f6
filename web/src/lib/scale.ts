/** How large a value has to be for the full colour, and which cells to keep out of that. */

/** The q-quantile of |v| over [row, pos], position 0 left out (its norm drowns every scale); 1 where all are zero. */
export function robustScale(values: Float32Array, cols: number, q = 0.985): number {
  const first = cols > 1 ? 1 : 0;
  const sizes: number[] = [];
  for (let i = 0; i < values.length; i++)
    if (i % cols >= first && Number.isFinite(values[i])) sizes.push(Math.abs(values[i]));
  if (!sizes.length) return 1;
  const sorted = Float32Array.from(sizes).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] || sorted[sorted.length - 1] || 1;
}

const SINK = 8;

/** Cells whose residual is more than 8 times as long as its row's median: attention sinks. */
export function sinks(norm: Float32Array, cols: number): Uint8Array {
  const marks = new Uint8Array(norm.length);
  for (let start = 0; start < norm.length; start += cols) {
    const median = norm.slice(start, start + cols).sort()[cols >> 1];
    for (let c = 0; c < cols; c++) marks[start + c] = norm[start + c] > SINK * median ? 1 : 0;
  }
  return marks;
}

/** Cut off at the scale's end (a hair of tolerance for rounding). */
export const isClipped = (value: number, scale: number): boolean => Math.abs(value) > scale * 1.001;
