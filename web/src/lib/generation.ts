/** What was generated, as the panel shows it: differences, where one is looked into, and the rows of its table. */

import type { ChosenToken, ContinuationsFound, SeedDraw } from "../connect/said.generated";
import type { Edit, ShownEdit } from "../connect/wire";
import { signed } from "./format";

export type Side = "baseline" | "edited";
export const SIDES: readonly Side[] = ["baseline", "edited"];
export const SIDE_NAMES: Record<Side, string> = { baseline: "Baseline", edited: "Edited" };

/** log p with the edits less log p without, of one token; null until both are known. */
export function differenceOf({ log_prob, other }: ChosenToken, side: Side): number | null {
  if (log_prob === null || other === null) return null;
  return side === "edited" ? log_prob - other : other - log_prob;
}

/** Where the colour is full: the largest difference, at least one nat. */
export function limitOf({ draws }: ContinuationsFound): number {
  const found = draws.flatMap((draw) => SIDES.flatMap((side) => (draw[side]?.tokens ?? []).map((token) => Math.abs(differenceOf(token, side) ?? 0))));
  return Math.max(1, ...found);
}

/** A token's numbers, in words. */
export function toldOf(token: ChosenToken, side: Side, edited: boolean): string {
  const nats = (value: number | null): string => (value === null ? "not read yet" : signed(value));
  if (!edited) return `log p ${nats(token.log_prob)} nats`;
  const [baseline, other] = side === "edited" ? [token.other, token.log_prob] : [token.log_prob, token.other];
  const difference = differenceOf(token, side);
  return `log p ${nats(baseline)} baseline, ${nats(other)} edited${difference === null ? "" : `, Δ ${signed(difference)} nats`}`;
}

/** The ids of the prompt and of what was generated up to and with a token. */
export const idsUpTo = ({ prompt }: ContinuationsFound, tokens: readonly ChosenToken[], at: number): number[] => [...prompt, ...tokens.slice(0, at + 1).map(({ id }) => id)];

/** Whether a prompt is the one continued (-1), or that with so many generated tokens, up to this one; null: it is neither. */
export function insideOf({ prompt }: ContinuationsFound, tokens: readonly ChosenToken[], now: readonly number[]): number | null {
  const extra = now.length - prompt.length;
  if (extra < 0 || extra > tokens.length || !prompt.every((id, i) => id === now[i])) return null;
  return tokens.slice(0, extra).every(({ id }, i) => id === now[prompt.length + i]) ? extra - 1 : null;
}

/** The edits that a run applies, as they are asked for: without what the stack alone knows of them. */
export function activeOf(edits: readonly ShownEdit[], bare: (edit: ShownEdit) => Edit): Edit[] {
  return edits.filter(({ enabled, error }) => enabled && !error).map((edit) => {
    const { id: _id, enabled: _enabled, ...asked } = bare(edit);
    return asked as Edit;
  });
}

const COLUMNS = ["token", "baseline", "log p", "log p, edited", "edited", "log p", "log p, baseline"];

/** One draw as a table: a row for each token. */
export function sheetOf({ baseline, edited }: SeedDraw): { columns: string[]; rows: (string | number | null)[][] } {
  const own = (token: ChosenToken | undefined): (string | number | null)[] => [token?.text ?? null, token?.log_prob ?? null];
  const n = Math.max(baseline.tokens.length, edited?.tokens.length ?? 0);
  const rows = Array.from({ length: n }, (_, i) => {
    const [a, b] = [baseline.tokens[i], edited?.tokens[i]];
    return edited ? [i, ...own(a), a?.other ?? null, ...own(b), b?.other ?? null] : [i, ...own(a)];
  });
  return { columns: COLUMNS.slice(0, edited ? 7 : 3), rows };
}
