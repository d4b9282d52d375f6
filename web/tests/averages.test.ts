import { describe, expect, it } from "vitest";
import { averageArgs, checkOf, meanAt, pickKey, pickWords, readPick, usualTask } from "../src/lib/averages";
import type { PlainView } from "../src/views/kinds/plain";

const map = { kind: "heat_map", values: [[1, 2], [3, null]], low: [[0, 1], [2, null]], high: [[2, 3], [4, null]], note: "Few. Task check passed; 90%." } as unknown as PlainView;

describe("an average over a task", () => {
  it("is asked for with all that its prompts are drawn by", () => {
    expect(averageArgs({ id: "ioi", n: 8 }, { of: "heads" })).toEqual({ data: { kind: "task", task: "ioi", n: 8, seed: 0, prefixes: false }, of: "heads" });
  });
  it("is named in the address, and nothing else is", () => {
    expect(readPick(pickKey({ id: "greater-than", n: 40 }))).toEqual({ id: "greater-than", n: 40 });
    expect(readPick("ioi.9999")).toEqual({ id: "ioi", n: 500 });
    for (const text of [null, "ioi", "ioi.-3", "a b.4"]) expect(readPick(text)).toBeNull();
    expect(usualTask().n).toBeGreaterThan(1);
  });
  it("is over a set of the shelf, by any name", () => {
    const pick = { set: "my set.16: names" };
    expect(readPick(pickKey(pick))).toEqual(pick);
    expect(averageArgs(pick, { of: "metric" })).toEqual({ data: { kind: "item", name: "my set.16: names" }, of: "metric" });
    expect(pickWords(pick)).toBe("the set my set.16: names");
    expect(pickWords({ id: "ioi", n: 3 }, [{ id: "ioi", title: "Indirect object" }])).toBe("3 prompts of Indirect object");
    expect(readPick("set:")).toBeNull();
  });
  it("has a mean and an interval in every cell of a map, a curve or a table", () => {
    expect(meanAt([map], 1, 0)).toEqual({ mean: 3, low: 2, high: 4 });
    expect(meanAt([map], 1, 1)).toBeNull();
    expect(meanAt([map], 9, 9)).toBeNull();
    expect(meanAt([{ kind: "curve", lines: [{ y: [5, 6], low: [4, 5], high: [6, 7] }] } as unknown as PlainView], 1)).toEqual({ mean: 6, low: 5, high: 7 });
    expect(meanAt([{ kind: "table", rows: [[1, 0, 2]] } as unknown as PlainView])).toEqual({ mean: 1, low: 0, high: 2 });
    expect(meanAt(null)).toBeNull();
  });
  it("says what the task check found", () => {
    expect(checkOf([map])).toBe("Task check passed; 90%.");
    expect(checkOf([{ kind: "table", note: "" } as unknown as PlainView])).toBe("");
  });
});
