/** Several tokens to a column, where all are to fit: each column shows the value that is farthest from zero. */

import type { Field } from "./stream";

/** The column's strongest token at a row: the greatest |value|, attention sinks left out unless there are only such. */
export function strongest({ cols, values, sink }: Field, row: number, bin: number, size: number): number {
  const end = Math.min(cols, (bin + 1) * size);
  let [found, most] = [bin * size, -1];
  for (let col = bin * size; col < end; col++) {
    const cell = row * cols + col;
    const strength = Number.isNaN(values[cell]) ? -1 : sink[cell] ? -1 / (1 + Math.abs(values[cell])) : Math.abs(values[cell]);
    if (strength > most) [found, most] = [col, strength];
  }
  return found;
}

/** The field with `size` tokens to a column, by signed maximum. */
export function binned(field: Field, size: number): Field {
  if (size <= 1) return field;
  const cols = Math.ceil(field.cols / size);
  const values = new Float32Array(field.rows * cols);
  const sink = new Uint8Array(field.rows * cols);
  for (let row = 0; row < field.rows; row++)
    for (let bin = 0; bin < cols; bin++) {
      const cell = row * field.cols + strongest(field, row, bin, size);
      values[row * cols + bin] = field.values[cell];
      sink[row * cols + bin] = field.sink[cell];
    }
  return { ...field, cols, values, sink, texts: undefined, said: undefined };
}
