/** The glossary's words, found by what people call them. */

import type { TermForm } from "../connect/said.generated";
import { fit } from "./words";

export type { TermForm } from "../connect/said.generated";

/** A name without what does not matter. */
export const nameOf = (name: string): string => name.toLowerCase().replace(/[\s_-]+/g, " ").trim();

/** Every entry by its term and by its other names. */
export function named(entries: readonly TermForm[]): Map<string, TermForm> {
  return new Map(entries.flatMap((entry) => [entry.term, ...entry.also].map((name) => [nameOf(name), entry])));
}

const SAID = 9;

/** How well a query fits an entry, by its best name; last, where its words begin words of what is said of it. */
function fitting(query: string, { term, also, what, formula, trap }: TermForm): number | null {
  const fits = [term, ...also].map((name) => fit(query, name, "")).filter((at) => at !== null);
  if (fits.length) return Math.min(...fits);
  const said = ` ${nameOf([term, ...also, what, formula, trap].join(" "))}`;
  return nameOf(query).split(" ").every((word) => said.includes(` ${word}`)) ? SAID : null;
}

/** What a query finds, the best fit first, else in the order given; of words that nothing has, without their plural. */
export function search(entries: readonly TermForm[], query: string): TermForm[] {
  const found = entries
    .flatMap((entry) => {
      const at = fitting(query, entry);
      return at === null ? [] : [{ entry, at }];
    })
    .toSorted((a, b) => a.at - b.at)
    .map(({ entry }) => entry);
  const single = query.replace(/([a-z]{2,})s\b/gi, "$1");
  return found.length || single === query ? found : search(entries, single);
}
