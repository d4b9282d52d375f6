/** Small multiples as one file: the pictures side by side, their numbers under each other. */

import { xml } from "../../lib/xml";
import type { Drawing } from "../saved";
import { kindOf } from "./kinds";
import { readPalette } from "./palette";
import type { DrawnView, Value } from "./plain";
import { svgFile } from "./scene";
import type { Sheet } from "./sheet";

const WIDTH = 300;
const COLUMNS = 4;
const HEAD = 34;

const sizeOf = (svg: string): [number, number] => [Number(/ width="(\d+)"/.exec(svg)![1]), Number(/ height="(\d+)"/.exec(svg)![1])];

/** What each is called is in the first column. */
export function sheetOf(views: DrawnView[]): Sheet {
  const sheets = views.map((view) => (kindOf(view).file ?? kindOf(view).table)(view));
  const columns = [...new Set(sheets.flatMap((sheet) => sheet.columns))];
  const rows = sheets.flatMap((sheet, i) =>
    sheet.rows.map((row): Value[] => [views[i].title, ...columns.map((name) => row[sheet.columns.indexOf(name)] ?? null)]),
  );
  return { columns: ["picture", ...columns], rows };
}

export function together(title: string, views: DrawnView[], root: Element): Drawing {
  const svg = (): string => {
    const palette = readPalette(root);
    const files = views.map((view) => svgFile(kindOf(view).draw(view, WIDTH, palette), view.title, kindOf(view).notes(view).filter(Boolean), palette));
    const wide = Math.max(...files.map((file) => sizeOf(file)[0]));
    const all: string[] = [];
    let y = HEAD;
    for (let first = 0; first < files.length; first += COLUMNS) {
      const line = files.slice(first, first + COLUMNS);
      line.forEach((file, column) => all.push(file.replace("<svg ", `<svg x="${column * wide}" y="${y}" `)));
      y += Math.max(...line.map((file) => sizeOf(file)[1]));
    }
    const width = Math.min(COLUMNS, files.length) * wide;
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${y}" viewBox="0 0 ${width} ${y}">`,
      `<title>${xml(title)}</title>`,
      `<rect width="${width}" height="${y}" fill="${palette.surface}"/>`,
      `<text x="12" y="22" font-family="sans-serif" font-size="13" font-weight="600" fill="${palette.text}">${xml(title)}</text>`,
      ...all,
      "</svg>",
    ].join("\n");
  };
  return { title, notes: [], svg, sheet: () => sheetOf(views) };
}
