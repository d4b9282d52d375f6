import type { AtlasInfo, DirectionRef, Edit, FeatureDetail } from "../connect/wire";

/** What a feature is always found by: `sae/MODEL/SITE/INDEX`, `neuron/MODEL/LAYER/INDEX`. */
export interface Address {
  /** All but the number. */
  place: string;
  of: string;
  model: string;
  index: number;
}

/** null for what is no address. */
export function readAddress(text: string): Address | null {
  const found = /^([^/]+)\/(.+)\/([^/]+)\/(\d{1,9})$/.exec(text.trim());
  if (!found) return null;
  const [, of, model, at, index] = found;
  return { place: `${of}/${model}/${at}`, of, model, index: Number(index) };
}

export const addressOf = ({ address }: AtlasInfo, index: number): string => `${address}/${index}`;

/** The atlas that an address is of: the one that is chosen, where it is, else the latest of that place. */
export function atlasOf(atlases: AtlasInfo[], address: Address, chosen: string): AtlasInfo | null {
  const there = atlases.filter((atlas) => atlas.address === address.place);
  return there.find(({ name }) => name === chosen) ?? there.find(({ missing }) => missing === null) ?? there[0] ?? null;
}

/** Atlases of the same features, from other texts. */
export const besides = (atlases: AtlasInfo[], atlas: AtlasInfo): AtlasInfo[] =>
  atlases.filter((other) => other.name !== atlas.name && other.hash === atlas.hash && other.address === atlas.address);

export const isSaved = (dictionary: string): boolean => dictionary.startsWith("saved:");

/** The feature as a direction; null for what is none here: a neuron, a dimension of a site. */
export function directionOf({ dictionary, index }: FeatureDetail): DirectionRef | null {
  if (dictionary === null) return null;
  if (isSaved(dictionary)) return { kind: "saved", name: dictionary.slice("saved:".length) };
  return { kind: "mix", terms: [{ dictionary, index, weight: 1 }] };
}

/** The edit that takes it out: its activation made zero, a neuron's value, or the coordinate along a saved direction. */
export function removal(detail: FeatureDetail): Edit | null {
  const { dictionary, index, neuron, site, head } = detail;
  if (neuron) return { kind: "ablate", site, neuron: [index], to: "zero" };
  if (dictionary === null) return null;
  if (isSaved(dictionary)) return { kind: "project_out", site, ...(head === null ? {} : { head: [head] }), direction: directionOf(detail) };
  return { kind: "feature", dictionary, index: [index], scale: 0 };
}

/** Whether an edit of the stack is this one, whatever else it says. */
export function sameEdit(edit: Edit, wanted: Edit): boolean {
  return Object.entries(wanted).every(([name, value]) => JSON.stringify(edit[name] ?? null) === JSON.stringify(value ?? null));
}

/** A share of tokens, in words that stay short: 12 %, 0.31 %, 4e−5. */
export function share(x: number): string {
  if (x === 0) return "never";
  const percent = 100 * x;
  if (percent >= 10) return `${percent.toFixed(0)} %`;
  return percent >= 0.01 ? `${Number(percent.toPrecision(2))} %` : `${percent.toExponential(0).replace("e-", "e−")} %`;
}

export const brief = (x: number | null): string => (x === null ? "–" : Math.abs(x) >= 1000 ? x.toFixed(0) : Number(x.toPrecision(3)).toString().replace("-", "−"));
