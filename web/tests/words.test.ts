import { describe, expect, it } from "vitest";
import { COMMANDS, MORE } from "../src/state/commands";
import { ranked } from "../src/lib/words";

const commands = [...COMMANDS, ...MORE].filter(({ keys }) => keys.length < 2);
const layers = Array.from({ length: 30 }, (_, layer) => ({ label: `Layer ${layer}`, words: "" }));
const all = [...commands, ...layers, { label: "Ablation sweep", words: "" }, { label: "PCA of resid_post.5", words: "" }];
const first = (query: string) => ranked(all, query, ({ label, words }) => [label, words ?? ""])[0]?.label;

describe("the palette", () => {
  it.each([
    ["help", "Help: what colour means, keys, words"], ["probe", "Probe: fit one, and steer along it"], ["features", "Features: every feature and neuron, with its examples"], ["layer 5", "Layer 5"], ["LAYER 15", "Layer 15"], ["ablate", "Ablate the selected cell of the stream"],
    ["random prompts", "Random prompts: many texts, coloured"], ["find a new direction", "Find a new direction: mix with the sliders"], ["tour", "Tour of the page, two minutes"],
  ])("finds what is meant by %s", (query, wanted) => expect(first(query)).toBe(wanted));

  it("finds nothing that lacks a word, and everything for none", () => {
    expect(ranked(all, "layer zebra", ({ label }) => [label, ""])).toEqual([]);
    expect(ranked(all, "", ({ label }) => [label, ""])).toHaveLength(all.length);
  });
});
