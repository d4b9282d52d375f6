import { describe, expect, it } from "vitest";
import { Diverging, hex, inkOn, luminance, type RGB } from "../src/lib/color";

const LIGHT = "#2166ac #4393c3 #92c5de #d1e5f0 #f7f7f5 #fddbc7 #f4a582 #d6604d #b2182b".split(" ").map(hex);
const DARK = "#86c5ff #4a9be0 #2c6ba6 #21405c #1c2024 #56302d #9a3f38 #dc6350 #ffae94".split(" ").map(hex);
const css = (color: RGB) => `rgb(${color.join(",")})`;

describe("a colour of the page's style", () => {
  it("is read as written, and as a minifier writes it", () => {
    expect(hex("#1a2b3c")).toEqual([26, 43, 60]);
    expect(hex(" #fff")).toEqual([255, 255, 255]);
    expect(hex("#09c")).toEqual(hex("#0099cc"));
  });
});

describe.each([["light", LIGHT], ["dark", DARK]])("the %s diverging scale", (_, stops) => {
  const scale = new Diverging(stops);

  it("gives zero exactly the neutral colour", () => {
    expect(scale.color(0, 3)).toBe(css(stops[4]));
    expect(scale.color(-0, 3)).toBe(css(stops[4]));
    expect(scale.color(NaN, 3)).toBe(css(stops[4]));
  });

  it("is red above and blue below", () => {
    for (const t of [0.2, 0.5, 1]) {
      const [r, , b] = scale.at(t);
      expect(r).toBeGreaterThan(b);
      const [r2, , b2] = scale.at(-t);
      expect(b2).toBeGreaterThan(r2);
    }
  });

  it("is symmetric in its stops: t and -t are equally far along", () => {
    for (let i = 0; i <= 4; i++) {
      expect(scale.at(i / 4)).toEqual(stops[4 + i]);
      expect(scale.at(-i / 4)).toEqual(stops[4 - i]);
    }
  });

  it("clips beyond the scale", () => {
    expect(scale.color(7, 2)).toBe(css(stops[8]));
    expect(scale.color(-Infinity, 2)).toBe(css(stops[0]));
    expect(scale.color(-7, 2)).toBe(css(stops[0]));
  });

  it("keeps text on every cell at WCAG AA", () => {
    for (let t = -1; t <= 1; t += 1 / 64) {
      const cell = luminance(scale.at(t));
      const ink = luminance(hex(inkOn(scale.at(t))));
      const contrast = (Math.max(cell, ink) + 0.05) / (Math.min(cell, ink) + 0.05);
      expect(contrast).toBeGreaterThanOrEqual(4.5);
    }
  });
});
