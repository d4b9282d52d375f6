import { describe, expect, it } from "vitest";
import { binned, strongest } from "../src/lib/bins";
import type { QueryAnswers } from "../src/connect/connector";
import { parseSafetensors } from "../src/connect/safetensors";
import { breakLines, inline, lineEnd, lineOf } from "../src/lib/lines";
import { context, neighbours, pageScale, placeOf, ranked, readPage, readRow } from "../src/lib/prompts";
import { f32, pack, u8 } from "./pack";

const prompt = (text: string, own = false) => ({ text, own, tokens: [...text].map((c, id) => ({ id, text: c })), next: [] });

describe("lines of running text", () => {
  const widths = [30, 30, 30, 50, 200, 10];

  it("take as many tokens as fit, and one that is too wide alone", () => {
    expect([...breakLines(widths, 100)]).toEqual([0, 3, 4, 5]);
    expect([...breakLines(widths, 1000)]).toEqual([0]);
    expect([...breakLines([], 100)]).toEqual([]);
  });

  it("hold every token once, in order", () => {
    const starts = breakLines(widths, 100);
    const held = [...starts].flatMap((start, n) => Array.from({ length: lineEnd(starts, n, widths.length) - start }, (_, i) => start + i));
    expect(held).toEqual(widths.map((_, i) => i));
    for (let i = 0; i < widths.length; i++) {
      const n = lineOf(starts, i);
      expect(starts[n] <= i && i < lineEnd(starts, n, widths.length)).toBe(true);
    }
  });

  it("show newlines and tabs, and leave spaces", () => expect(inline(" a\r\n\tb")).toBe(" a␍↵⇥b"));
});

describe("a page of prompts", () => {
  const page = readPage({ id: "p1", prompts: [prompt("ab", true), prompt("cde")] });

  it("numbers its tokens through", () => {
    expect([...page.starts]).toEqual([0, 2, 5]);
    expect([0, 1, 2, 4].map((token) => placeOf(page, token))).toEqual([
      { prompt: 0, pos: 0 }, { prompt: 0, pos: 1 }, { prompt: 1, pos: 0 }, { prompt: 1, pos: 2 },
    ]); // prettier-ignore
  });

  it("scales without the first token of each prompt", () => {
    const values = Float32Array.from([900, -2, -900, 1, 3]);
    expect(pageScale(values, page.starts)).toBe(3);
    expect(pageScale(new Float32Array(5), page.starts)).toBe(1);
  });

  it("reads a row in a dictionary's coordinates", () => {
    const file = parseSafetensors<QueryAnswers["prompts_coef"]>(pack({ coef: f32([2, 3], [1, 2, 3, 4, 5, 6]), offset: f32([3], [0, 0, 1]), norm: f32([2], [1, 2]), sink: u8([2], [0, 1]) }));
    const row = readRow(file);
    expect([row.k, row.coef.length, row.sigma, [...row.sink]]).toEqual([3, 6, null, [0, 1]]);
  });
});

describe("neighbours along a direction", () => {
  const values = [5, NaN, -1, 3, 4, 0];
  const order = ranked(values);

  it("are the next above and below, greatest first", () => {
    expect([...order]).toEqual([2, 5, 3, 4, 0]);
    expect(neighbours(order, 3, 4)).toEqual({ above: [0, 4], below: [5, 2] });
    expect(neighbours(order, 3, 1)).toEqual({ above: [4], below: [5] });
  });

  it("of what has no value there are none", () => expect(neighbours(order, 1, 4)).toEqual({ above: [], below: [] }));

  it("come with what stands around them", () => {
    const tokens = ["The", " cat", " sat", " down"].map((text) => ({ text }));
    expect(context(tokens, 2)).toEqual({ before: "The cat", text: " sat", after: " down" });
    expect(context(tokens, 0)).toEqual({ before: "", text: "The", after: " cat sat down" });
  });
});

describe("several tokens to a column", () => {
  const field = {
    rows: 2, cols: 5, scale: 1,
    values: Float32Array.from([900, -2, 1, 3, -0.5, NaN, NaN, 1, -4, 700]),
    sink: Uint8Array.from([1, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
  }; // prettier-ignore

  it("show the value farthest from zero, an attention sink only where there is nothing else", () => {
    const found = binned(field, 2);
    expect([found.cols, ...found.values]).toEqual([3, -2, 3, -0.5, NaN, -4, 700]);
    expect([...found.sink]).toEqual([0, 0, 0, 0, 0, 1]);
    expect(strongest(field, 0, 1, 2)).toBe(3);
  });

  it("one to a column is the field itself", () => expect(binned(field, 1)).toBe(field));
});
