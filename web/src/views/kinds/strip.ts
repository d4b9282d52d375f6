import { breakLines, lineOf } from "../../lib/lines";
import { cell, lookOf } from "../look";
import type { Kind } from "./kinds";
import { colourBar, LEGEND_HEIGHT } from "./legend";
import { visible } from "../../lib/tokens";
import { fit, known, measure, number, signedNumber } from "./numbers";
import { colorScale } from "./palette";
import type { TokenStripView } from "./plain";
import type { Box, Mark } from "./scene";

const LINE = 24;
const SIZE = 12;
const GAP = 1;

export const tokenStrip: Kind<TokenStripView> = {
  about: (view) => `${view.tokens.length} tokens, each coloured by its value`,
  empty: (view) => !view.tokens.length,
  notes: (view) => [view.note],
  draw(view, width, palette) {
    const scale = colorScale(view.values, view.scale, view.limit, palette);
    const marks: Mark[] = [];
    const dense: Mark[] = [];
    const boxes: Box[] = [];
    const room = Math.max(80, Math.min(width, 900));
    const names = view.tokens.map(visible);
    const texts = names.map((name) => fit(name, Math.min(room, 360) - 8, SIZE, true));
    const widths = texts.map((text) => measure(text, SIZE, true) + 8);
    const starts = breakLines(widths.map((w) => w + GAP), room + GAP, (i) => view.tokens[i].endsWith("\n"));
    let x = 0;
    view.tokens.forEach((_, i) => {
      const line = lineOf(starts, i);
      if (starts[line] === i) x = 0;
      const box = { x, y: LEGEND_HEIGHT + line * LINE, w: widths[i], h: LINE - 4 };
      const value = view.values[i];
      const look = lookOf(value, scale);
      const title = `${i} ${names[i]}: ${known(value) ? value : "not known"}`;
      dense.push(...cell(box, look, { tick: 5, unknown: { fill: palette.sunken, stroke: palette.line2 }, title }));
      marks.push({ kind: "text", x: x + 4, y: box.y + 14, text: texts[i], fill: look.ink || palette.text, size: SIZE, anchor: "start", mono: true, title: texts[i] === names[i] ? undefined : names[i] });
      boxes.push(box);
      x += box.w + GAP;
    });
    const last = boxes.at(-1)!;
    const right = boxes.reduce((most, box) => Math.max(most, box.x + box.w), 0);
    marks.push(...colourBar(scale, view.unit, Math.min(room, Math.max(right, 150)), palette));
    return {
      width: room, height: last.y + LINE, dense, marks,
      reader: {
        count: boxes.length,
        at(px, py) {
          const i = boxes.findIndex((box) => px >= box.x && px < box.x + box.w + 1 && py >= box.y && py < box.y + LINE);
          return i < 0 ? null : i;
        },
        box: (i) => boxes[i],
        words: (i) => {
          const value = view.values[i];
          const text = view.scale === "diverging" ? signedNumber(value) : number(value);
          return { head: `${i} ${visible(view.tokens[i])}`, value: text + (view.unit && known(value) ? ` ${view.unit}` : "") };
        },
        step(i, dx, dy) {
          if (!dy) return Math.max(0, Math.min(boxes.length - 1, i + dx));
          const [from, line] = [boxes[i], boxes[i].y + dy * LINE];
          const row = boxes.map((box, k) => ({ box, k })).filter(({ box }) => box.y === line);
          const middle = from.x + from.w / 2;
          const away = (box: Box) => Math.abs(box.x + box.w / 2 - middle);
          return row.length ? row.reduce((a, b) => (away(b.box) < away(a.box) ? b : a)).k : i;
        },
      },
    };
  },
  table: (view) => ({
    columns: ["pos", "token", view.unit || "value"],
    rows: view.tokens.map((token, i) => [i, visible(token), view.values[i]]),
  }),
  file: (view) => ({
    columns: ["pos", "token", view.unit || "value"],
    rows: view.tokens.map((token, i) => [i, JSON.stringify(token), view.values[i]]),
  }),
};
