import { describe, expect, it } from "vitest";
import { asText, placeWords, runWords, sentence, siteWords, type Part, type Told } from "../src/lib/sentence";
import { info } from "./fake";

const told = (more: Partial<Told> = {}): Told => ({
  direction: "mix", answers: "Mary − John", terms: [{ label: "PC 7", weight: 1 }], places: ["layer 0"], absent: false, zero: false,
  row: "layer 0", unit: "centred", run: "this prompt", compared: false, ...more,
});
const say = (more: Partial<Told> = {}): string => asText(sentence(told(more)));
const picks = (parts: Part[]): string[] => parts.flatMap((part) => (typeof part === "string" ? [] : [part.pick]));

describe("the sentence", () => {
  it.each<[string, Partial<Told>, string]>([
    ["a component", {}, "Colour shows PC 7 of layer 0, read at layer 0, as centred, on this prompt"],
    ["a component, read elsewhere, raw", { row: "layer 9", unit: "raw" }, "Colour shows PC 7 of layer 0, read at layer 9, as raw x·d, on this prompt"],
    ["its cosine", { unit: "cos" }, "Colour shows PC 7 of layer 0, read at layer 0, as cosine, on this prompt"],
    ["one standardised", { unit: "standardised" }, "Colour shows PC 7 of layer 0, read at layer 0, as standardised, on this prompt"],
    ["a component turned round", { terms: [{ label: "PC 7", weight: -0.5 }] }, "Colour shows the reverse of PC 7 of layer 0, read at layer 0, as centred, on this prompt"],
    ["a mix of one place", { terms: [{ label: "PC 7", weight: 1 }, { label: "PC 3", weight: 1 }], places: ["layer 0", "layer 0"] }, "Colour shows a mix of 2 directions of layer 0, read at layer 0, as centred, on this prompt"],
    ["a mix of three places", { terms: Array(3).fill({ label: "PC", weight: 1 }), places: ["layer 0", "layer 9", "mlp_out.3"] }, "Colour shows a mix of 3 directions of layer 0, layer 9 and mlp_out.3, read at layer 0, as centred, on this prompt"],
    ["a mix of two layers", { terms: Array(2).fill({ label: "PC", weight: 1 }), places: ["layer 23", "layer 10"] }, "Colour shows a mix of 2 directions of layers 23 and 10, read at layer 0, as centred, on this prompt"],
    ["a saved direction", { terms: [{ label: "“speech”", weight: 1 }], places: ["layer 4"] }, "Colour shows “speech” of layer 4, read at layer 0, as centred, on this prompt"],
    ["a feature", { terms: [{ label: "sae 20000", weight: 1 }], unit: "activation", places: ["mlp_in.12"], row: "mlp_in.12" }, "Colour shows sae 20000 of mlp_in.12, read at mlp_in.12, as activation, on this prompt"],
    ["a feature with a component", { terms: Array(2).fill({ label: "", weight: 1 }), unit: "mixed", places: ["layer 0"] }, "Colour shows a mix of 2 directions of layer 0, read at layer 0, as a weighted sum, centred, on this prompt"],
    ["an unembedding row", { terms: [{ label: "·Mary", weight: 1 }], unit: "folded", places: ["final_norm"], row: "layer 29" }, "Colour shows ·Mary of final_norm, read at layer 29, as norm-folded logits, on this prompt"],
    ["the answers", { direction: "logit", unit: "logit-centred", row: "layer 29" }, "Colour shows Mary − John, read through the final norm at layer 29, as centred logits, on this prompt"],
    ["the answers, raw, edited", { direction: "logit", unit: "logit", row: "layer 29", run: "this prompt, edited", compared: true }, "Colour shows Mary − John, read through the final norm at layer 29, as raw logits, on this prompt, edited"],
    ["no answers", { direction: "logit", answers: "" }, "Colour shows nothing: no two answers are chosen"],
    ["no weights", { terms: [], zero: true }, "Colour shows nothing: the weights over directions of layer 0 are all zero"],
    ["weights that cancel", { terms: Array(2).fill({ label: "", weight: 1 }), zero: true }, "Colour shows nothing: the weights over directions of layer 0 cancel"],
    ["no dictionary at all", { terms: [], zero: true, places: [] }, "Colour shows nothing: the weights are all zero"],
    ["one that is not here", { absent: true }, "Colour shows nothing: its directions are not here"],
  ])("of %s", (_, more, wanted) => expect(say(more)).toBe(wanted));

  it("offers each part that it names to be chosen, and the run only where there are two", () => {
    expect(picks(sentence(told()))).toEqual(["direction", "place", "row", "unit"]);
    expect(picks(sentence(told({ compared: true })))).toEqual(["direction", "place", "row", "unit", "run"]);
    expect(picks(sentence(told({ direction: "logit" })))).toEqual(["direction", "row", "unit"]);
  });

  it("can always be got out of: whatever it says, the direction is chosen anew", () => {
    for (const direction of ["logit", "mix"] as const)
      for (const answers of ["", "a − b"])
        for (const absent of [true, false])
          for (const zero of [true, false]) expect(picks(sentence(told({ direction, answers, absent, zero })))[0]).toBe("direction");
  });
});

describe("places", () => {
  it("are called as people say them, and as in code where they have no such name", () => {
    expect(["embed", "resid_pre.0", "resid_pre.4", "resid_mid.4", "resid_post.4", "mlp_out.4", "final_norm"].map(siteWords)).toEqual(
      ["the embedding", "the embedding", "the input of layer 4", "the middle of layer 4", "layer 4", "mlp_out.4", "final_norm"]);
  });
  it("keep apart two dictionaries of one site, and the heads of one layer", () => {
    expect([placeWords(info("pca@resid_post.4#2")), placeWords(info("pca@z.0.h1", { site: "z.0", head: 1, place: "z.0 head 1" }))]).toEqual(["layer 4 (#2)", "z.0 head 1"]);
  });
});

describe("runs", () => {
  const both = { a: "baseline", b: "edited" };
  it("are this prompt until something is compared with it", () => {
    expect(runWords("base", both, false)).toBe("this prompt");
    expect((["base", "edit", "delta"] as const).map((mode) => runWords(mode, both, true))).toEqual(["this prompt, unedited", "this prompt, edited", "what the edits change"]);
    expect((["base", "edit", "delta"] as const).map((mode) => runWords(mode, { a: "other prompt", b: "baseline" }, true))).toEqual(["another prompt", "this prompt, unedited", "the difference, baseline minus other prompt"]);
  });
});
