/** The stream picture as a file: SVG (and from it PNG), or its numbers as CSV. Token text is untrusted: always escaped. */

import type { Paint } from "../lib/color";
import { bound, UNIT_NAMES, visible, type ValueUnit } from "../lib/format";
import { rowName, scaleAt, siteOf, type Field } from "../lib/stream";
import { xml } from "../lib/xml";
import { svg } from "./kinds/scene";
import { cell, lookOf, signed } from "./look";

export interface Picture {
  field: Field;
  norm: ArrayLike<number>;
  tokens: string[];
  next: string[];
  unit: ValueUnit;
  /** What it is a picture of, in one line. */
  title: string;
}

/** A field of a CSV file: quoted where it must be. */
const quoted = (text: string): string => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** One line a cell of the grid; tokens as JSON strings, so that none is taken for a formula or a line break. */
export function streamCsv({ field, norm, tokens, unit, title }: Picture): string {
  const lines = ["site,pos,token,value,unit,norm,picture"];
  for (let row = 0; row < field.rows; row++)
    for (let pos = 0; pos < field.cols; pos++) {
      const i = row * field.cols + pos;
      const value = Number.isNaN(field.values[i]) ? "" : String(field.values[i]);
      const fields = [siteOf(field, row), String(pos), JSON.stringify(tokens[pos] ?? ""), value, UNIT_NAMES[unit], Number.isNaN(norm[i]) ? "" : String(norm[i]), JSON.stringify(title)];
      lines.push(fields.map(quoted).join(","));
    }
  return lines.join("\n") + "\n";
}

const GUTTER = 46;
const HEAD = 84;
const FOOT = 12;
/** Beside each row, the end of its own scale. */
const ENDS = 60;
const ROW = 18;
const MONO = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace';
/** A label wider than this many characters is cut. */
const LONGEST = 7;

const short = (token: string): string => {
  const text = [...visible(token)];
  return text.length > LONGEST ? text.slice(0, LONGEST - 1).join("") + "…" : text.join("");
};

/** The whole grid, however much of it is in sight. */
export function streamSvg(picture: Picture, paint: Paint): string {
  const { field, tokens, next, unit, title } = picture;
  const { rows, cols, values, scale, byRow, sink } = field;
  const wide = cols > 400 ? 10 : 52;
  const [width, height] = [Math.max(GUTTER + cols * wide + (byRow ? ENDS : FOOT), 460), HEAD + rows * ROW + FOOT];
  const out: string[] = [];
  const text = (x: number, y: number, words: string, extra = "") => out.push(`<text x="${x}" y="${y}"${extra}>${xml(words)}</text>`);
  const dim = ` fill="${paint.text3}"`;
  const middle = ' text-anchor="middle"';
  out.push(
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family='${MONO}' font-size="10" fill="${paint.text}">`,
    `<title>${xml(title)}</title>`,
    `<defs><linearGradient id="scale">`,
    ...paint.diverging.stops.map((stop, i, all) => `<stop offset="${i / (all.length - 1)}" stop-color="rgb(${stop.join(",")})"/>`),
    `</linearGradient></defs>`,
    `<rect width="${width}" height="${height}" fill="${paint.surface}"/>`,
  );
  text(FOOT, 16, title, ' font-size="11"');
  out.push(`<rect x="${FOOT}" y="24" width="150" height="7" fill="url(#scale)"/>`);
  text(FOOT, 41, byRow ? "−" : `−${bound(scale)}`, dim);
  text(FOOT + 75, 41, UNIT_NAMES[unit], dim + middle);
  text(FOOT + 150, 41, byRow ? "+" : `+${bound(scale)}`, `${dim} text-anchor="end"`);
  text(FOOT + 166, 31, `${byRow ? "each row its own scale, ± at its end · " : ""}hatched: attention sink · corner: beyond the scale`, dim);
  if (wide > 20) {
    text(GUTTER - 7, HEAD - 6, "next", `${dim} text-anchor="end"`);
    for (let pos = 0; pos < cols; pos++) {
      const x = GUTTER + (pos + 0.5) * wide;
      text(x, HEAD - 30, String(pos), dim + middle);
      text(x, HEAD - 18, short(tokens[pos] ?? ""), middle);
      text(x, HEAD - 6, short(next[pos] ?? ""), dim + middle);
    }
  }
  for (let row = 0; row < rows; row++) {
    const y = HEAD + (rows - 1 - row) * ROW;
    const colours = signed(paint.diverging, scaleAt(field, row));
    if (byRow) text(GUTTER + cols * wide + 6, y + ROW / 2 + 3, `±${bound(byRow[row])}`, dim);
    text(GUTTER - 7, y + ROW / 2 + 3, rowName(field, row), ' text-anchor="end"');
    for (let pos = 0; pos < cols; pos++) {
      const i = row * cols + pos;
      const [x, w, h] = [GUTTER + pos * wide, wide - 1, ROW - 1];
      const title = `${siteOf(field, row)} at ${pos} ${visible(tokens[pos] ?? "")}: ${values[i]}`;
      const value = Number.isNaN(values[i]) ? 0 : values[i]; // what is not known has the colour of zero, and says so
      out.push(...cell({ x, y, w, h }, lookOf(value, colours, !!sink[i]), { tick: 5, title }).map(svg));
    }
  }
  out.push("</svg>");
  return out.join("\n");
}
