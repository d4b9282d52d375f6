/** The stream picture as a file: its SVG, and its numbers. Token text is untrusted: always escaped. */

import type { Paint } from "../lib/color";
import { bound, UNIT_NAMES, visible } from "../lib/format";
import { rowName, scaleAt, siteOf, type Field } from "../lib/stream";
import { beneath, Page, type Captioned } from "./exportHead";
import { svg } from "./kinds/scene";
import type { Sheet } from "./kinds/sheet";
import { cell, lookOf, signed } from "./look";

export interface Picture extends Captioned {
  field: Field;
  norm: ArrayLike<number>;
  tokens: string[];
  ids: number[];
  next: string[];
  /** The row that colours the tokens. */
  row: number;
}

/** One line a cell of the grid; tokens as JSON strings, so that none is taken for a formula or a line break. */
export function streamSheet({ field, norm, tokens, ids, unit, title, sentence }: Picture): Sheet {
  const rows = Array.from({ length: field.rows * field.cols }, (_, i) => {
    const [row, pos] = [Math.floor(i / field.cols), i % field.cols];
    return [siteOf(field, row), pos, JSON.stringify(tokens[pos] ?? ""), field.values[i], UNIT_NAMES[unit], norm[i], JSON.stringify(`${title}. ${sentence}`), ids[pos] ?? null, field.sink[i] ? "yes" : "no", scaleAt(field, row)];
  });
  return { columns: ["site", "pos", "token", "value", "unit", "norm", "picture", "token_id", "attention_sink", "full_colour_at"], rows };
}

const GUTTER = 46;
/** Three lines above the grid: position, token, next token. */
const TOKENS = 42;
const FOOT = 12;
/** Beside each row, the end of its own scale. */
const ENDS = 60;
const ROW = 18;
/** A label wider than this many characters is cut. */
const LONGEST = 7;

const short = (token: string): string => {
  const text = [...visible(token)];
  return text.length > LONGEST ? text.slice(0, LONGEST - 1).join("") + "…" : text.join("");
};

/** The whole grid, however much of it is in sight. */
export function streamSvg(picture: Picture, paint: Paint): string {
  const { field, tokens, next, title } = picture;
  const { rows, cols, values, scale, byRow, sink } = field;
  const wide = cols > 400 ? 10 : 52;
  const width = Math.max(GUTTER + cols * wide + (byRow ? ENDS : FOOT), 460);
  const page = new Page(width, paint, picture, byRow ? null : scale, `${byRow ? "each row its own scale, ± at its end · " : ""}hatched: attention sink · corner: beyond the scale`);
  const top = page.y + TOKENS;
  const dim = ` fill="${paint.text3}"`;
  const middle = ' text-anchor="middle"';
  const look = (row: number, pos: number) => {
    const i = row * cols + pos;
    return lookOf(Number.isNaN(values[i]) ? 0 : values[i], signed(paint.diverging, scaleAt(field, row)), !!sink[i]); // what is not known has the colour of zero, and says so
  };
  if (wide > 20) page.text(GUTTER - 7, top - 6, "next", `${dim} text-anchor="end"`);
  for (let pos = 0; pos < cols; pos++) {
    const x = GUTTER + (pos + 0.5) * wide;
    const worn = look(picture.row, pos);
    page.put(...beneath(cell({ x: GUTTER + pos * wide, y: top - 28, w: wide - 1, h: 14 }, worn, { tick: 4 })));
    if (wide <= 20) continue;
    page.text(x, top - 31, String(pos), dim + middle);
    page.text(x, top - 18, short(tokens[pos] ?? ""), `${middle} fill="${worn.state === "sink" ? paint.text : worn.ink}"`);
    page.text(x, top - 4, short(next[pos] ?? ""), dim + middle);
  }
  for (let row = 0; row < rows; row++) {
    const y = top + (rows - 1 - row) * ROW;
    if (byRow) page.text(GUTTER + cols * wide + 6, y + ROW / 2 + 3, `±${bound(byRow[row])}`, dim);
    page.text(GUTTER - 7, y + ROW / 2 + 3, rowName(field, row), ` text-anchor="end"${row === picture.row ? ' font-weight="700"' : ""}`);
    for (let pos = 0; pos < cols; pos++) {
      const title = `${siteOf(field, row)} at ${pos} ${visible(tokens[pos] ?? "")}: ${values[row * cols + pos]}`;
      page.put(...cell({ x: GUTTER + pos * wide, y, w: wide - 1, h: ROW - 1 }, look(row, pos), { tick: 5, title }).map(svg));
    }
  }
  return page.end(title, top + rows * ROW + FOOT);
}
