/** What a mix is made of, as the page has it and as the server is told. */

import type { DictionaryInfo, DirectionRef, MixTerm, SavedDirection } from "../connect/wire";
import { isEncoder } from "./dictionaries";
import { savedName, savedSource, type Term } from "./mix";
import { place } from "./people";

/** The dictionaries that a direction is of, by id. */
export function sourcesOf(ref: DirectionRef | null): string[] {
  if (ref?.kind === "pca") return [`pca@${ref.site}`];
  return ref?.kind === "mix" ? ref.terms.flatMap((term) => ("dictionary" in term ? [term.dictionary] : [])) : [];
}

/** Why a mix is put away when another dictionary is chosen. */
export const apart = (old: DictionaryInfo, next: DictionaryInfo): string =>
  isEncoder(old) || isEncoder(next)
    ? "The mix was put away: an encoder that does not read the stream's rows is read at its own site, and mixes with what is read there only."
    : "The mix was put away: unembedding rows are read through the final norm, and mix with each other only.";

/** A saved direction as a dictionary of one. */
export const asDictionary = ({ name, site, head, space, width }: SavedDirection): DictionaryInfo => ({
  id: savedSource(name), site, head, place: place({ site, head }), kind: "saved", n: 1, space,
  standardised: false, fitted_on: "", tokens: 0, shipped: false, width,
});

/** A term as the server is told of it. */
export function asTerm({ source, index, weight }: Term): MixTerm {
  const name = savedName(source);
  return name === null ? { dictionary: source, index, weight } : { saved: name, weight };
}
