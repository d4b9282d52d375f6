/** A text as a form has it, and as it is sent. */

import type { TextRef } from "../connect/wire";

export interface TextForm {
  kind: "builtin" | "typed" | "file" | "hub";
  builtin: string;
  typed: string;
  file: { name: string; text: string } | null;
  hub: string;
  field: string;
}

export const BUILT_IN: [string, string][] = [
  ["python-docs", "Python documentation"],
  ["english", "English prose"],
];
export const emptyText = (): TextForm => ({ kind: "builtin", builtin: BUILT_IN[0][0], typed: "", file: null, hub: "", field: "text" });

/** The server takes 2 MiB of JSON; the rest of the message needs a little. */
const MOST_BYTES = 2 * 1024 * 1024 - 4096;
const TYPED = /^typed /;
const DATA_SET = /^[\w.-]+\/[\w.-]+(\/[\w./-]+)?(@[\w.-]+)?$/;

export interface Refused {
  why: string;
}
export type Made<T> = T | Refused;
export const isRefused = (made: object): made is Refused => "why" in made;

/** The form that sends a text. */
export function formOf(text: TextRef | null, kind: TextForm["kind"] = "builtin"): TextForm {
  const form = { ...emptyText(), kind };
  if (!text) return form;
  if (text.kind === "builtin") return { ...form, kind: "builtin", builtin: text.name };
  if (text.kind === "hub") return { ...form, kind: "hub", hub: text.name, field: text.field ?? "text" };
  return TYPED.test(text.name) ? { ...form, kind: "typed", typed: text.text } : { ...form, kind: "file", file: { name: text.name, text: text.text } };
}

export function textRef(form: TextForm, which = "text"): Made<TextRef> {
  switch (form.kind) {
    case "builtin":
      return { kind: "builtin", name: form.builtin };
    case "hub":
      return DATA_SET.test(form.hub.trim()) ? { kind: "hub", name: form.hub.trim(), field: form.field.trim() || "text" } : { why: `Name the ${which}'s data set as owner/name` };
    case "typed":
      return form.typed.trim() ? small({ kind: "typed", name: `typed ${which}`, text: form.typed }) : { why: `Type the ${which} first` };
    case "file":
      if (!form.file) return { why: `Choose the ${which}'s file first` };
      if (!/\.(txt|jsonl)$/i.test(form.file.name)) return { why: `${form.file.name} is neither .txt (paragraphs) nor .jsonl (a "text" on each line)` };
      return small({ kind: "typed", ...form.file });
  }
}

function small(ref: TextRef & { kind: "typed" }): Made<TextRef> {
  const bytes = new TextEncoder().encode(JSON.stringify(ref.text)).length;
  if (bytes <= MOST_BYTES) return ref;
  return { why: `${ref.name} is ${(bytes / 1024 / 1024).toFixed(1)} MiB; up to 2 MiB can be sent from here. Fit on more from Python or with residscope directions fit` };
}
