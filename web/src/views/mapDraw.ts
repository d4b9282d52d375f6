/** The heads of the map on a canvas: a cell's colour, and its pattern in it. */

import type { Paint } from "../lib/color";
import { MOST_DRAWN, type LayerData, type MapData, type Tint } from "../lib/map";
import { boxOf, valueIn, type MapLayout } from "../lib/mapLayout";
import { newCanvas } from "../root/host";

export interface Heads {
  layout: MapLayout;
  data: Pick<MapData, "layers" | "heads" | "thumbs" | "side">;
  tint: Tint;
  scale: number;
  /** The open layer in full, once it is there. */
  layer: LayerData | null;
}

/** Patterns in ink of a colour, one above another: drawn once, and copied from when cells are drawn. */
class Sheet {
  private readonly held = new Map<string, HTMLCanvasElement>();

  constructor(
    private readonly weights: ArrayLike<number>,
    private readonly full: number,
    readonly side: number,
    private readonly across: number,
  ) {}

  in(ink: string): HTMLCanvasElement {
    const known = this.held.get(ink);
    if (known) return known;
    const { side, across, weights } = this;
    const canvas = newCanvas();
    const down = weights.length / (side * side * across);
    [canvas.width, canvas.height] = [across * side, down * side];
    const image = new ImageData(canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const rgb = ink === "#ffffff" ? 0xffffff : 0;
    for (let i = 0, at = 0; i < down; i++)
      for (let h = 0; h < across; h++)
        for (let q = 0; q < side; q++)
          for (let k = 0, line = (i * side + q) * canvas.width + h * side; k < side; k++, at++) pixels[line + k] = ((Math.min(1, weights[at] / this.full) * 255) << 24) | rgb;
    canvas.getContext("2d")?.putImageData(image, 0, 0);
    this.held.set(ink, canvas);
    return canvas;
  }
}

const sheets = new WeakMap<ArrayLike<number> & object, Sheet>();
function sheetOf(weights: Uint8Array | Float32Array, full: number, side: number, across: number): Sheet {
  let known = sheets.get(weights);
  if (!known) sheets.set(weights, (known = new Sheet(weights, full, side, across)));
  return known;
}

export function drawHeads(g: CanvasRenderingContext2D, { layout, data, tint, scale, layer }: Heads, paint: Paint): void {
  const { heads } = data;
  const small = layout.patterns && data.thumbs ? sheetOf(data.thumbs, 255, data.side, heads) : null;
  const large = layer?.pattern && layer.side <= MOST_DRAWN ? sheetOf(layer.pattern, 1, layer.side, heads) : null;
  for (const row of layout.rows) {
    const open = row.kind === "open";
    for (let head = 0; head < heads; head++) {
      const box = boxOf(layout, { layer: row.to, head })!;
      const value = valueIn(row, (at) => tint.heads[at * heads + head]);
      g.fillStyle = Number.isNaN(value) ? paint.surface : paint.diverging.color(value, scale);
      g.fillRect(box.x, box.y, box.w, box.h);
      const sheet = open && large ? large : small;
      if (!sheet || row.kind === "band") continue;
      const size = open ? Math.min(box.w - 2, box.h - 26) : Math.min(box.h - 1, box.w - 1);
      const ink = paint.diverging.inkFor(value, scale); // of what is not known, as of zero
      const at = open && large ? 0 : row.to;
      g.imageSmoothingEnabled = size < sheet.side;
      g.drawImage(sheet.in(ink), head * sheet.side, at * sheet.side, sheet.side, sheet.side, box.x + (open ? (box.w - size) / 2 : 0.5), box.y + (open ? 1 : 0.5), size, size);
    }
  }
}
