/** What dictionaries are called, how they are grouped for choosing, and which units their coordinates have. */

import type { DictionaryInfo } from "../connect/wire";
import type { StreamUnit } from "./format";

interface Kind {
  name: string;
  /** Before a component's number. */
  lead: string;
}

const KINDS: Record<string, Kind> = {
  pca: { name: "PCA", lead: "PC" },
  svd: { name: "SVD", lead: "SV" },
  nmf: { name: "NMF", lead: "NMF" },
  mean_difference: { name: "Mean difference", lead: "" },
  unembedding: { name: "Unembedding rows", lead: "" },
  saved: { name: "Saved", lead: "" },
};

const nameOf = (kind: string): string => KINDS[kind]?.name ?? kind;

/** Dictionaries one chooses among by place: one method, standardised apart from not. */
export const family = ({ kind, standardised }: DictionaryInfo): string => (standardised ? `${kind}, standardised` : kind);
export const familyName = (info: DictionaryInfo): string => (info.standardised ? `${nameOf(info.kind)}, standardised` : nameOf(info.kind));
export const leadOf = (info: DictionaryInfo | null): string => (info ? (KINDS[info.kind]?.lead ?? "") : "");

/** A component's name before the server has told its own. */
export const labelOf = (info: DictionaryInfo, index: number): string => `${leadOf(info) || nameOf(info.kind)} ${index}`;

