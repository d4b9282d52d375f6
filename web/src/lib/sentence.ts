/** What colour means on screen, as one sentence whose parts are the pickers. */

import type { DictionaryInfo } from "../connect/wire";
import { placeOf } from "./dictionaries";
import type { ValueUnit } from "./format";
import { savedName } from "./mix";

export type Pick = "direction" | "place" | "row" | "unit" | "run";
/** Plain words, or a part that is chosen. */
export type Part = string | { pick: Pick; text: string };

/** All that the sentence depends on. */
export interface Told {
  direction: "logit" | "mix";
  /** "Mary − John"; empty where no answers are chosen. */
  answers: string;
  /** What the direction is made of, each by its name. */
  terms: { label: string; weight: number }[];
  /** The places these are of, in words; of no terms, that of the chosen dictionary. */
  places: string[];
  /** What the view is of is not here. */
  absent: boolean;
  /** The weights cancel. */
  zero: boolean;
  /** The row whose values colour the text, in words. */
  row: string;
  unit: ValueUnit;
  run: string;
  /** Runs to choose among. */
  compared: boolean;
}

const UNITS: Record<ValueUnit, string> = {
  centred: "centred", standardised: "standardised", raw: "raw x·d", cos: "cosine", folded: "norm-folded logits", "folded-centred": "centred logits",
  logit: "raw logits", "logit-centred": "centred logits", activation: "activation", mixed: "a weighted sum, centred", "mixed-raw": "a weighted sum, raw",
  probability: "probability", rank: "rank", nats: "nats", share: "share of the gap", metric: "the metric",
};

/** A place of the model as people say it; a site that has no such name is called as in code. */
export function siteWords(site: string): string {
  const [name, layer] = site.split(".");
  if (site === "embed" || site === "resid_pre.0") return "the embedding";
  if (name === "resid_post" && layer) return `layer ${layer}`;
  if (name === "resid_pre" && layer) return `the input of layer ${layer}`;
  if (name === "resid_mid" && layer) return `the middle of layer ${layer}`;
  return site;
}

/** The same of a dictionary, with the number of a second one of its kind there. */
export function placeWords(info: DictionaryInfo): string {
  const number = /#\d+$/.exec(info.id)?.[0];
  if (info.head !== null) return placeOf(info);
  return siteWords(info.site) + (number && savedName(info.id) === null ? ` (${number})` : "");
}

/** Which run the numbers are of. a and b are what the two are called, b where there is one. */
export function runWords(mode: "base" | "edit" | "delta", { a, b }: { a: string; b: string }, edited: boolean): string {
  const called = (name: string): string => (name === "baseline" ? "this prompt, unedited" : name === "edited" ? "this prompt, edited" : name === "other prompt" ? "another prompt" : name);
  if (!edited) return a === "baseline" ? "this prompt" : called(a);
  if (mode !== "delta") return called(mode === "base" ? a : b);
  return a === "baseline" && b === "edited" ? "what the edits change" : `the difference, ${b} minus ${a}`;
}

function listed(names: string[]): string {
  const unique = [...new Set(names)];
  const layers = unique.length > 1 && unique.every((name) => /^layer \d+$/.test(name));
  const known = layers ? unique.map((name, i) => (i ? name.slice("layer ".length) : name.replace("layer", "layers"))) : unique;
  return known.length < 2 ? (known[0] ?? "") : `${known.slice(0, -1).join(", ")} and ${known.at(-1)!}`;
}

function named(terms: Told["terms"]): string {
  const [first] = terms;
  if (terms.length > 1) return `a mix of ${terms.length} directions`;
  return first.weight < 0 ? `the reverse of ${first.label}` : first.label;
}

/** The sentence, part by part. */
export function sentence({ direction, answers, terms, places, absent, zero, row, unit, run, compared }: Told): Part[] {
  const pick = (pick: Pick, text: string): Part => ({ pick, text });
  const on: Part[] = [", on ", compared ? pick("run", run) : run];
  const of: Part[] = places.length ? [" of ", pick("place", listed(places))] : [];
  if (direction === "logit" && answers) return ["Colour shows ", pick("direction", answers), ", read through the final norm at ", pick("row", row), ", as ", pick("unit", UNITS[unit]), ...on];
  if (direction === "logit") return ["Colour shows ", pick("direction", "nothing"), ": no two answers are chosen"];
  if (absent) return ["Colour shows ", pick("direction", "nothing"), ": its directions are not here"];
  if (zero || !terms.length) return ["Colour shows ", pick("direction", "nothing"), `: the weights${places.length ? " over directions" : ""}`, ...of, terms.length ? " cancel" : " are all zero"];
  return ["Colour shows ", pick("direction", named(terms)), ...of, ", read at ", pick("row", row), ", as ", pick("unit", UNITS[unit]), ...on];
}

export const asText = (parts: readonly Part[]): string => parts.map((part) => (typeof part === "string" ? part : part.text)).join("");
