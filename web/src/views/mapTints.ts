/** The heads of the map as marks, for a file: what the canvas shows on screen. */

import type { Paint } from "../lib/color";
import { MOST_DRAWN } from "../lib/map";
import { boxOf, valueIn } from "../lib/mapLayout";
import type { Mark } from "./kinds/scene";
import type { MapPicture } from "./mapScene";

const SHADES = 5;

export function tintMarks({ layout, data, tint, scale, layer }: MapPicture, paint: Paint): Mark[] {
  const marks: Mark[] = [];
  for (const row of layout.rows)
    for (let head = 0; head < data.heads; head++) {
      const box = boxOf(layout, { layer: row.to, head })!;
      const value = valueIn(row, (at) => tint.heads[at * data.heads + head]);
      const unknown = Number.isNaN(value);
      marks.push({ kind: "rect", ...box, fill: unknown ? paint.surface : paint.diverging.color(value, scale), title: `${row.to}.${head}: ${unknown ? "not known" : value}` });
      if (row.kind === "band" || !layout.patterns) continue;
      const open = row.kind === "open";
      const ink = unknown ? paint.text : paint.diverging.inkFor(value, scale);
      const size = open ? Math.min(box.w - 2, box.h - 26) : Math.min(box.h - 1, box.w - 1);
      const [x, y] = [box.x + (open ? (box.w - size) / 2 : 0.5), box.y + (open ? 1 : 0.5)];
      if (open && layer?.pattern && layer.side <= MOST_DRAWN) shades(marks, layer.pattern, 1, layer.side, head * layer.side ** 2, { x, y, size, ink });
      else if (data.thumbs) shades(marks, data.thumbs, 255, data.side, (row.to * data.heads + head) * data.side ** 2, { x, y, size, ink });
    }
  return marks;
}

/** A pattern in a few strengths of one ink, a path each. */
function shades(marks: Mark[], weights: ArrayLike<number>, full: number, side: number, from: number, { x, y, size, ink }: { x: number; y: number; size: number; ink: string }): void {
  const paths: string[] = Array.from({ length: SHADES + 1 }, () => "");
  const cell = size / side;
  const at = (n: number) => Number((n * cell).toFixed(2));
  const w = cell.toFixed(2);
  for (let q = 0; q < side; q++)
    for (let k = 0; k < side; k++) {
      const shade = Math.round((SHADES * weights[from + q * side + k]) / full);
      if (shade) paths[shade] += `M${(x + at(k)).toFixed(2)} ${(y + at(q)).toFixed(2)}h${w}v${w}h-${w}z`;
    }
  paths.forEach((d, shade) => d && marks.push({ kind: "path", d, fill: ink, opacity: shade / SHADES }));
}
