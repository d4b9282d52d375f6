/** Edits that take a value from the companion. */

import type { Companion, Edit } from "../connect/wire";

/** Where the values are from; position to position where both prompts are as long, else token by token. */
export const fromCompanion = ({ tokens }: Companion, length: number): Record<string, unknown> =>
  ({ source: { kind: "companion" }, ...(tokens.length === length ? {} : { align: "tokens" }) });

/** Whether an edit takes its values from this companion: on the stack a source is the prompt that it stands for. */
export function isFrom({ source }: Edit, { text, bos }: Companion): boolean {
  const from = source as { kind?: string; text?: string; bos?: boolean | null; edits?: unknown[] } | undefined;
  if (from?.kind === "companion") return true;
  return from?.kind === "prompt" && from.text === text && (from.bos ?? bos) === bos && !from.edits?.length;
}

const LONGEST = 48;
export const quoted = ({ text }: Companion): string => `“${text.length > LONGEST ? `… ${text.slice(2 - LONGEST)}` : text}”`;
