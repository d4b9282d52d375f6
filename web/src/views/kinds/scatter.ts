import type { Kind } from "./kinds";
import { swatches } from "./legend";
import { asLabel } from "../../lib/tokens";
import { known, number } from "./numbers";
import type { ScatterView, Value } from "./plain";
import { axes, domainOf, referenced, titled } from "./plot";
import type { Mark } from "./scene";

const MOST = 860;
const SQUARE = 430;
const HEIGHT = 280;
/** From here on, one canvas. */
const MANY = 500;
const REACH = 14;

export const scatter: Kind<ScatterView> = {
  about: (view) => `Scatter of ${view.x.length} points`,
  empty: (view) => !view.x.length,
  notes(view) {
    const lost = view.x.filter((_, i) => !drawn(view, i)).length;
    return [view.note, ...(lost ? [`${lost} not drawn: a coordinate is not finite`] : [])];
  },
  draw(view, room, palette) {
    const width = Math.min(room, view.diagonal ? SQUARE : MOST);
    const names = [...new Set(view.groups ?? [])];
    const group = new Map(names.map((name, i) => [name, i]));
    const groupOf = (i: number) => (view.groups ? group.get(view.groups[i])! : 0);
    const color = (g: number) => palette.series[g % palette.series.length];
    const ring = (g: number) => g >= palette.series.length; // once the colours are used up
    const entries = names.map((name, i) => ({ name: asLabel(name), color: color(i), shape: ring(i) ? ("ring" as const) : ("dot" as const) }));
    const legend = swatches(entries, width, palette);
    const here = view.x.map((_, i) => i).filter((i) => drawn(view, i));
    let x = domainOf([...here.map((i) => view.x[i]), ...referenced(view.references, "x")]);
    let y = domainOf([...here.map((i) => view.y[i]), ...referenced(view.references, "y")]);
    if (view.diagonal) x = y = [Math.min(x[0], y[0]), Math.max(x[1], y[1])];
    const height = view.diagonal ? Math.max(160, width - 60) : HEIGHT;
    const plot = axes(
      { width, top: legend.height, height, x, y, xTitle: titled(view.x_title, view.unit), yTitle: titled(view.y_title, view.unit), references: view.references },
      palette,
    );
    const small = here.length > MANY;
    const points = here.map((i): Mark => {
      if (view.emphasis?.includes(i))
        return { kind: "circle", x: plot.x(view.x[i]!), y: plot.y(view.y[i]!), r: 6, fill: color(groupOf(i)), stroke: palette.surface, opacity: 1 };
      const paint = color(groupOf(i));
      const filled = ring(groupOf(i)) ? { fill: palette.surface, stroke: paint } : { fill: paint, stroke: "none" };
      return { kind: "circle", x: plot.x(view.x[i]!), y: plot.y(view.y[i]!), r: small ? 2 : 3, ...filled, opacity: small ? 0.55 : 0.75 };
    });
    const marks = [...legend.marks, ...plot.marks];
    if (view.diagonal) marks.push({ kind: "path", d: `M${plot.left} ${plot.bottom}L${plot.right} ${plot.top}`, stroke: palette.text3, dash: "3 3" });
    const at = (k: number) => ({ x: plot.x(view.x[here[k]]!), y: plot.y(view.y[here[k]]!) });
    const byX = here.map((_, k) => k).sort((a, b) => at(a).x - at(b).x);
    const rank = new Map(byX.map((k, i) => [k, i]));
    return {
      width, height: plot.height, dense: small ? points : [], marks: small ? marks : [...marks, ...points],
      reader: {
        count: here.length,
        at(px, py) {
          let [best, least] = [-1, REACH * REACH];
          here.forEach((_, k) => {
            const point = at(k);
            const away = (point.x - px) ** 2 + (point.y - py) ** 2;
            if (away < least) [best, least] = [k, away];
          });
          return best < 0 ? null : best;
        },
        box: (k) => ({ x: at(k).x - 5, y: at(k).y - 5, w: 10, h: 10 }),
        words(k) {
          const i = here[k];
          const more = [view.texts && asLabel(view.texts[i]), view.groups && asLabel(view.groups[i])].filter((text) => text !== null);
          return { head: `${titled(view.x_title, "") || "x"} · ${titled(view.y_title, "") || "y"}`, value: `${number(view.x[i])} · ${number(view.y[i])}`, more };
        },
        // from left to right: the arrow keys pass every point once
        step: (k, dx, dy) => byX[Math.max(0, Math.min(byX.length - 1, rank.get(k)! + dx + dy))],
      },
    };
  },
  table(view) {
    const columns = [view.x_title || "x", view.y_title || "y", ...(view.groups ? ["group"] : []), ...(view.texts ? ["text"] : [])];
    const rows = view.x.map((x, i): Value[] => [x, view.y[i], ...(view.groups ? [view.groups[i]] : []), ...(view.texts ? [view.texts[i]] : [])]);
    return { columns, rows };
  },
};

function drawn(view: ScatterView, i: number): boolean {
  return [view.x[i], view.y[i]].every((value) => known(value) && Number.isFinite(value));
}
