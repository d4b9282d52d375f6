import { describe, expect, it } from "vitest";
import { columnsOf, differing, places } from "../src/lib/companion";
import { pairsIn, pairsWritten } from "../src/lib/forms";

const toks = (text: string) => [...text].map((character) => ({ id: character.charCodeAt(0), text: character }));

describe("a prompt and its companion", () => {
  it("stand in columns: kept and exchanged tokens in one, the others alone", () => {
    const columns = columnsOf(toks("abcd"), toks("axcyd"), [[0, 0], [1, 1], [2, 2], [3, 4]]);
    expect(columns.map(({ live, own, kind }) => [live, own, kind])).toEqual([
      [0, 0, "same"], [1, 1, "exchanged"], [2, 2, "same"], [null, 3, "added"], [3, 4, "same"],
    ]);
    expect(differing(columns)).toBe("2 differ");
  });

  it("have every token of both once, in order", () => {
    const columns = columnsOf(toks("xxab"), toks("abyy"), [[2, 0], [3, 1]]);
    expect(columns.flatMap(({ live }) => live ?? [])).toEqual([0, 1, 2, 3]);
    expect(columns.flatMap(({ own }) => own ?? [])).toEqual([0, 1, 2, 3]);
    expect(columns.map(({ kind }) => kind)).toEqual(["missing", "missing", "same", "same", "added", "added"]);
    expect(differing(columnsOf(toks("a"), toks("b"), [[0, 0]]))).toBe("1 differs");
    expect(differing(columnsOf(toks("a"), toks("a"), [[0, 0]]))).toBe("the same tokens");
  });

  it("of long ones the places where they differ, with what stands about them", () => {
    const [live, own] = [toks("a".repeat(40)), toks(`${"a".repeat(10)}b${"a".repeat(3)}c${"a".repeat(24)}d`)];
    const columns = columnsOf(live, own, live.map((_, i) => [i, i]));
    expect(places(columns, 2)).toEqual([[8, 17], [37, 40]]);
    expect(places(columnsOf(live, live, live.map((_, i) => [i, i])), 2)).toEqual([]);
  });
});

describe("pairs of positions", () => {
  it("are typed as they are shown", () => {
    expect(pairsIn("4:5, 6 : 7")).toEqual([[4, 5], [6, 7]]);
    expect(pairsIn(pairsWritten([[4, 5], [6, 7]]))).toEqual([[4, 5], [6, 7]]);
    for (const text of ["", "4", "a:b", "-1:2"]) expect(pairsIn(text)).toBeNull();
  });
});
