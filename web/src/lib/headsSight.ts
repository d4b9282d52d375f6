/** How the Heads tab is looked at, and its life in the address. */

import { MEASURES } from "./heads";

export interface HeadsSight {
  /** The measures of the two pictures; of a scatter, across and up. */
  by: string[];
  scatter: boolean;
  how: "grid" | "text" | "lines";
  over: "mean" | "max";
  weighted: boolean;
  /** What the text is shaded by: what the pointed token attends to, or what attends to it. */
  way: "out" | "in";
  /** The token that is held. */
  locked: number | null;
  /** From where, and to where, heads are sought; null: where the answer is read, and the answer. */
  from: number | null;
  to: number | null;
}

export const usualHeads = (): HeadsSight => ({ by: ["direct", "ablation"], scatter: false, how: "grid", over: "mean", weighted: false, way: "out", locked: null, from: null, to: null });

const place = (pos: number | null): string => (pos === null ? "" : String(pos));

/** Its parts in their order, each empty where it is the usual. */
export function headsKey({ by, scatter, how, over, weighted, way, locked, from, to }: HeadsSight): string {
  return [by.join("."), scatter ? "scatter" : "", how, over, weighted ? "weighted" : "", way, place(locked), place(from), place(to)].join(",");
}

const among = <T extends string>(text: string | undefined, known: readonly T[], usual: T): T => (known.includes(text as T) ? (text as T) : usual);
const numbered = (text: string | undefined): number | null => (/^\d{1,6}$/.test(text ?? "") ? Number(text) : null);

export function readHeads(text: string | null): HeadsSight {
  const usual = usualHeads();
  if (!text) return usual;
  const [by, scatter, how, over, weighted, way, locked, from, to] = text.split(",");
  const measures = by.split(".").filter((id) => MEASURES.some((one) => one.id === id));
  return {
    by: measures.length === 2 ? measures : usual.by, scatter: scatter === "scatter", how: among(how, ["grid", "text", "lines"], usual.how), over: among(over, ["mean", "max"], usual.over),
    weighted: weighted === "weighted", way: among(way, ["out", "in"], usual.way), locked: numbered(locked), from: numbered(from), to: numbered(to),
  };
}
