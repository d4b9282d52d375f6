/** What the library says, made from the Python. Every text here was written by people: untrusted, shown as text alone. */

import type { Description, SavedName } from "./said.generated";

export type { BlindResult, BlindTest, Comment, Description, Entry, Undoable, Whole } from "./said.generated";
export type { Blind as BlindSummary, Page as EntryPage } from "./said.generated";

export type SavedRef = SavedName;
export type Vote = Description["mine"];
