/** Many prompts as a file: running text, each token on the colour of its value, and the numbers. Token text is untrusted: always escaped. */

import type { Paint } from "../lib/color";
import { UNIT_NAMES } from "../lib/format";
import { breakLines, lineEnd } from "../lib/lines";
import type { Page as Prompts } from "../lib/prompts";
import { inline, visible } from "../lib/tokens";
import { beneath, EDGE, Page, type Captioned } from "./exportHead";
import { measure } from "./kinds/numbers";
import type { Sheet } from "./kinds/sheet";
import { cell, lookOf, signed } from "./look";

export interface PromptsPicture extends Captioned {
  page: Prompts;
  values: ArrayLike<number>;
  norm: ArrayLike<number>;
  sink: ArrayLike<number>;
  scale: number;
  site: string;
  /** Where those come from that are not one's own. */
  from: string;
}

/** One line a token of every prompt; tokens as JSON strings. */
export function promptsSheet({ page, values, norm, sink, scale, site, unit, title, sentence, from }: PromptsPicture): Sheet {
  const rows = page.prompts.flatMap((prompt, p) =>
    prompt.tokens.map(({ id, text }, pos) => {
      const i = page.starts[p] + pos;
      return [p + 1, prompt.own ? "yours" : from, pos, JSON.stringify(text), id, site, values[i], UNIT_NAMES[unit], norm[i], sink[i] ? "yes" : "no", scale, JSON.stringify(`${title}. ${sentence}`)];
    }),
  );
  return { columns: ["prompt", "from", "pos", "token", "token_id", "site", "value", "unit", "norm", "attention_sink", "full_colour_at", "picture"], rows };
}

const WIDTH = 900;
const GUTTER = 30;
const SIZE = 12;
const LINE = 21;
const BELOW = 8;
const HEADING = 22;

/** All prompts, however many are in sight. */
export function promptsSvg(picture: PromptsPicture, paint: Paint): string {
  const { page: prompts, values, sink, scale, site, title, from } = picture;
  const page = new Page(WIDTH, paint, picture, scale, "hatched: attention sink · corner: beyond the scale");
  const colours = signed(paint.diverging, scale);
  let { y } = page;
  prompts.prompts.forEach(({ tokens, own }, p) => {
    if (p === 0 || own !== prompts.prompts[p - 1].own) page.text(EDGE, (y += HEADING) - 6, own ? "Yours, the latest first" : `Drawn from ${from}`, ` fill="${paint.text3}" font-size="11"`);
    const texts = tokens.map(({ text }) => inline(text));
    const widths = texts.map((text) => measure(text, SIZE, true));
    const starts = breakLines(widths, WIDTH - 2 * EDGE - GUTTER);
    page.text(EDGE + GUTTER - 10, y + SIZE + 1, String(p + 1), ` fill="${paint.text3}" text-anchor="end"`);
    starts.forEach((start, n) => {
      let x = EDGE + GUTTER;
      for (let pos = start; pos < lineEnd(starts, n, tokens.length); pos++) {
        const i = prompts.starts[p] + pos;
        const look = lookOf(values[i], colours, !!sink[i]);
        const said = `${site} at ${pos} of prompt ${p + 1}, ${visible(tokens[pos].text)}: ${values[i]}`;
        page.put(...beneath(cell({ x, y, w: widths[pos], h: LINE - 3 }, look, { tick: 4, title: said })));
        page.text(x, y + SIZE + 1, texts[pos], ` xml:space="preserve" font-size="${SIZE}" pointer-events="none" fill="${look.state === "known" ? look.ink : paint.text}"`);
        x += widths[pos];
      }
      y += LINE;
    });
    y += BELOW;
  });
  return page.end(title, y + EDGE);
}
