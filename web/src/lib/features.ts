import type { PlainView } from "../views/kinds/plain";
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

/** The feature as a direction; null for what is none here: a neuron, a dimension of a site, what reads all heads at once. */
export function directionOf({ dictionary, index, flat }: FeatureDetail): DirectionRef | null {
  if (dictionary === null || flat) return null;
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

/** "24.118" of "neuron 24.118", where it stands below what they are all called. */
export const short = (label: string, of: string): string => (label.startsWith(`${of} `) ? label.slice(of.length + 1) : label);

/** "1,536 neurons", "256 features of sae". */
export function counted({ count, of }: Pick<AtlasInfo, "count" | "of">): string {
  const n = count.toLocaleString("en");
  return of === "neuron" || of === "dimension" ? `${n} ${of}${count === 1 ? "" : "s"}` : `${n} feature${count === 1 ? "" : "s"} of ${of}`;
}

const parts = (view: PlainView): PlainView[] => (view.kind === "grid" ? (view.views as PlainView[]).flatMap(parts) : [view]);

/** The end of the scale that examples are coloured on. */
const endOf = (view: PlainView): number => Math.max(0, ...parts(view).map((one) => (one.kind === "contexts" ? (one.limit ?? 0) : 0)));

/** Examples on a scale that reaches as far as those beside them, so that one colour is one value. */
export function onOneScale(view: PlainView, beside: PlainView | null): PlainView {
  const limit = beside ? Math.max(endOf(view), endOf(beside)) : 0;
  const widened = (one: PlainView): PlainView => {
    if (one.kind === "grid") return { ...one, views: (one.views as PlainView[]).map(widened) } as PlainView;
    return one.kind === "contexts" && limit > 0 ? { ...one, limit } : one;
  };
  return beside ? widened(view) : view;
}
