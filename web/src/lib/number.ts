/** A number on the page as what it is of: what it is asked to be opened into, and the average over many prompts that is of the same. */

import type { Averaged } from "./averages";

/** A token, by its id or as it is written. */
type Tok = number | string;

/** pair: the tokens, the second null of a single logit. row: of the stream, 0 the embedding; none: the run's end. */
export type Num =
  | { kind: "logit"; run: string; pair: [Tok, Tok | null]; row?: number; pos: number }
  | { kind: "head"; run: string; pair: [Tok, Tok | null]; layer: number; head: number; pos: number }
  | { kind: "score"; run: string; layer: number; head: number; query: number; key: number };

/** What an average of it is of; null of a score, until two places are named. */
export function averaged(num: Num, from: string, to: string): Averaged | null {
  if (num.kind === "head") return { of: "heads" };
  if (num.kind === "logit") return { of: num.row === undefined ? "metric" : "lens" };
  return from && to ? { of: "attention", query: from, key: to } : null;
}

/** Where in the average's picture it stands: its row and column. */
export function cellOf(num: Num): [number, number] {
  if (num.kind === "logit") return [num.row ?? 0, 0];
  return [num.layer, num.head];
}

/** What is averaged, in words: never more than it is. */
export function averageWords(num: Num): string {
  if (num.kind === "head") return `what head ${num.layer}.${num.head} writes into the right answer's logit less the wrong one's, at each prompt's end`;
  if (num.kind === "score") return `the attention of head ${num.layer}.${num.head}, after the softmax, between two named tokens`;
  if (num.row === undefined) return "the logit of the right answer less the wrong one's, at each prompt's end";
  return `the probability of the right answer as ${num.row === 0 ? "the embedding" : `resid_post.${num.row - 1}`} has it, through the final norm, at each prompt's end`;
}

export const AVERAGE_UNITS = { head: "logits", score: "attention", logit: "logits" } as const;
export const averageUnit = (num: Num): string => (num.kind === "logit" && num.row !== undefined ? "probability" : AVERAGE_UNITS[num.kind]);
