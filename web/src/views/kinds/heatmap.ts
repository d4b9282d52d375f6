import type { Kind } from "./kinds";
import { drawMatrix } from "./matrix";
import { asLabel } from "../../lib/tokens";
import { known, number, signedNumber, type Maybe } from "./numbers";
import { colorScale } from "./palette";
import type { HeatMapView, Value } from "./plain";
import type { Sheet } from "./sheet";

/** A number is written into its cell from this share of the full colour on; in large maps, into the largest only. */
const LOUD = 0.25;
const LARGE = 120;
/** Room for a word. */
const READABLE = 32;
const MOST_WRITTEN = 0.25;

function loudness(view: HeatMapView, full: number): number {
  const sizes = view.values.flat().filter(known).map(Math.abs).sort((a, b) => b - a);
  return Math.max(LOUD * full, sizes.length > LARGE ? sizes[Math.floor(MOST_WRITTEN * sizes.length)] : 0);
}

const said = (view: HeatMapView, value: Maybe): string =>
  (view.scale === "diverging" ? signedNumber(value) : number(value)) + (view.unit && known(value) ? ` ${view.unit}` : "");

const between = (view: HeatMapView, row: number, column: number): string | null =>
  view.low && view.high ? `${number(view.low[row][column])} to ${number(view.high[row][column])}` : null;

/** One line a cell: what a file, and a wide map's table, hold. */
function long(view: HeatMapView): Sheet {
  const columns = [view.row_title || "row", view.column_title || "column", view.unit || "value"];
  if (view.low) columns.push("low", "high");
  if (view.texts) columns.push("text");
  const rows = view.values.flatMap((row, r) =>
    row.map((value, c) => {
      const line: Value[] = [view.rows[r], view.columns[c], value];
      if (view.low && view.high) line.push(view.low[r][c], view.high[r][c]);
      if (view.texts) line.push(view.texts[r][c]);
      return line;
    }),
  );
  return { columns, rows };
}

const WIDE = 64;

export const heatMap: Kind<HeatMapView> = {
  about: (view) => `Heat map of ${view.rows.length} rows by ${view.columns.length} columns`,
  empty: (view) => !view.rows.length || !view.columns.length,
  notes: (view) => [view.note],
  draw(view, width, palette) {
    const order = view.rows.map((_, i) => (view.bottom_up ? view.rows.length - 1 - i : i));
    const scale = colorScale(view.values.flat(), view.scale, view.limit, palette);
    const loud = loudness(view, Math.max(Math.abs(scale.low), Math.abs(scale.high)));
    const digits = scale.high < 1.05 ? 2 : scale.high < 100 ? 1 : 0;
    return drawMatrix(
      {
        values: order.map((r) => view.values[r]),
        rows: order.map((r) => view.rows[r]),
        columns: view.columns,
        rowTitle: view.row_title,
        columnTitle: view.column_title,
        unit: view.unit,
        scale,
        inside(row, c) {
          const r = order[row];
          if (view.texts) return asLabel(view.texts[r][c].trim() || view.texts[r][c]);
          const value = view.values[r][c];
          if (!known(value) || Math.abs(value) < loud) return "";
          return Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : number(value);
        },
        words(row, c) {
          const r = order[row];
          const more = [view.texts ? asLabel(view.texts[r][c]) : null, between(view, r, c)].filter((text) => text !== null);
          const name = (title: string, label: string) => (title ? `${title} ${asLabel(label)}` : asLabel(label));
          const head = `${name(view.row_title, view.rows[r])} · ${name(view.column_title, view.columns[c])}`;
          const clipped = known(view.values[r][c]) && scale.clipped(view.values[r][c]!);
          return { head, value: said(view, view.values[r][c]), more: clipped ? [...more, "beyond the scale"] : more };
        },
        framed: view.marks.map(([r, c]) => [order.indexOf(r), c]),
        square: false,
        least: view.texts ? READABLE : undefined,
      },
      width,
      palette,
    );
  },
  table(view) {
    if (view.columns.length > WIDE) return long(view);
    const cells = (row: Maybe[], r: number) =>
      row.map((value, c): Value => {
        const parts = [view.low && `${number(value)} [${number(view.low[r][c])}, ${number(view.high![r][c])}]`, view.texts && asLabel(view.texts[r][c])];
        const text = parts.filter(Boolean).join(" ");
        return text ? (view.low ? text : `${text} ${number(value)}`) : value;
      });
    return { columns: [view.row_title, ...view.columns], rows: view.values.map((row, r) => [view.rows[r], ...cells(row, r)]) };
  },
  file: long,
};
