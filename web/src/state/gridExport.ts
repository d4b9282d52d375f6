/** Pictures of layers by tokens as files: their colours, what stands in their cells, and their numbers. */

import { pickWords } from "../lib/averages";
import { inUnit, UNIT_NAMES, type ValueUnit } from "../lib/format";
import { saidAt, siteOf, type Field } from "../lib/stream";
import { visible } from "../lib/tokens";
import { kindOf } from "../views/kinds/kinds";
import type { HeatMapView } from "../views/kinds/plain";
import { drawingOf } from "../views/kinds/savers";
import type { Sheet } from "../views/kinds/sheet";
import type { Drawing } from "../views/saved";
import type { App } from "./app.svelte";

const [GUTTER, COLUMN] = [110, 46];

function table(field: Field, tokens: string[], unit: ValueUnit): Sheet {
  const rows = Array.from({ length: field.rows * field.cols }, (_, cell) => {
    const [row, pos] = [Math.floor(cell / field.cols), cell % field.cols];
    return [siteOf(field, row), pos, JSON.stringify(tokens[pos] ?? ""), saidAt(field, cell), UNIT_NAMES[unit], JSON.stringify(field.texts?.[cell] ?? "")];
  });
  return { columns: ["site", "pos", "token", "value", "unit", "says"], rows };
}

/** A grid on screen as a file. */
export function gridDrawing(field: Field, tokens: string[], unit: ValueUnit, name: string, title: string, sentence: string, root: Element): Drawing {
  const each = <T>(of: (cell: number) => T): T[][] => Array.from({ length: field.rows }, (_, row) => Array.from({ length: field.cols }, (_, pos) => of(row * field.cols + pos)));
  const view: HeatMapView = {
    kind: "heat_map", values: each((cell) => (Number.isNaN(field.values[cell]) ? null : field.values[cell])),
    rows: Array.from({ length: field.rows }, (_, row) => siteOf(field, row)), columns: tokens.map((token, pos) => `${pos} ${visible(token)}`),
    title, row_title: "", column_title: "", unit: UNIT_NAMES[unit], scale: field.sequential ? "sequential" : "diverging", limit: field.scale, low: null, high: null,
    marks: [], note: sentence, texts: each((cell) => (field.texts ? visible(field.texts[cell]) : inUnit(saidAt(field, cell), unit))), bottom_up: true,
  };
  const width = GUTTER + COLUMN * field.cols;
  const drawing = drawingOf(title, [sentence], root, () => table(field, tokens, unit), (palette) => kindOf(view).draw(view, width, palette));
  return { ...drawing, name: `${name}-${title}` };
}

export function lensDrawing(app: App): Drawing | null {
  const { field, tokens, unit, show, token, through } = app.lens;
  const model = app.session.model;
  if (!field || !model) return null;
  const run = app.streams.mode === "delta" ? `${app.names.b} minus ${app.names.a}` : app.streams.mode === "edit" ? app.names.b : app.names.a;
  const of = show === "chance" || show === "rank" ? ` of ${token === null ? "what the run says" : visible(token)}` : "";
  const what = { top: "probability of the likeliest next token", chance: `probability${of}`, rank: `rank${of}`, kl: "KL to the run’s own next token", entropy: "entropy" }[show];
  return gridDrawing(field, tokens, unit, "lens", `${model.name} · ${through ? `tuned lens ${through}` : "logit lens"} · ${run}`, `Colour shows the ${what}, each layer read through ${through ? `the tuned lens ${through} and ` : ""}the final norm.`, app.host.root);
}

export function patchDrawing(app: App): Drawing | null {
  const { field, tokens, unit, sight, tracing, subject } = app.patch;
  const model = app.session.model;
  if (!field || !model) return null;
  const way = sight.mode === "denoise" ? "the clean run's values put into the corrupted one" : "the corrupted run's values put into the clean one";
  const what = { "activation-patching": "activation patching", "attribution-patching": "attribution patching, an estimate", "causal-tracing": "causal tracing" }[sight.sweep];
  const by = unit === "share" ? `share of the gap in ${sight.by === "log_prob" ? "log-probability" : "the logit difference"} ${app.answers}` : sight.by === "log_prob" ? "log-probability" : `logit difference ${app.answers}`;
  if (app.patch.average) {
    const into = sight.mode === "denoise" ? "each prompt's values put into its partner's run" : "each partner's values put into its prompt's run";
    return gridDrawing(field, tokens, unit, "patch", `${model.name} · activation patching of ${sight.site} · ${pickWords(app.view.current.over)}`, `Colour shows the share of the mean gap in the logit difference of the answers; ${into}. Red raises it, blue lowers it. ${app.patch.check}`, app.host.root);
  }
  const how = tracing ? `noise hides tokens ${subject.join(", ")}, ${sight.window} layers of the clean run put back at once` : way;
  return gridDrawing(field, tokens, unit, "patch", `${model.name} · ${what} of ${sight.site}`, `Colour shows the ${by}; ${how}. Red raises it, blue lowers it.`, app.host.root);
}
