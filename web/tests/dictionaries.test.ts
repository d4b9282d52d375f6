import { describe, expect, it } from "vitest";
import type { DictionaryInfo, Kind } from "../src/connect/wire";
import { families, labelOf, nearest, placeOf, places, titleOf, unitChoices, unitOf, usual } from "../src/lib/dictionaries";

function info(id: string, more: Partial<DictionaryInfo> = {}): DictionaryInfo {
  const [kind, at] = id.replace(/#\d+$/, "").split("@") as [Kind, string];
  const head = /\.h(\d+)$/.exec(at);
  const site = at.replace(/\.h\d+$/, "");
  const space = kind === "pca" ? "centred" : kind === "unembedding" ? "lens" : "raw";
  return { id, site, head: head ? Number(head[1]) : null, place: head ? `${site} head ${head[1]}` : site, kind, n: 30, space, standardised: false, fitted_on: "", tokens: 0, shipped: false, width: 8, ...more };
}
const stream = Array.from({ length: 12 }, (_, layer) => info(`pca@resid_post.${layer}`));
const all = [
  info("pca@mlp_post.3"), info("pca@final_norm"), ...stream.toReversed(), info("pca@result.9.h11"), info("pca@result.9.h3"), info("pca@resid_pre.0"),
  info("nmf@mlp_post.3"), info("pca@resid_post.2#2", { standardised: true }), info("unembedding@resid_post.11"),
];

describe("choosing by place", () => {
  it("groups the stream, heads and neurons, each in the order of the forward", () => {
    const found = places(all, "pca").map(({ name, dictionaries }) => [name, dictionaries.map(placeOf)]);
    expect(found).toEqual([
      ["The stream", ["resid_pre.0", ...stream.map(({ site }) => site), "final_norm"]],
      ["Heads", ["result.9 head 3", "result.9 head 11"]],
      ["Neurons", ["mlp_post.3"]],
    ]);
  });

  it("offers each family once, standardised apart", () => {
    expect(families(all).map(({ name }) => name)).toEqual(["PCA", "NMF", "PCA, standardised", "Unembedding rows"]);
  });

  it("starts three quarters up the stream, whatever else there is, and without a stream anywhere", () => {
    expect(usual(all, 12)!.id).toBe("pca@resid_post.9");
    expect(usual([info("nmf@mlp_post.3")], 12)!.id).toBe("nmf@mlp_post.3");
    expect(usual([], 12)).toBeNull();
  });

  it("goes to another family at the same place, else the nearest layer", () => {
    expect(nearest(all, "nmf", stream[3])!.id).toBe("nmf@mlp_post.3");
    expect(nearest(all, "pca", all.find(({ id }) => id === "pca@resid_post.2#2")!)!.id).toBe("pca@resid_post.2");
    expect(nearest(all, "pca", info("nmf@resid_post.99"))!.id).toBe("pca@resid_post.11");
    expect(nearest(all, "svd", stream[0])).toBeNull();
  });

  it("names components from zero, and tells a second dictionary of a place from the first", () => {
    expect(labelOf(stream[0], 7)).toBe("PC 7");
    expect(labelOf(info("nmf@mlp_post.3"), 0)).toBe("NMF 0");
    expect(titleOf(info("pca@resid_post.2#2", { standardised: true }))).toBe("PCA, standardised of resid_post.2#2");
  });
});

describe("the space a direction was fitted in", () => {
  const [pca, svd, rows] = [info("pca@embed"), info("svd@embed"), info("unembedding@embed")];
  const scaled = info("pca@embed#2", { standardised: true });

  it("is the one shown, unless another is asked for", () => {
    expect([pca, scaled, svd, rows].map((one) => unitOf("own", [one]))).toEqual(["centred", "standardised", "raw", "folded"]);
    expect([pca, scaled, svd, rows].map((one) => unitOf("raw", [one]))).toEqual(["raw", "raw", "raw", "folded"]);
    expect([pca, scaled, svd, rows].map((one) => unitOf("centred", [one]))).toEqual(["centred", "standardised", "centred", "folded-centred"]);
  });

  it("of a mix is that of all of it, else raw, as the server has it", () => {
    expect(unitOf("own", [pca, svd])).toBe("raw");
    expect(unitOf("own", [scaled, pca])).toBe("centred");
    expect(unitOf("own", [svd, svd])).toBe("raw");
  });

  it("is offered by name, each once", () => {
    const offers = (one: DictionaryInfo) => unitChoices([one]).map(({ unit, label }) => `${unit}: ${label}`);
    expect(offers(pca)).toEqual(["own: centred", "raw: raw", "cos: cos"]);
    expect(offers(scaled)).toEqual(["own: standardised", "raw: raw", "cos: cos"]);
    expect(offers(svd)).toEqual(["centred: centred", "own: raw", "cos: cos"]);
    expect(offers(rows)).toEqual(["centred: centred", "own: norm-folded"]);
  });
});
