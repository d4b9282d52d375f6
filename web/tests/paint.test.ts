import { describe, expect, it } from "vitest";
import { Diverging, hex } from "../src/lib/color";
import { dressOf, paintToken } from "../src/views/paint";

const colours = new Diverging(["#2166ac", "#f7f7f5", "#b2182b"].map(hex));
const span = () => document.createElement("span");

describe("a painted token", () => {
  it("is red above zero, blue below, and the neutral at zero", () => {
    const all = [1, -1, 0].map((value) => {
      const element = span();
      paintToken(element, 0, { values: [value], scale: 1, sink: null, colours });
      return element.style.backgroundColor.replace(/\s/g, "");
    });
    expect(all).toEqual(["rgb(178,24,43)", "rgb(33,102,172)", "rgb(247,247,245)"]);
  });

  it("has no colour where there is no value, also after it had one", () => {
    const element = span();
    paintToken(element, 0, { values: [1], scale: 1, sink: null, colours });
    expect(element.style.color).not.toBe("");
    paintToken(element, 0, { values: null, scale: 1, sink: null, colours });
    expect([element.style.backgroundColor, element.style.color, element.style.backgroundImage]).toEqual(["", "", ""]);
  });

  it("is hatched as a sink, and ticked where it is cut off", () => {
    const look = (value: number, sink: number) => dressOf(0, { values: [value], scale: 1, sink: [sink], colours });
    expect(look(900, 1)).toMatchObject({ background: "", ink: "", image: expect.stringContaining("repeating") });
    expect(look(900, 0)).toMatchObject({ background: "rgb(178,24,43)", image: expect.stringContaining("225deg") });
    expect(look(0.5, 0).image).toBe("");
  });
});
