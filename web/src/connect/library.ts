/** The library, as docs/wire.md has it. Every text here was written by people: untrusted, shown as text alone. */

import type { DirectionRef } from "./wire";

export interface Entry {
  id: string;
  owner: string;
  name: string;
  model: string;
  model_hash: string;
  /** It was found in the model that is loaded; null where none is. */
  here: boolean | null;
  site: string;
  head: number | null;
  space: string;
  tensors: string;
  votes: number;
  comments: number;
  description: string | null;
  version: number;
  created: string;
  updated: string;
}

/** What the blind tests of one description say, over people. Its author's own test stands apart. */
export interface BlindSummary {
  people: number;
  mean: number | null;
  interval: [number, number] | null;
  author: number | null;
  mine: number | null;
}

export type Vote = 1 | -1 | 0;

export interface Description {
  id: string;
  direction: string;
  author: string;
  text: string;
  up: number;
  down: number;
  mine: Vote;
  blind: BlindSummary | null;
  version: number;
  created: string;
  updated: string;
}

export interface Comment {
  id: string;
  direction: string;
  author: string;
  text: string;
  created: string;
}

export interface Whole {
  entry: Entry;
  provenance: Record<string, unknown>;
  descriptions: Description[];
  comments: Comment[];
}

export interface EntryPage {
  entries: Entry[];
  after: string | null;
}

export interface Undoable {
  event: number;
}

export type SavedRef = Extract<DirectionRef, { kind: "saved" }>;

/** A blind test: contexts whose values the server keeps to itself until the guesses are in. */
export interface BlindTest {
  test: string;
  description: string;
  direction: string;
  text: string;
  corpus: string;
  items: { tokens: string[]; pos: number }[];
  /** What -1, 0 and 1 stand for. */
  scale: [string, string, string];
}

export interface BlindResult {
  /** Spearman's rank correlation of the guesses with the values. */
  score: number;
  interval: [number, number];
  /** Where 95 of 100 scores of shuffled guesses fall. */
  chance: [number, number];
  /** How often a token of the upper half was guessed above one of the lower. */
  auc: number;
  values: number[];
  n: number;
  /** The tester wrote the description. */
  own: boolean;
  description: Description;
}
