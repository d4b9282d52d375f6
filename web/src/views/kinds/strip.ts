import type { Kind } from "./kinds";
import { colourBar, LEGEND_HEIGHT } from "./legend";
import { fit, known, measure, number, shown, signedNumber } from "./numbers";
import { colorScale } from "./palette";
import type { TokenStripView } from "./plain";
import type { Box, Mark } from "./scene";

const LINE = 24;
const SIZE = 12;

export const tokenStrip: Kind<TokenStripView> = {
  about: (view) => `${view.tokens.length} tokens, each coloured by its value`,
  empty: (view) => !view.tokens.length,
  notes: (view) => [view.note],
  draw(view, width, palette) {
    const scale = colorScale(view.values, view.scale, view.limit, palette);
    const marks: Mark[] = colourBar(scale, view.unit, Math.min(width, 900), palette);
    const dense: Mark[] = [];
    const boxes: Box[] = [];
    let [x, y] = [0, LEGEND_HEIGHT - 4];
    const room = Math.max(80, Math.min(width, 900));
    view.tokens.forEach((token, i) => {
      const name = shown(token);
      const text = fit(name, Math.min(room, 360) - 8, SIZE, true);
      const w = measure(text, SIZE, true) + 8;
      if (x > 0 && x + w > room) [x, y] = [0, y + LINE];
      const box = { x, y, w, h: LINE - 4 };
      const value = view.values[i];
      const title = `${i} ${name}: ${known(value) ? value : "not known"}`;
      if (known(value)) dense.push({ kind: "rect", ...box, fill: scale.color(value), title });
      else dense.push({ kind: "rect", ...box, fill: palette.sunken }, { kind: "hatch", ...box, stroke: palette.line2, title });
      const ink = known(value) ? scale.ink(value) : palette.text;
      if (known(value) && scale.clipped(value)) dense.push({ kind: "path", d: `M${x + w - 5} ${y}h5v5z`, fill: ink });
      marks.push({ kind: "text", x: x + 4, y: y + 14, text, fill: ink, size: SIZE, anchor: "start", mono: true, title: text === name ? undefined : name });
      boxes.push(box);
      x += w + 1;
      if (token.endsWith("\n")) [x, y] = [0, y + LINE];
    });
    const last = boxes.at(-1)!;
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
          return { head: `${i} ${shown(view.tokens[i])}`, value: text + (view.unit && known(value) ? ` ${view.unit}` : "") };
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
    rows: view.tokens.map((token, i) => [i, shown(token), view.values[i]]),
  }),
  file: (view) => ({
    columns: ["pos", "token", view.unit || "value"],
    rows: view.tokens.map((token, i) => [i, JSON.stringify(token), view.values[i]]),
  }),
};
