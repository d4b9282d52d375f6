/** Every picture as files, on every tab: SVG, PNG, PDF, a page, and its numbers as CSV. */

import { getContext, setContext } from "svelte";
import { pdfOf, pngOf } from "../lib/files";
import { xml } from "../lib/xml";
import { download } from "../root/host";
import { csv, fileName, type Sheet } from "./kinds/sheet";

/** What a file is made of. */
export interface Drawing {
  /** What the file is called, where that is not its title. */
  name?: string;
  title: string;
  notes: string[];
  svg(): string;
  sheet(): Sheet;
}

export type Ending = "svg" | "png" | "pdf" | "html" | "csv";

export const ENDINGS: readonly [Ending, string][] = [
  ["svg", "the picture, every shape and letter"],
  ["png", "the picture, at twice the size"],
  ["pdf", "the same on a page of its size"],
  ["html", "a page: the picture and its numbers"],
  ["csv", "its numbers, in full"],
];

export async function fileOf(ending: Ending, { title, notes, svg, sheet }: Drawing): Promise<Blob> {
  switch (ending) {
    case "svg":
      return new Blob([svg()], { type: "image/svg+xml" });
    case "png":
      return pngOf(svg());
    case "pdf":
      return pdfOf(svg(), { title, subject: notes.join(" ") });
    case "html":
      return new Blob([pageOf(title, notes, svg(), sheet())], { type: "text/html;charset=utf-8" });
    case "csv":
      return new Blob([csv(sheet())], { type: "text/csv;charset=utf-8" });
  }
}

/** Hands the reader the file. kind: what it is called where the picture has no name. */
export async function save(drawing: Drawing, ending: Ending, kind: string): Promise<void> {
  download(await fileOf(ending, drawing), `${fileName(drawing.name || drawing.title || kind, kind)}.${ending}`);
}

export const notYet = (why: string): string => `Not yet: ${why}. Only whole pictures are saved.`;

const STYLE =
  "body{font:13px/1.5 system-ui,sans-serif;margin:24px;color:#1a1b1e;background:#fff}svg{max-width:none}.room{overflow-x:auto}" +
  "table{border-collapse:collapse;font-size:12px;margin-top:8px}th,td{padding:1px 8px;text-align:left;border-bottom:1px solid #ddd;unicode-bidi:isolate;white-space:pre}";

/** A page that asks for nothing else: the picture, with its values where it is pointed at, and beneath it every number. */
export function pageOf(title: string, notes: string[], svg: string, { columns, rows }: Sheet): string {
  const row = (cells: readonly unknown[], tag: string): string => `<tr>${cells.map((cell) => `<${tag}>${xml(cell === null || cell === undefined || Number.isNaN(cell) ? "" : String(cell))}</${tag}>`).join("")}</tr>`;
  return [
    `<!doctype html>`,
    `<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"><title>${xml(title)}</title><style>${STYLE}</style></head><body>`,
    `<h1 style="font-size:15px"><bdi>${xml(title)}</bdi></h1>`,
    ...notes.map((note) => `<p><bdi>${xml(note)}</bdi></p>`),
    `<div class="room">${svg}</div>`,
    `<details><summary>Its numbers: ${rows.length} rows</summary><table><thead>${row(columns, "th")}</thead><tbody>`,
    ...rows.map((cells) => row(cells, "td")),
    `</tbody></table></details></body></html>`,
    ``,
  ].join("\n");
}

/**
 * The one rule of what is saved: whole pictures alone. While a job still fills a picture, or it is of something before, there is a reason
 * why it is not saved, and the menu says it.
 */
const WHY = Symbol("why a picture is not saved");
export const setUnsaved = (why: () => string): void => void setContext(WHY, why);
export const useUnsaved = (): (() => string) => getContext<(() => string) | undefined>(WHY) ?? (() => "");
