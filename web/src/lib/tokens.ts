/**
 * How a token is shown: one rule for the whole page, the same as `visible` of shown_tokens.py.
 *
 * Nothing in it is hidden, and what is shown is typed back (`tokenTyped`): a space is ·, line ends and tabs are ↵ ␍ ⇥, bytes that are no whole
 * character are ⟨xE280⟩, what has no ink or reorders text is its code, ⟨200b⟩, a mark without its letter stands on ◌; and whoever writes one of
 * these signs is shown by its code.
 */

export type PieceKind = "text" | "space" | "hidden" | "bytes" | "id";

export interface Piece {
  kind: PieceKind;
  shown: string;
}

const SIGNS: Record<string, string> = { " ": "·", "\n": "↵", "\r": "␍", "\t": "⇥" };
const SIGNED: Record<string, string> = Object.fromEntries(Object.entries(SIGNS).map(([character, sign]) => [sign, character]));
const BASE = "◌";
// controls, formats, spaces, private use; fillers and variation selectors, which count as letters, marks or symbols and have no ink; the signs
const CODED = /[\p{Cc}\p{Cf}\p{Zs}\p{Zl}\p{Zp}\p{Co}\p{Cs}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\u{e0100}-\u{e01ef}·↵␍⇥◌⟨]/u;
const BYTES = /(?:<0x[0-9A-F]{2}>)+/;
const NUMBER = /<id -?\d+>/;
const PARTS = new RegExp(`(${BYTES.source}|${NUMBER.source}|[ \\n\\r\\t]|${CODED.source})`, "u");
const MARK = /^\p{M}/u;

const code = (character: string): string => `⟨${character.codePointAt(0)!.toString(16)}⟩`;
const hex = (bytes: string): string => bytes.replace(/<0x([0-9A-F]{2})>/g, "$1");

/** A token's name in parts, each of one kind. */
export function pieces(name: string): Piece[] {
  return name.split(PARTS).flatMap((part, i): Piece[] => {
    if (!part) return [];
    if (i % 2 === 0) return [{ kind: "text", shown: MARK.test(part) ? BASE + part : part }];
    if (part in SIGNS) return [{ kind: "space", shown: SIGNS[part] }];
    if (part.startsWith("<0x")) return [{ kind: "bytes", shown: `⟨x${hex(part)}⟩` }];
    return [part.startsWith("<id") ? { kind: "id", shown: part } : { kind: "hidden", shown: code(part) }];
  });
}

/** A token as plain text with nothing in it hidden. */
export const visible = (name: string): string => pieces(name).map(({ shown }) => shown).join("") || "∅";

/** The token's name that somebody typed, as it is shown or as it is. */
export const tokenTyped = (shown: string): string =>
  shown
    .replace(new RegExp(`${BASE}(?=\\p{M})`, "gu"), "")
    .replace(/[·↵␍⇥]/g, (sign) => SIGNED[sign])
    .replace(/⟨x((?:[0-9A-Fa-f]{2})+)⟩/g, (_, bytes: string) => bytes.toUpperCase().replace(/../g, "<0x$&>"))
    .replace(/⟨([0-9a-fA-F]{1,6})⟩/g, (all, digits: string) => (parseInt(digits, 16) <= 0x10ffff ? String.fromCodePoint(parseInt(digits, 16)) : all));

/** A token as running text has it: the same, but spaces as they are. */
export const inline = (name: string): string =>
  pieces(name).map(({ kind, shown }) => (kind === "space" && shown === "·" ? " " : shown)).join("");

const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;

/** Where a token is a part of a sentence: one that is written from the right leaves the order of the rest as it is. */
export const apart = (shown: string): string => (RIGHT_TO_LEFT.test(shown) ? `\u2068${shown}\u2069` : shown);
/** The same without. */
export const together = (text: string): string => text.replace(/[\u2068\u2069]/g, "");

/** What may be a token, a name or words, as a label: the same, but spaces within it, and signs, stay. */
export function asLabel(text: string): string {
  const [, before, bare, after] = /^( *)([^]*?)( *)$/.exec(text)!;
  const plain = bare.split(PARTS).map((part, i) => {
    if (i % 2 === 0 || " ·↵␍⇥◌⟨".includes(part) || part.startsWith("<id")) return part;
    return part.startsWith("<0x") ? `⟨x${hex(part)}⟩` : (SIGNS[part] ?? code(part));
  });
  return "·".repeat(before.length) + plain.join("") + "·".repeat(after.length) || "∅";
}

/** What would reorder a text, or break its line: controls, and marks of direction. What joins letters and emoji is a part of it. */
const UNRULY = /[\u0000-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu;

/** A text of several lines on one. */
export const oneLine = (text: string): string => text.replace(/\s*\n\s*/g, " ↵ ").replace(UNRULY, (character) => SIGNS[character] ?? code(character));

const BYTE = /<0x([0-9A-F]{2})>/g;

/** Of each token of a prompt the characters that its bytes are part of, where several tokens spell them; null of the others. */
export function characters(names: readonly string[]): (string | null)[] {
  const found: (string | null)[] = names.map(() => null);
  let run: { byte: number; token: number }[] = [];
  const close = (): void => {
    for (let at = 0; at < run.length; ) {
      const size = sizeOf(run[at].byte);
      const some = run.slice(at, at + size);
      const character = size && some.length === size ? decode(some.map(({ byte }) => byte)) : null;
      if (character) for (const token of new Set(some.map(({ token }) => token))) found[token] = (found[token] ?? "") + character;
      at += character ? size : 1;
    }
    run = [];
  };
  names.forEach((name, token) => {
    const parts = name.split(/((?:<0x[0-9A-F]{2}>)+)/);
    parts.forEach((part, i) => {
      if (i % 2) for (const [, digits] of part.matchAll(BYTE)) run.push({ byte: parseInt(digits, 16), token });
      else if (part) close();
    });
  });
  close();
  return found;
}

const sizeOf = (lead: number): number => (lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc2 ? 2 : 0);

function decode(bytes: number[]): string | null {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

/** What a token is, in words, for who points at it. */
export function describe(name: string, { special = false, of = null }: { special?: boolean; of?: string | null } = {}): string {
  if (special) return `Special token ${visible(name)}`;
  const [only, more] = pieces(name);
  if (only?.kind === "id" && !more) return `Token ${name.slice(4, -1)}, which has no text of its own`;
  const bytes = [...name.matchAll(BYTE)].map(([, digits]) => digits).join(" ");
  if (bytes) return `${JSON.stringify(name.replace(BYTE, "")) === '""' ? "" : `${visible(name)}: `}bytes ${bytes}${of ? `, of ${[...of].map(named).join(" ")}` : ", no whole character"}`;
  return `“${visible(name)}”`;
}

/** A character and its code. */
const named = (character: string): string => `${visible(character)} (U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, "0")})`;
