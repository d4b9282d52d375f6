/** What a picture is made of, and its two ways out: a canvas, and SVG text for a file. */

import { xml } from "../../lib/xml";
import { asLabel } from "../../lib/tokens";
import { fit, MONO, SANS, wrap } from "./numbers";

export interface Box {
  x: number;
  y: number;
  w: number;
  h: number;
}

export interface TextMark {
  kind: "text";
  x: number;
  y: number;
  text: string;
  fill: string;
  size: number;
  anchor: "start" | "middle" | "end";
  mono?: boolean;
  bold?: boolean;
  /** Reads upwards. */
  up?: boolean;
  /** The whole text, where only a part has room. */
  title?: string;
  link?: string;
}

/** Diagonals at 45° over a box; `through`: they run on into the next one. */
export interface Hatch extends Box {
  kind: "hatch";
  stroke: string;
  width?: number;
  step?: number;
  through?: boolean;
  title?: string;
}

export type Mark =
  | ({ kind: "rect"; fill: string; title?: string } & Box)
  | Hatch
  | { kind: "circle"; x: number; y: number; r: number; fill: string; stroke: string; opacity: number; title?: string }
  | { kind: "path"; d: string; fill?: string; stroke?: string; width?: number; dash?: string; opacity?: number; title?: string; link?: string }
  | TextMark;

/** What the pop-up and the screen reader say of one value. */
export interface Words {
  head: string;
  value: string;
  more?: string[];
  /** Where it leads to; empty: nowhere. */
  link?: string;
}

/** The values of a picture as places that can be pointed at. */
export interface Reader {
  count: number;
  /** What lies under a point. */
  at(x: number, y: number): number | null;
  box(item: number): Box;
  words(item: number): Words;
  /** The next one, by an arrow key. */
  step(item: number, dx: number, dy: number): number;
  /** Bands lit with it: its row, its column. */
  lights?(item: number): Box[];
  /** What is drawn over the picture while it is pointed at. */
  over?(item: number): Mark[];
}

export interface Scene {
  width: number;
  height: number;
  /** Many small marks: on screen, one canvas. */
  dense: Mark[];
  marks: Mark[];
  reader: Reader;
  /** Where its x axis lies, for a control that is to line up with it. */
  frame?: Frame;
}

/** From `left` to `right` in pixels, `low` to `high` in the axis's numbers. */
export interface Frame {
  left: number;
  right: number;
  low: number;
  high: number;
}

/** A hatch's lines, cut at the box's edges; whole where they run on, for whoever draws them to clip. */
export function hatchPath({ x, y, w, h, step = 5, through = false }: Hatch): string {
  const lines: string[] = [];
  for (let d = through ? Math.floor((x - h) / step) * step - x : 4 - h; d < w; d += step) {
    const [from, to] = through ? [d, d + h] : [Math.max(d, 0), Math.min(d + h, w)];
    lines.push(`M${x + from} ${y + h - (from - d)}L${x + to} ${y + h - (to - d)}`);
  }
  return lines.join("");
}

function clipped(g: CanvasRenderingContext2D, { x, y, w, h }: Box, draw: () => void): void {
  g.save();
  g.beginPath();
  g.rect(x, y, w, h);
  g.clip();
  draw();
  g.restore();
}

export function paint(g: CanvasRenderingContext2D, marks: Mark[]): void {
  for (const mark of marks) {
    if (mark.kind === "rect") {
      g.fillStyle = mark.fill;
      g.fillRect(mark.x, mark.y, mark.w, mark.h);
    } else if (mark.kind === "text") {
      g.fillStyle = mark.fill;
      g.font = `${mark.bold ? "600 " : ""}${mark.size}px ${mark.mono ? MONO : SANS}`;
      g.textAlign = mark.anchor === "middle" ? "center" : mark.anchor;
      g.textBaseline = "alphabetic";
      g.fillText(mark.text, mark.x, mark.y);
    } else if (mark.kind === "circle") {
      g.globalAlpha = mark.opacity;
      g.fillStyle = mark.fill;
      g.beginPath();
      g.arc(mark.x, mark.y, mark.r, 0, 7);
      g.fill();
      if (mark.stroke !== "none") {
        g.strokeStyle = mark.stroke;
        g.lineWidth = 1;
        g.stroke();
      }
      g.globalAlpha = 1;
    } else {
      const path = new Path2D(mark.kind === "hatch" ? hatchPath(mark) : mark.d);
      const dashed = mark.kind === "path" && !!mark.dash;
      if (mark.kind === "path") g.globalAlpha = mark.opacity ?? 1;
      if (dashed) g.setLineDash(mark.dash!.split(" ").map(Number));
      if (mark.kind === "path" && mark.fill) {
        g.fillStyle = mark.fill;
        g.fill(path);
      }
      if (mark.stroke) {
        g.strokeStyle = mark.stroke;
        g.lineWidth = mark.width ?? 1;
        if (mark.kind === "hatch" && mark.through) clipped(g, mark, () => g.stroke(path));
        else g.stroke(path);
      }
      if (dashed) g.setLineDash([]);
      g.globalAlpha = 1;
    }
  }
}

