/** Mixes of directions: what they are made of, and the stream read along them. */

/** Weights over the components of one dictionary. */
export type Weights = Record<number, number>;
/** Weights over single directions, by `termKey`. */
export type Terms = Record<string, number>;

/** One direction of a mix: a component of a dictionary, or (index 0 of "saved:NAME") a saved direction. */
export interface Term {
  source: string;
  index: number;
  weight: number;
}

const SAVED = "saved:";
export const savedSource = (name: string): string => SAVED + name;
export const savedName = (source: string): string | null => (source.startsWith(SAVED) ? source.slice(SAVED.length) : null);
export const termKey = (source: string, index: number): string => (source.startsWith(SAVED) ? source : `${source}/${index}`);

export function parseTerm(key: string): { source: string; index: number } | null {
  if (key.startsWith(SAVED)) return key.length > SAVED.length ? { source: key, index: 0 } : null;
  const found = /^(.+)\/(\d{1,6})$/.exec(key);
  return found && { source: found[1], index: Number(found[2]) };
}

/** One source's coordinates of a run and the weights of its components; weights are the mix's, brought to its length. */
export interface Part {
  k: number;
  /** [row, pos, k], row by row. */
  coef: Float32Array;
  /** [row, k]: the data-set mean's coordinates. */
  offset: Float32Array;
  /** [row, pos]: what they are divided by, where the vectors were, in the lens space. */
  sigma: Float32Array | null;
  weights: Float64Array;
}

export interface Reading {
  rows: number;
  cols: number;
  /** Subtract the data-set mean's coordinate. */
  centre: boolean;
  /** Lengths to divide by, [row, pos]: the cosine. */
  norm: Float32Array | null;
}

/**
 * The stream read along a mix: value[row, pos] = sum over parts and k of w_k (coef[row, pos, k] - offset[row, k]), the offset over sigma in the lens space.
 * Runs once a frame while a slider moves: plain loops, into `out` where it has the size.
 */
export function mixField(parts: readonly Part[], { rows, cols, centre, norm }: Reading, out?: Float32Array): Float32Array {
  const cells = rows * cols;
  const field = out?.length === cells ? out.fill(0) : new Float32Array(cells);
  for (const { k, coef, offset, sigma, weights } of parts) {
    for (let i = 0; i < k; i++) {
      const weight = weights[i];
      if (weight === 0) continue;
      for (let row = 0, cell = 0; row < rows; row++) {
        const mean = centre ? offset[row * k + i] : 0;
        const end = cell + cols;
        if (centre && sigma) for (; cell < end; cell++) field[cell] += weight * (coef[cell * k + i] - mean / sigma[cell]);
        else for (; cell < end; cell++) field[cell] += weight * (coef[cell * k + i] - mean);
      }
    }
  }
  if (norm) for (let cell = 0; cell < cells; cell++) field[cell] /= norm[cell] || 1;
  return field;
}

/** Two buffers in turn: a new array each time for whoever compares identities, and nothing to collect. */
export class Turns {
  private held: Float32Array[] = [];
  private turn = 0;
  next(length: number): Float32Array {
    this.turn ^= 1;
    if (this.held[this.turn]?.length !== length) this.held[this.turn] = new Float32Array(length);
    return this.held[this.turn];
  }
}

/** The one component a mix amounts to, if it is one at weight 1. */
export function oneHot(weights: Weights): number | null {
  const used = Object.entries(weights).filter(([, weight]) => weight !== 0);
  return used.length === 1 && used[0][1] === 1 ? +used[0][0] : null;
}
