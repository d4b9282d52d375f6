import { describe, expect, it } from "vitest";
import type { TokenTableAnswer } from "../src/connect/wire";
import { columnsOf } from "../src/lib/companion";
import { alignedOf, besideOf, sheetOf, tokensOf } from "../src/lib/tokenTable";
import { csv } from "../src/views/kinds/sheet";

const token = (text: string, start: number) => ({ id: text.length, text, bytes: "20", sort: "text", start, end: start + text.length, word: 0, variants: [{ text: " a", tokens: 1 }] });
const answer: TokenTableAnswer = {
  reads: [
    { model: "one", text: " ab", tokens: [token(" ab", 0)] },
    { model: "two", text: " ab", tokens: [token(" a", 0), token("b", 2)] },
  ],
  aligned: [[0, 1, 0, 2]],
};

describe("the tables of tokens", () => {
  it("hold a line a token, and are written so that nothing in them is hidden", () => {
    const table = tokensOf(answer.reads[1]);
    expect(table.rows.map((row) => row.slice(0, 2))).toEqual([[0, 2], [1, 1]]);
    expect(csv(sheetOf(table)).split("\n")[1]).toBe("0,2,·a,20,text,0–2,0,·a 1");
  });

  it("of two models a line for each run that spells the same, or none", () => {
    const aligned = alignedOf(answer)!;
    expect(sheetOf(aligned).rows).toEqual([[0, "·ab", 0, "·a | b"]]);
    expect(alignedOf({ ...answer, aligned: null })).toBeNull();
  });

  it("of prompt and companion a line a column", () => {
    const [live, own] = [[{ id: 1, text: "a" }], [{ id: 1, text: "a" }, { id: 2, text: "b" }]];
    expect(sheetOf(besideOf(live, own, columnsOf(live, own, [[0, 0]]))).rows).toEqual([
      [0, 1, "a", 0, 1, "a", ""], [null, null, null, 1, 2, "b", "only in the companion"],
    ]);
  });
});
