/** A picture's numbers in rows: the table beside it, and its CSV. */

import { asLabel } from "../../lib/tokens";
import type { Value } from "./plain";

export interface Sheet {
  columns: string[];
  rows: Value[][];
}

/** What a spreadsheet would run rather than show. */
const FORMULA = /^[=+\-@\t\r]/;
const isNumber = (text: string): boolean => text.trim() !== "" && Number.isFinite(Number(text));

/** A text that could be taken for a formula, or break a line, is written as a JSON string. */
function field(value: Value | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "string") return String(value);
  const text = (FORMULA.test(value) && !isNumber(value)) || /[\r\n]/.test(value) ? JSON.stringify(value) : value;
  return /[",\r\n]|^ | $/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export const csv = ({ columns, rows }: Sheet): string =>
  [columns, ...rows].map((row) => row.map(field).join(",")).join("\n") + "\n";

/** A name for a file. */
export const fileName = (title: string, kind: string): string =>
  asLabel(title || kind).replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/^[-.]+|-$/g, "").slice(0, 80) || kind;
