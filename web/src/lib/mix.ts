import type { StreamData } from "./stream";

export type Weights = Record<number, number>;
export type Unit = "centred" | "raw" | "cos";

/** Weights over k components at unit length; null where they are all zero, for then there is no direction. */
export function unitWeights(weights: Weights, k: number): Float32Array | null {
  const unit = new Float32Array(k);
  let square = 0;
  for (const [index, weight] of Object.entries(weights)) {
    if (+index >= k || !Number.isFinite(weight)) continue;
    unit[+index] = weight;
    square += weight * weight;
  }
  if (square === 0) return null;
  const length = Math.sqrt(square);
  return unit.map((w) => w / length);
}

/**
 * The stream read along a mix of components: value[row, pos] = sum_k w_k (coef[row, pos, k] - offset[row, k] / sigma[row, pos]),
 * sigma one but for logits. `raw` leaves the offset out; `cos` divides the raw product by the residual's length.
 */
export function mixField(data: StreamData, weights: Float32Array, unit: Unit, out?: Float32Array): Float32Array {
  const { rows, cols, k, coef, offset, norm, sigma } = data;
  const field = out?.length === rows * cols ? out : new Float32Array(rows * cols);
  const used = [...weights.keys()].filter((i) => weights[i] !== 0);
  for (let row = 0; row < rows; row++) {
    let mean = 0;
    if (unit === "centred") for (const i of used) mean += weights[i] * offset[row * k + i];
    for (let pos = 0; pos < cols; pos++) {
      const cell = row * cols + pos;
      let value = sigma ? -mean / sigma[cell] : -mean;
      for (const i of used) value += weights[i] * coef[cell * k + i];
      field[cell] = unit === "cos" ? value / (norm[cell] || 1) : value;
    }
  }
  return field;
}

/** The one component a mix amounts to, if it is one at weight 1. */
export function oneHot(weights: Weights): number | null {
  const used = Object.entries(weights).filter(([, weight]) => weight !== 0);
  return used.length === 1 && used[0][1] === 1 ? +used[0][0] : null;
}