/** The place, with the number of a second dictionary of one kind there. */
export const placeOf = (info: DictionaryInfo): string => info.place + (/#\d+$/.exec(info.id)?.[0] ?? "");
export const titleOf = (info: DictionaryInfo): string => `${familyName(info)} of ${placeOf(info)}`;

const GROUPS: [string, readonly string[]][] = [
  ["The stream", ["embed", "pos_embed", "resid_pre", "resid_mid", "resid_post", "final_norm"]],
  ["Heads", ["result", "z"]],
  ["Neurons", ["mlp_post"]],
];
const OTHERS = "Into and out of the blocks";

/** So many directions at most are asked for whole: of more, those that are chosen. */
export const MOST_WHOLE = 400;

export const isLarge = ({ n }: Pick<DictionaryInfo, "n">): boolean => n > MOST_WHOLE;
/** Its coordinates are activations; its directions are what it reads before, and writes. */
export const isEncoder = ({ linear }: Pick<DictionaryInfo, "linear">): boolean => linear === false;

const ACTIVATIONS: Record<string, string> = { relu: "ReLU", topk: "top-k", jumprelu: "jump-ReLU" };
export const activationOf = ({ activation }: Pick<DictionaryInfo, "activation">): string => ACTIVATIONS[activation ?? ""] ?? "activation";

/** Which vectors it is read against: the stream's in every layer (""), or those of its own site. */
const ground = (info: DictionaryInfo): string => (info.beside_stream === false ? siteName(info.site) : "");
/** Both read vectors of one kind at the same places, so that they can be mixed. */
export function fits(a: DictionaryInfo, b: DictionaryInfo): boolean {
  const together = (!isEncoder(a) && !isEncoder(b)) || ground(a) === ground(b);
  return together && a.width === b.width && (a.space === "lens") === (b.space === "lens");
}
/** The row of a layer in what a dictionary is read against; -1 where it has none, as the embedding has none of an MLP's. */
export const rowOf = (info: DictionaryInfo, layer: number): number => (!ground(info) ? layer + 1 : info.site.includes(".") ? layer : 0);

/** The layer whose row reads a dictionary's own place; -1 is the embedding, and what lies between two rows is read at the later one. */
export function layerRead(info: DictionaryInfo, layers: number): number {
  const [name, layer] = info.site.split(".");
  if (layer !== undefined) return Number(layer) - (name === "resid_pre" && !ground(info) ? 1 : 0);
  return ground(info) ? 0 : name === "final_norm" ? layers - 1 : -1;
}

export const siteName = (site: string): string => site.split(".")[0];
const layerOf = (site: string): number => Number(site.split(".")[1] ?? -1);

export interface PlaceGroup {
  name: string;
  dictionaries: DictionaryInfo[];
}

/** The dictionaries of one family by what they are of, each group in the order of the forward pass. */
export function places(dictionaries: readonly DictionaryInfo[], of: string): PlaceGroup[] {
  const groups = new Map<string, DictionaryInfo[]>([...GROUPS.map(([name]) => [name, []] as [string, DictionaryInfo[]]), [OTHERS, []]]);
  for (const info of dictionaries) {
    if (family(info) !== of) continue;
    const found = GROUPS.find(([, sites]) => sites.includes(siteName(info.site)));
    groups.get(found ? found[0] : OTHERS)!.push(info);
  }
  const within = (info: DictionaryInfo) => GROUPS[0][1].indexOf(siteName(info.site)) / 10; // before, in, after the block
  const order = (info: DictionaryInfo) => (siteName(info.site) === "final_norm" ? 1e9 : layerOf(info.site) + within(info));
  return [...groups]
    .map(([name, found]) => ({ name, dictionaries: found.toSorted((a, b) => order(a) - order(b) || (a.head ?? -1) - (b.head ?? -1)) }))
    .filter((group) => group.dictionaries.length);
}

/** Families in the order they first appear. */
export function families(dictionaries: readonly DictionaryInfo[]): { id: string; name: string }[] {
  const found = new Map(dictionaries.map((info) => [family(info), familyName(info)]));
  return [...found].map(([id, name]) => ({ id, name }));
}

/** Three quarters up: late enough for components to have to do with the next token. */
const USUAL_DEPTH = 0.77;

/** What is shown until somebody chooses: the stream's components three quarters up. */
export function usual(dictionaries: readonly DictionaryInfo[], layers: number): DictionaryInfo | null {
  const stream = dictionaries.filter((info) => info.kind === "pca" && !isEncoder(info) && info.head === null && /^resid_|^embed$/.test(info.site));
  const far = (info: DictionaryInfo) => Math.abs(layerOf(info.site) - Math.round(USUAL_DEPTH * layers));
  return (stream.length ? stream : dictionaries).toSorted((a, b) => far(a) - far(b))[0] ?? null;
}

/** The dictionary of a family at the place of another, or else the nearest layer's. */
export function nearest(dictionaries: readonly DictionaryInfo[], of: string, like: DictionaryInfo | null): DictionaryInfo | null {
  const far = (info: DictionaryInfo) =>
    (info.place === like?.place ? 0 : 1) * 1000 + (siteName(info.site) === siteName(like?.site ?? "") ? 0 : 500) + Math.abs(layerOf(info.site) - layerOf(like?.site ?? ""));
  return dictionaries.filter((info) => family(info) === of).toSorted((a, b) => far(a) - far(b))[0] ?? null;
}

/** What is asked for: the space a direction was fitted in, or another. */
export type Unit = "own" | "centred" | "raw" | "cos";

type Mixed = readonly Pick<DictionaryInfo, "space" | "standardised" | "linear">[];

/** Whether the data-set mean is subtracted from what is read linearly. */
export const isCentred = (unit: StreamUnit): boolean => ["centred", "standardised", "folded-centred", "mixed"].includes(unit);

/** What that is of one dictionary, or of all of a mix. */
export function unitOf(unit: Unit, mixed: Mixed): StreamUnit {
  const linear = mixed.filter((info) => !isEncoder(info));
  if (mixed.length && !linear.length) return "activation";
  if (linear.length < mixed.length) return unit === "centred" || (unit !== "raw" && linear.every(({ space }) => space === "centred")) ? "mixed" : "mixed-raw";
  const lens = mixed.length > 0 && mixed.every(({ space }) => space === "lens");
  if (lens) return unit === "centred" ? "folded-centred" : "folded";
  if (unit === "cos" || unit === "raw") return unit;
  const centred = unit === "centred" || (mixed.length > 0 && mixed.every(({ space }) => space === "centred"));
  if (!centred) return "raw";
  return mixed.length > 0 && mixed.every(({ standardised }) => standardised) ? "standardised" : "centred";
}

export interface UnitChoice {
  unit: Unit;
  shown: StreamUnit;
  label: string;
}

const LABELS: Partial<Record<StreamUnit, string>> = { folded: "norm-folded", "folded-centred": "centred", mixed: "centred", "mixed-raw": "raw" };

/** The units to choose among; the one it was fitted in is `own`. */
export function unitChoices(mixed: Mixed): UnitChoice[] {
  const own = unitOf("own", mixed);
  const all: UnitChoice[] = [];
  for (const unit of ["centred", "raw", "cos"] as const) {
    const shown = unitOf(unit, mixed);
    if (all.some((choice) => choice.shown === shown)) continue;
    all.push({ unit: shown === own ? "own" : unit, shown, label: LABELS[shown] ?? shown });
  }
  return all;
}
