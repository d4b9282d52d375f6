/** What stands above a saved picture of tokens: what it is of, what its colour means, and how much of it is full. */

import type { Paint } from "../lib/color";
import { bound, UNIT_NAMES, type ValueUnit } from "../lib/format";
import { xml } from "../lib/xml";
import { wrap } from "./kinds/numbers";
import { svg, type Mark } from "./kinds/scene";

/** Beneath text: a sink's stripes are as faint as on screen, so that its token can be read. */
export const beneath = (marks: Mark[]): string[] => marks.map((mark) => (mark.kind === "hatch" ? `<g opacity="0.45">${svg(mark)}</g>` : svg(mark)));

/** What every saved picture of tokens says of itself. */
export interface Captioned {
  /** What it is a picture of, in one line. */
  title: string;
  /** The sentence above it on the page: what colour means. */
  sentence: string;
  unit: ValueUnit;
}

export const EDGE = 12;
const LINE = 15;
const MONO = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace';

export class Page {
  private readonly out: string[] = [];
  /** Where what comes next begins. */
  y: number;

  /** scale: the ends; null where each row has its own. */
  constructor(
    private readonly width: number,
    private readonly paint: Paint,
    { title, sentence, unit }: Captioned,
    scale: number | null,
    signs: string,
  ) {
    const dim = ` fill="${paint.text3}"`;
    this.text(EDGE, 16, title, ' font-size="11"');
    this.y = 16;
    for (const line of wrap(sentence, width - 2 * EDGE, 11)) this.text(EDGE, (this.y += LINE), line, ' font-size="11" font-weight="600"');
    const top = this.y + 9;
    this.put(`<rect x="${EDGE}" y="${top}" width="150" height="7" fill="url(#scale)"/>`);
    this.text(EDGE, top + 17, scale === null ? "−" : `−${bound(scale)}`, dim);
    this.text(EDGE + 75, top + 17, UNIT_NAMES[unit], `${dim} text-anchor="middle"`);
    this.text(EDGE + 150, top + 17, scale === null ? "+" : `+${bound(scale)}`, `${dim} text-anchor="end"`);
    this.text(EDGE + 166, top + 7, signs, dim);
    this.y = top + 26;
  }

  put(...markup: string[]): void {
    this.out.push(...markup);
  }

  text(x: number, y: number, words: string, extra = ""): void {
    this.put(`<text x="${x}" y="${y}"${extra}>${xml(words)}</text>`);
  }

  /** The whole, of this height. */
  end(title: string, height: number): string {
    const { width, paint } = this;
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family='${MONO}' font-size="10" fill="${paint.text}">`,
      `<title>${xml(title)}</title>`,
      `<defs><linearGradient id="scale">`,
      ...paint.diverging.stops.map((stop, i, all) => `<stop offset="${i / (all.length - 1)}" stop-color="rgb(${stop.join(",")})"/>`),
      `</linearGradient></defs>`,
      `<rect width="${width}" height="${height}" fill="${paint.surface}"/>`,
      ...this.out,
      "</svg>",
    ].join("\n");
  }
}
