/** The colours in force, and values as colours. */

import { Diverging, DIVERGING, hex, inkOn, SEQUENTIAL, type RGB } from "../../lib/color";
import { topOf } from "../../lib/scale";
import { signed, type Colours } from "../look";
import { known, type Maybe } from "./numbers";
import type { ScaleName } from "./plain";

/** For groups and series: neither the reds and blues of a sign nor the violets of a probability stand first. */
const SERIES = ["--text", "--freeze", "--warn", "--accent", "--ok", "--text-3"];

export interface Palette {
  diverging: Diverging;
  sequential: RGB[];
  series: string[];
  surface: string;
  sunken: string;
  text: string;
  text2: string;
  text3: string;
  line: string;
  line2: string;
}

export function readPalette(element: Element): Palette {
  const style = getComputedStyle(element);
  const get = (name: string) => style.getPropertyValue(name).trim() || "#808080";
  return {
    diverging: new Diverging(DIVERGING.map((name) => hex(get(name)))),
    sequential: SEQUENTIAL.map((name) => hex(get(name))),
    series: SERIES.map(get),
    surface: get("--surface"),
    sunken: get("--sunken"),
    text: get("--text"),
    text2: get("--text-2"),
    text3: get("--text-3"),
    line: get("--line"),
    line2: get("--line-2"),
  };
}

/** How values become colours: full at `high`; clipped beyond. */
export interface ColorScale extends Colours {
  name: ScaleName;
  low: number;
  high: number;
  /** Its colours from low to high, for the legend. */
  stops: string[];
}

const css = (color: RGB): string => `rgb(${color.join(",")})`;

export function colorScale(values: Maybe[], name: ScaleName, limit: number | null, palette: Palette): ColorScale {
  const finite = values.filter((value): value is number => known(value) && Number.isFinite(value));
  if (name === "diverging") {
    const high = limit ?? topOf(Float32Array.from(finite, Math.abs), 0.985);
    const of = palette.diverging;
    return {
      name, low: -high, high, ...signed(of, high),
      stops: of.stops.map(css),
    };
  }
  const low = finite.reduce((least, value) => Math.min(least, value), 0);
  const most = finite.reduce((most, value) => Math.max(most, value), low);
  const high = Math.max(limit ?? most, low) > low ? (limit ?? most) : low + 1;
  const at = (value: number): RGB => {
    const x = Math.max(0, Math.min(1, (value - low) / (high - low))) * (palette.sequential.length - 1);
    const i = Math.min(Math.floor(x), palette.sequential.length - 2);
    return palette.sequential[i].map((a, k) => Math.round(a + (palette.sequential[i + 1][k] - a) * (x - i))) as RGB;
  };
  return {
    name, low, high,
    color: (value) => css(at(value)),
    ink: (value) => inkOn(at(value)),
    clipped: (value) => value > high + (high - low) * 1e-3,
    stops: palette.sequential.map(css),
  };
}
