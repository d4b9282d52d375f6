import { describe, expect, it } from "vitest";
import type { QueryAnswers } from "../src/connect/connector";
import { parseSafetensors } from "../src/connect/safetensors";
import { inUnit } from "../src/lib/format";
import { robustScale } from "../src/lib/scale";
import { readLogits } from "../src/lib/stream";
import { f32, pack } from "./pack";

describe("the logit difference", () => {
  const file = parseSafetensors<QueryAnswers["logits"]>(pack({ value: f32([2, 2], [1, -2, 4.5, 0]), offset: f32([2, 2], [0.5, -3, NaN, NaN]) }));

  it("is centred by taking the data-set mean's share away, and unknown where that is", () => {
    const { raw, centred } = readLogits(file);
    expect([...raw]).toEqual([1, -2, 4.5, 0]);
    expect([...centred]).toEqual([0.5, 1, NaN, NaN]);
  });

  it("has a scale of the known cells alone", () => expect(robustScale(readLogits(file).centred, 2)).toBe(1));

  it("reads with two digits in both units, and a dash where it is not known", () => {
    expect([inUnit(4.256, "logit"), inUnit(-0.5, "logit-centred"), inUnit(NaN, "logit-centred")]).toEqual(["+4.26", "−0.50", "–"]);
  });
});
