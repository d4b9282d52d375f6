import { readPaint } from "../lib/color";
import { nodeName, nodeSite, type Node } from "../lib/map";
import { flowLayout } from "../lib/mapFlow";
import { layOut, type MapLayout } from "../lib/mapLayout";
import { drawn } from "../lib/mapPaths";
import { AS_IT_IS, inTheme, onPaper, roomOn, type Paper } from "../lib/paper";
import { colourBar, LEGEND_HEIGHT } from "../views/kinds/legend";
import { colorScale, readPalette, type Palette } from "../views/kinds/palette";
import { PAD, svgFile, type Mark } from "../views/kinds/scene";
import type { Sheet } from "../views/kinds/sheet";
import { axes, flowMarks, headOf } from "../views/mapFlow";
import { mapMarks, type MapPicture } from "../views/mapScene";
import { tintMarks } from "../views/mapTints";
import type { Drawing } from "../views/saved";
import { visible } from "../lib/tokens";
import type { App } from "./app.svelte";
import type { MapStore } from "./map.svelte";

/** A paper's column and a half: letters of 9 px are then readable. */
const SIZE = { width: 780, height: 700 };

const TINTS: Record<string, string> = {
  direct: "direct effect", attention: "attention", ablation: "change if ablated", weights: "weights changed, %",
  "previous-token": "previous-token score", "current-token": "current-token score", "first-token": "first-token score", "duplicate-token": "duplicate-token score", induction: "induction score",
};

/** What colour is, in words. */
export const tintName = ({ tintBy, attended, tokens }: MapStore): string => (tintBy === "attention" ? `attention to ${attended} ${visible(tokens[attended] ?? "")}` : TINTS[tintBy]);

/** What the map shows, laid out in a room of its own. */
export function mapPicture(app: App, room: { width: number; height: number }, cells: Parameters<typeof layOut>[4] = {}): MapPicture | null {
  const { map } = app;
  const { data, tint } = map;
  if (!data || !tint) return null;
  const logits = (which: "a" | "b") => {
    const held = app.streams.shown?.[which];
    const [all, cols] = [held?.logits?.raw, held?.data.cols ?? 0];
    return all && data.pos < cols ? Array.from({ length: all.length / cols }, (_, row) => all[row * cols + data.pos]) : [];
  };
  const [a, b] = [logits("a"), logits("b")];
  const { mode } = app.streams;
  return {
    layout: layOut(data.layers, data.heads, map.at.layer, room, cells), data, tint, scale: map.scale, effects: map.effects, layer: map.layer, lens: map.lens,
    curve: mode === "base" ? a : mode === "edit" ? b : b.map((value, i) => value - a[i]), before: mode === "edit" ? a : [],
    acts: mode === "base" ? new Map() : map.acts, was: map.tintBy === "direct" ? map.before : null, tokens: map.tokens, shared: app.session.model?.shared ?? [], delta: mode === "delta",
  };
}

export function mapTitle(app: App): string {
  const run = app.streams.mode === "delta" ? `${app.names.b} minus ${app.names.a}` : app.streams.mode === "edit" ? app.names.b : app.names.a;
  return `${app.session.model?.name ?? ""} · map · logit ${app.answers} · ${run}`;
}

/** Every number of the map, a line each. */
export function mapSheet(app: App): Sheet {
  const { data, tint, before } = app.map;
  const rows: Sheet["rows"] = [];
  if (!data || !tint) return { columns: [], rows };
  const line = (node: Node, effect: number, tinted: number | undefined, was: number | undefined) =>
    rows.push([nodeName(node), nodeSite(node), node.layer, node.head, effect, tinted ?? null, was ?? null]);
  for (let layer = data.layers - 1; layer >= 0; layer--) {
    for (let head = 0; head < data.heads; head++) {
      const i = layer * data.heads + head;
      line({ layer, head }, data.effects[i], tint.heads[i], before?.effects[i]);
    }
    if (data.mlp) line({ layer, head: null }, data.mlp[layer], tint.mlp?.[layer], before?.mlp?.[layer]);
  }
  for (const [name, value] of Object.entries(data.terms)) rows.push([name, name, null, null, value, null, before?.terms[name] ?? null]);
  return { columns: ["part", "site", "layer", "head", "direct effect (logits)", tintName(app.map), "baseline (logits)"], rows };
}

