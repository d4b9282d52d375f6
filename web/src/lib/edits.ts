/** How the number of an edit that a person turns is written. */

import type { Slider } from "../connect/wire";
import { signed } from "./format";

/** By how many digits the slider moves. */
const digits = (step: number): number => Math.max(0, Math.min(3, Math.ceil(-Math.log10(step))));

export function written(value: number, { unit, step }: Slider): string {
  if (unit === "×") return `×${value.toFixed(2)}`;
  const small = value && Math.abs(value) < step ? digits(Math.abs(value)) : 0; // what is less than a step is not nothing
  return `${signed(value, Math.max(digits(step), small))}${unit === "σ" ? "σ" : ""}`;
}

/** To the precision of what is shown, so that steps add up. */
export const rounded = (value: number): number => Math.round(value * 1000) / 1000;

/** By standard deviations where the direction's is known; other directions are added by length. */
export const steering = (sd: number | null) => (sd === null ? { strength: 10, unit: "norm" as const } : { strength: 2, unit: "sd" as const });

interface Switched {
  id?: string;
  enabled?: boolean;
}
const on = ({ enabled }: Switched): boolean => enabled !== false;

/** All off where some are on, else all on. */
export const allSwitched = <E extends Switched>(edits: readonly E[]): E[] => {
  const to = !edits.some(on);
  return edits.map((edit) => ({ ...edit, enabled: to }));
};

/** Whether this one alone is on, of several. */
export const isAlone = (edits: readonly Switched[], id: string): boolean => edits.length > 1 && edits.every((edit) => on(edit) === (edit.id === id));

/** This one alone; where it is already, all of them again. */
export const alone = <E extends Switched>(edits: readonly E[], id: string): E[] => {
  const again = isAlone(edits, id);
  return edits.map((edit) => ({ ...edit, enabled: again || edit.id === id }));
};
