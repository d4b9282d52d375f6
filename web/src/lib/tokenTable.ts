/** The tables of the Tokens dialog: of one reading, of two side by side, of the prompt and its companion. */

import type { TextRead, Tok, TokenTableAnswer } from "../connect/wire";
import type { Sheet } from "../views/kinds/sheet";
import { type Column, SAID } from "./companion";
import { visible } from "./tokens";

/** One cell: text, or tokens, which are shown as tokens are. */
export type Cell = string | number | null | { tokens: string[] };

export interface Shown {
  columns: string[];
  rows: Cell[][];
}

export const tokensOf = ({ tokens }: TextRead): Shown => ({
  columns: ["pos", "id", "token", "bytes", "kind", "characters", "word", "variants: how many tokens"],
  rows: tokens.map((token, pos) => [
    pos, token.id, { tokens: [token.text] }, token.bytes, token.sort, token.start === token.end ? null : `${token.start}–${token.end}`, token.word,
    token.variants.map(({ text, tokens: n }) => `${visible(text)} ${n}`).join(", "),
  ]),
});

/** Runs of tokens that spell the same in both; null where the two spell the text otherwise. */
export function alignedOf({ reads: [own, other], aligned }: TokenTableAnswer): Shown | null {
  if (!aligned || !other) return null;
  return {
    columns: [`from in ${own.model}`, own.model, `from in ${other.model}`, other.model],
    rows: aligned.map(([a, b, c, d]) => [
      a, { tokens: own.tokens.slice(a, b).map(({ text }) => text) }, c, { tokens: other.tokens.slice(c, d).map(({ text }) => text) },
    ]),
  };
}

/** The prompt and its companion, column by column. */
export const besideOf = (live: Tok[], own: Tok[], columns: Column[]): Shown => ({
  columns: ["pos", "id", "prompt", "companion's pos", "companion's id", "companion", "what it is"],
  rows: columns.map(({ live: i, own: j, kind }) => [
    i, i === null ? null : live[i].id, i === null ? null : { tokens: [live[i].text] },
    j, j === null ? null : own[j].id, j === null ? null : { tokens: [own[j].text] }, SAID[kind],
  ]),
});

const plain = (cell: Cell): string | number | null => (cell !== null && typeof cell === "object" ? cell.tokens.map(visible).join(" | ") : cell);

export const sheetOf = ({ columns, rows }: Shown): Sheet => ({ columns, rows: rows.map((row) => row.map(plain)) });