const n = (value: number): string => String(Number(value.toFixed(2)));

/** A mark as SVG text, within the link that it is. */
export function svg(mark: Mark): string {
  const link = "link" in mark && mark.link;
  return link ? `<a href="${xml(link)}" target="_blank" rel="noreferrer">${bare(mark)}</a>` : bare(mark);
}

function bare(mark: Mark): string {
  const told = "title" in mark && mark.title ? `<title>${xml(mark.title)}</title>` : "";
  switch (mark.kind) {
    case "rect":
      return `<rect x="${n(mark.x)}" y="${n(mark.y)}" width="${n(mark.w)}" height="${n(mark.h)}" fill="${mark.fill}">${told}</rect>`;
    case "hatch":
      return `<g><path d="${hatchPath(mark)}" stroke="${mark.stroke}" stroke-width="${mark.width ?? 1}" fill="none"/>${told}</g>`;
    case "circle":
      return `<circle cx="${n(mark.x)}" cy="${n(mark.y)}" r="${mark.r}" fill="${mark.fill}" stroke="${mark.stroke}" opacity="${mark.opacity}">${told}</circle>`;
    case "path": {
      const dash = mark.dash ? ` stroke-dasharray="${mark.dash}"` : "";
      const fill = `fill="${mark.fill ?? "none"}" stroke="${mark.stroke ?? "none"}"`;
      const about = `d="${mark.d}" ${fill} stroke-width="${mark.width ?? 1}" stroke-linejoin="round"${dash} opacity="${mark.opacity ?? 1}"`;
      return told ? `<path ${about}>${told}</path>` : `<path ${about}/>`;
    }
    case "text": {
      const turn = mark.up ? ` transform="rotate(-90 ${n(mark.x)} ${n(mark.y)})"` : "";
      const face = `font-family='${mark.mono ? MONO : SANS}' font-size="${mark.size}"${mark.bold ? ' font-weight="600"' : ""}`;
      return `<text x="${n(mark.x)}" y="${n(mark.y)}" text-anchor="${mark.anchor}" fill="${mark.fill}" ${face}${turn}>${xml(mark.text)}${told}</text>`;
    }
  }
}

export const PAD = 12;

/** A whole picture as a file: its title above, its note below. */
export function svgFile(scene: Scene, title: string, notes: string[], colours: { surface: string; text: string; text2: string }): string {
  const width = Math.ceil(Math.max(scene.width, 240) + 2 * PAD);
  const below = notes.flatMap((note) => wrap(asLabel(note), width - 2 * PAD, 11));
  const [pad, head, foot] = [PAD, title ? 26 : 0, below.length && below.length * 15 + 6];
  const height = Math.ceil(scene.height + head + foot + 2 * pad);
  const words = (text: string, y: number, fill: string, size: number) =>
    svg({ kind: "text", x: pad, y, text, fill, size, anchor: "start", bold: size > 11 });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`,
    `<title>${xml(title)}</title>`,
    `<rect width="${width}" height="${height}" fill="${colours.surface}"/>`,
    ...(title ? [words(fit(asLabel(title), width - 2 * pad, 12, false), pad + 12, colours.text, 12)] : []),
    `<g transform="translate(${pad} ${pad + head})">`,
    ...[...scene.dense, ...scene.marks].map(svg),
    "</g>",
    ...below.map((line, i) => words(line, pad + head + scene.height + 15 * (i + 1) + 4, colours.text2, 11)),
    "</svg>",
  ].join("\n");
}
