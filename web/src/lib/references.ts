/** What a link calls a dictionary: its id and its hash, so that another one never stands in for it. */

import type { DictionaryInfo } from "../connect/wire";
import { parseTerm, savedName, termKey, type Terms, type Weights } from "./mix";

/** After an id, as the server reads it: which dictionary of that id is meant. */
const PIN = "~sha256:";
/** Fewer digits of a hash name nothing. */
const LEAST = 16;

type Named = Pick<DictionaryInfo, "id" | "shipped" | "hash">;

/** Those that come with Residscope are fitted anew now and then: they too have their hash with them, of which the beginning is enough. */
export const pinned = ({ id, shipped, hash }: Named): string => (hash ? `${id}${PIN}${shipped ? hash.slice(0, LEAST) : hash}` : id);
const isPinned = (reference: string): boolean => reference.includes(PIN);

function parsePin(reference: string): { id: string; hash: string } {
  const [id, hash = ""] = reference.split(PIN);
  return { id, hash };
}

/** The dictionary that is meant, whatever id it has here; null where it is not here. */
export function resolve<D extends Named>(reference: string, dictionaries: readonly D[]): D | null {
  if (!isPinned(reference)) return dictionaries.find(({ id }) => id === reference) ?? null;
  const { id, hash } = parsePin(reference);
  const alike = hash.length < LEAST ? [] : dictionaries.filter((info) => info.hash?.startsWith(hash));
  return alike.find((info) => info.id === id) ?? alike[0] ?? null;
}

/** Edits and directions as a link holds them: each dictionary by its id and hash. */
export function pinnedIn<T>(value: T, dictionaries: readonly Named[]): T {
  const known = new Map(dictionaries.map((info) => [info.id, info]));
  const walk = (part: unknown): unknown => {
    if (Array.isArray(part)) return part.map(walk);
    if (typeof part !== "object" || part === null) return part;
    const own = part as Record<string, unknown>;
    const fitted = own.kind === "pca" ? known.get(`pca@${String(own.site)}`) : undefined;
    if (fitted?.hash) {
      const weights = Object.entries(own.weights as Record<string, number>);
      return { kind: "mix", terms: weights.map(([index, weight]) => ({ dictionary: pinned(fitted), index: Number(index), weight })) };
    }
    return Object.fromEntries(Object.entries(own).map(([key, inner]) => [key, key === "dictionary" && known.has(String(inner)) ? pinned(known.get(String(inner))!) : walk(inner)]));
  };
  return walk(value) as T;
}

/** What is said of a dictionary that is not here. */
export interface Missing {
  id: string;
  hash: string;
  /** The hash of the one that goes by its id here. */
  other: string;
}

export function missing(reference: string, dictionaries: readonly Named[]): Missing {
  const { id, hash } = parsePin(reference);
  return { id, hash, other: dictionaries.find((info) => info.id === id)?.hash ?? "" };
}

/** What of a view names dictionaries. */
export interface Names {
  /** The chosen one; empty: the usual one of the model. */
  dictionary: string;
  weights: Weights;
  terms: Terms;
  also: string[];
}

/** The same with each reference as another has it; saved directions are none. */
function renamed({ dictionary, weights, terms, also }: Names, name: (reference: string) => string): Names {
  const named = (reference: string): string => (!reference || savedName(reference) !== null ? reference : name(reference));
  const moved = Object.entries(terms).flatMap(([key, weight]) => {
    const term = parseTerm(key);
    return term ? [[termKey(named(term.source), term.index), weight] as const] : [];
  });
  return { dictionary: named(dictionary), weights, terms: Object.fromEntries(moved), also: also.map(named) };
}

/** A view as a link has it. chosen: the dictionary whose weights they are, where that is the usual one and goes unnamed. */
export function pinnedNames(names: Names, dictionaries: readonly Named[], chosen: Named | null): Names {
  const own = chosen && !names.dictionary && chosen.hash ? chosen.id : names.dictionary;
  return renamed({ ...names, dictionary: own }, (reference) => {
    const found = dictionaries.find(({ id }) => id === reference);
    return found ? pinned(found) : reference;
  });
}

/** A link's view with the ids that its dictionaries have here; what is not here keeps its reference. Null where nothing changes. */
export function resolved(names: Names, dictionaries: readonly Named[]): Names | null {
  const next = renamed(names, (reference) => resolve(reference, dictionaries)?.id ?? reference);
  return JSON.stringify(next) === JSON.stringify(renamed(names, (reference) => reference)) ? null : next;
}

/** The dictionaries of here that a link names by their id alone, as those of Residscope 0.1 did: they may be others than it meant. */
export function byIdAlone({ dictionary, weights, terms, also }: Names, edits: unknown, dictionaries: readonly Named[], usual: Named | null): string[] {
  const sources = Object.keys(terms).map((key) => parseTerm(key)?.source ?? "");
  const asked = new Set([dictionary || (Object.keys(weights).length && usual ? usual.id : ""), ...also, ...sources]);
  const walk = (part: unknown): void => {
    if (Array.isArray(part)) part.forEach(walk);
    else if (typeof part === "object" && part !== null) {
      const own = part as Record<string, unknown>;
      if (own.kind === "pca") asked.add(`pca@${String(own.site)}`);
      if (typeof own.dictionary === "string") asked.add(own.dictionary);
      Object.values(own).forEach(walk);
    }
  };
  walk(edits);
  return dictionaries.filter(({ id, hash }) => hash && asked.has(id)).map(({ id }) => id);
}
