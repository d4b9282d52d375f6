/** A number over many prompts: which prompts, what is asked of the method, and a cell of what it made. */

import type { PlainView } from "../views/kinds/plain";

export const METHOD = "task-average";
export const MOST_PROMPTS = 500;

export interface TaskPick {
  id: string;
  n: number;
}
/** Some of a task's prompts, or a set of the shelf. */
export type PromptsPick = TaskPick | { set: string };

export const usualTask = (): TaskPick => ({ id: "ioi", n: 16 });
export const pickKey = (pick: PromptsPick): string => ("set" in pick ? `set:${pick.set}` : `${pick.id}.${pick.n}`);

export function readPick(text: string | null): PromptsPick | null {
  const set = /^set:(.{1,200})$/.exec(text ?? "");
  if (set) return { set: set[1] };
  const found = /^([\w-]{1,60})\.(\d{1,4})$/.exec(text ?? "");
  return found ? { id: found[1], n: Math.min(MOST_PROMPTS, Math.max(2, Number(found[2]))) } : null;
}

/** What is averaged, in every cell of its picture. */
export type Averaged =
  | { of: "metric" | "heads" | "lens" }
  | { of: "attention"; query: string; key: string }
  | { of: "patch"; site: string; mode: "denoise" | "noise" };

const dataOf = (pick: PromptsPick) => ("set" in pick ? { kind: "item", name: pick.set } : { kind: "task", task: pick.id, n: pick.n, seed: 0, prefixes: false });
export const averageArgs = (pick: PromptsPick, asked: Averaged): Record<string, unknown> => ({ data: dataOf(pick), ...asked });

/** "16 prompts of IOI", "the set my names". titles: what the tasks are called. */
export function pickWords(pick: PromptsPick, titles: readonly { id: string; title: string }[] = []): string {
  if ("set" in pick) return `the set ${pick.set}`;
  return `${pick.n} prompts of ${titles.find(({ id }) => id === pick.id)?.title ?? pick.id}`;
}

export interface Mean {
  mean: number;
  low: number;
  high: number;
}

const whole = (mean: unknown, low: unknown, high: unknown): Mean | null => ([mean, low, high].every((one) => typeof one === "number") ? ({ mean, low, high } as Mean) : null);

/** A cell of what was made: of a table its only row, of a curve a point, of a map a row and a column. */
export function meanAt(views: PlainView[] | null, row = 0, column = 0): Mean | null {
  const view = views?.[0];
  if (view?.kind === "table") return whole(...(view.rows[0].slice(-3) as [unknown, unknown, unknown]));
  if (view?.kind === "curve") return whole(view.lines[0].y[row], view.lines[0].low?.[row], view.lines[0].high?.[row]);
  if (view?.kind === "heat_map") return whole(view.values[row]?.[column], view.low?.[row]?.[column], view.high?.[row]?.[column]);
  return null;
}

/** What is said beneath the picture: of a task, what its check found. */
export const noteOf = (views: PlainView[] | null): string => (views?.[0] && "note" in views[0] ? String(views[0].note) : "");
export const checkOf = (views: PlainView[] | null): string => /Task check .*$/.exec(noteOf(views))?.[0] ?? "";