/** The paths of the stack, as on screen. */
const arrows = (app: App, layout: MapLayout, { series }: Palette): Mark[] =>
  app.streams.mode === "base" ? [] : drawn(app.paths.shown, layout).map(({ d }) => ({ kind: "path", d, stroke: series[3], width: 1.6 }));

/** The smallest letters of the map, in pixels. */
const LEAST = 8;
const reader = { count: 0, at: () => null, box: () => ({ x: 0, y: 0, w: 0, h: 0 }), words: () => ({ head: "", value: "" }), step: (i: number) => i };

export function mapDrawing(app: App, { mm, theme }: Paper = AS_IT_IS): Drawing | null {
  const width = mm === null ? SIZE.width : roomOn(mm, LEAST) - 2 * PAD;
  const shown = mapPicture(app, { width, height: mm === null ? SIZE.height : Math.max(360, Math.min(SIZE.height, 1.05 * width)) }, mm === null ? {} : { narrowest: 1.5 });
  if (!shown) return null;
  const title = mapTitle(app);
  const notes = [`Cells: ${tintName(app.map)}${app.map.unit === "logits" ? ", red raises the logit difference, blue lowers it" : ""}; ink: attention, rows query and columns key.${shown.layout.curve.w ? " Line: logit lens; dashed: sum of direct effects." : ""}`];
  return {
    name: title, title, notes, sheet: () => mapSheet(app),
    svg: () => {
      const [palette, paint] = inTheme(app.host.root, theme, (root) => [readPalette(root), readPaint(root)] as const);
      const { layout } = shown;
      const scale = colorScale([], "diverging", shown.scale, palette);
      const bar = colourBar(scale, app.map.unit, layout.width, palette).flatMap((mark) => (mark.kind === "path" ? [] : [{ ...mark, y: mark.y + layout.height }]));
      const scene = { width: layout.width, height: layout.height + LEGEND_HEIGHT, dense: [], marks: [...tintMarks(shown, paint), ...mapMarks(shown, palette), ...arrows(app, layout, palette), ...bar], reader };
      const svg = svgFile(scene, title, notes, palette);
      return mm === null ? svg : onPaper(svg, mm);
    },
  };
}

/** The open layer from within. */
export function flowDrawing(app: App, { mm, theme }: Paper = AS_IT_IS): Drawing | null {
  const { map } = app;
  const layer = map.open.drawn;
  if (!layer) return null;
  const of = map.flowOf;
  const room = mm === null ? SIZE.width : roomOn(mm, LEAST) - 2 * PAD;
  const layout = flowLayout(layer.sites, room, mm === null || room > 480 ? "wide" : "column");
  const title = `${app.session.model?.name ?? ""} · layer ${layer.layer} from within · ${app.streams.mode === "base" ? app.names.a : app.names.b}`;
  const same = layer.sites.filter((row) => row.same).map((row) => `${row.site} is ${row.same}`);
  const whose = of.head === null ? "all heads together" : `head ${of.head}`;
  const notes = [`At position ${layer.pos}, ${whose}: lengths; of scores and pattern the largest value, and its key. x: what a branch reads.${same.length ? ` ${same.join("; ")}.` : ""}`];
  return {
    name: title, title, notes,
    sheet: () => ({
      columns: ["site", "shape", "equation", "read from", "what stands there", "value", "at"],
      rows: layer.sites.map((row) => {
        const i = headOf(row, of) ?? 0;
        return [row.place, axes(row), row.equation, row.reads.join(" "), row.about, row.values[i] ?? null, row.where?.[i] ?? null];
      }),
    }),
    svg: () => {
      const palette = inTheme(app.host.root, theme, readPalette);
      const svg = svgFile({ width: layout.width, height: layout.height, dense: [], marks: flowMarks(layout, of, palette), reader }, title, notes, palette);
      return mm === null ? svg : onPaper(svg, mm);
    },
  };
}
