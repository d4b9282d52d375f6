import { Diverging, hex } from "../src/lib/color";
import type { Palette } from "../src/views/kinds/palette";

const DIVERGING = ["#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f5", "#fddbc7", "#f4a582", "#d6604d", "#b2182b"];

/** The light theme's colours, as the page has them. */
export const palette: Palette = {
  diverging: new Diverging(DIVERGING.map(hex)),
  sequential: ["#fff", "#eceaf6", "#cfcae8", "#a69cd3", "#7566b5", "#41307f"].map(hex),
  series: ["#1a1b1e", "#0b6570", "#855000", "#4b38b0", "#17683a", "#62666c"],
  surface: "#fff", sunken: "#f3f3f0", text: "#1a1b1e", text2: "#4e5157", text3: "#62666c", line: "#e3e3de", line2: "#cbcbc4",
};
