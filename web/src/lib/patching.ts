/** Edits that take a value from the companion. */

import type { Companion, Edit } from "../connect/wire";

/** Where the values are from; position to position where both prompts are as long, else token by token. */
export const fromCompanion = ({ tokens }: Companion, length: number): Record<string, unknown> =>
  ({ source: { kind: "companion" }, ...(tokens.length === length ? {} : { align: "tokens" }) });

/** Whether an edit takes its values from this companion: on the stack a source is the prompt that it stands for. */
export function isFrom({ source }: Edit, { text, bos, by_ids, tokens }: Companion): boolean {
  const from = source as { kind?: string; text?: string; bos?: boolean | null; edits?: unknown[]; ids?: number[] | null } | undefined;
  if (from?.kind === "companion") return true;
  if (from?.kind !== "prompt" || from.edits?.length) return false;
  if (by_ids || from.ids) return JSON.stringify(from.ids) === JSON.stringify(tokens.map(({ id }) => id));
  return from.text === text && (from.bos ?? bos) === bos;
}

const LONGEST = 48;
export const quoted = ({ text }: Companion): string => `“${text.length > LONGEST ? `… ${text.slice(2 - LONGEST)}` : text}”`;

/** What a dragged token of the companion is carried as: its position. */
export const CARRIED = "application/x-residscope-companion";

/** A cell takes what the companion has in that layer at another position. place: the site, and the head it is of. */
export const cellPatch = (place: { site: string; head?: number }, to: number, from: number): Edit =>
  ({ kind: "patch", ...place, pos: [to], source: { kind: "companion" }, align: [[to, from]] });

const listed = (value: unknown): string => JSON.stringify(value === null || value === undefined ? null : [value].flat());
const sameCell = (a: Edit, b: Edit): boolean => a.kind === "patch" && a.site === b.site && listed(a.head) === listed(b.head) && listed(a.pos) === listed(b.pos);
const pairOf = ({ align }: Edit): string => {
  const pairs = align && typeof align === "object" && !Array.isArray(align) ? Object.entries(align) : (align as unknown[][] | undefined);
  return JSON.stringify((pairs ?? []).map((pair) => pair.map(Number)));
};

/** The very patch is there. */
export const hasPatch = (edits: readonly Edit[], wanted: Edit, companion: Companion): boolean =>
  edits.some((edit) => edit.enabled !== false && sameCell(edit, wanted) && pairOf(edit) === pairOf(wanted) && isFrom(edit, companion));

/** On, in place of another patch of the cell; off where it is that one. */
export function toggledPatch(edits: readonly Edit[], wanted: Edit, companion: Companion): Edit[] {
  const others = edits.filter((edit) => !sameCell(edit, wanted));
  return hasPatch(edits, wanted, companion) ? others : [...others, wanted];
}
