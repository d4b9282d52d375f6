/** How the library's facts are written. */

import type { Entry } from "../connect/library";

/** Votes with a sign: nought has none. */
export const tally = (votes: number): string => (votes > 0 ? `+${votes}` : votes < 0 ? `−${-votes}` : "0");

/** The site, with the head where it has heads. */
export const place = ({ site, head }: Pick<Entry, "site" | "head">): string => (head === null || head === undefined ? site : `${site} head ${head}`);

/** A correlation in words, for those who do not read ρ every day. */
export function inWords(score: number): string {
  const size = Math.abs(score);
  const much = size < 0.2 ? "hardly at all" : size < 0.5 ? "somewhat" : size < 0.8 ? "well" : "very well";
  return score <= -0.2 ? `${much}, but the wrong way round` : much;
}
