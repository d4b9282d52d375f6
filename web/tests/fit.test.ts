import { describe, expect, it } from "vitest";
import type { ModelInfo } from "../src/connect/wire";
import { cost, depth, emptyForm, fitArgs, remaining, sitesFor, wordsOf, type FitForm } from "../src/lib/fit";

const model = { n_layers: 12, n_heads: 4, sites: [{ name: "resid_mid", layers: 12, dims: "", absent: "parallel blocks have no middle" }] } as unknown as ModelInfo;
const form = (more: Partial<FitForm>): FitForm => ({ ...emptyForm(), ...more });
const text = (more: Partial<FitForm["text"]>) => ({ ...emptyForm().text, ...more });

describe("what is asked for", () => {
  it("is the whole stream's components until somebody says otherwise", () => {
    expect(fitArgs(emptyForm(), model)).toEqual({ method: "pca", site: "stream", text: { kind: "builtin", name: "python-docs" }, tokens: 20_000, n: 30 });
  });

  it("names layer and head where the place has them", () => {
    expect(fitArgs(form({ site: "result", layer: 9, head: 3, standardise: true }), model)).toMatchObject({ site: "result.9", head: 3, standardise: true });
    expect(fitArgs(form({ site: "final_norm", layer: 9, head: 3 }), model)).not.toHaveProperty("head");
    expect(fitArgs(form({ site: "result", layer: 9, head: 4 }), model)).toEqual({ why: "Heads go from 0 to 3" });
    expect(fitArgs(form({ site: "resid_post", layer: 12 }), model)).toEqual({ why: "Layers go from 0 to 11" });
  });

  it("sends of each method only what it takes", () => {
    const everything = { site: "mlp_post", layer: 3, standardise: true, clip: true, words: "a" };
    expect(fitArgs(form({ ...everything, method: "nmf", n: 10 }), model)).toEqual({ method: "nmf", site: "mlp_post.3", text: { kind: "builtin", name: "python-docs" }, tokens: 20_000, n: 10, clip: true });
    expect(fitArgs(form({ ...everything, method: "svd" }), model)).not.toHaveProperty("standardise");
    expect(fitArgs(form({ ...everything, method: "unembedding", words: "·Mary\n·John, x,\n\n·Mary" }), model)).toEqual({ method: "unembedding", words: [" Mary", " John", "x"] });
  });

  it("takes the difference of two texts, each of its own kind", () => {
    const args = fitArgs(form({ method: "mean_difference", site: "resid_post", layer: 6, text: text({ kind: "hub", hub: "org/data" }), second: text({ kind: "file", file: { name: "b.jsonl", text: '{"text":"b"}' } }) }), model);
    expect(args).toEqual({ method: "mean_difference", site: "resid_post.6", tokens: 20_000, text: { kind: "hub", name: "org/data", field: "text" }, second: { kind: "typed", name: "b.jsonl", text: '{"text":"b"}' } });
  });

  it("refuses in words what cannot be sent", () => {
    const why = (more: Partial<FitForm>) => (fitArgs(form(more), model) as { why?: string }).why;
    expect(why({ text: text({ kind: "typed", typed: " \n" }) })).toBe("Type the text first");
    expect(why({ text: text({ kind: "hub", hub: "nobody" }) })).toContain("owner/name");
    expect(why({ text: text({ kind: "file", file: { name: "big.txt", text: "é".repeat(1.1 * 1024 * 1024) } }) })).toContain("big.txt is 2.2 MiB");
    expect(why({ tokens: 999 })).toContain("1,000");
    expect(why({ n: 0 })).toContain("1 to 200");
    expect(why({ method: "unembedding", words: " " })).toContain("Name the tokens");
    expect(wordsOf("·a b·,c")).toEqual([" a b ", "c"]);
  });

  it("offers the whole stream only to what is fitted in one pass, and says why a place is absent", () => {
    expect(sitesFor("pca", model)[0].name).toBe("stream");
    expect(sitesFor("nmf", model).map(({ name }) => name)).not.toContain("stream");
    expect(sitesFor("unembedding", model)).toEqual([]);
    expect(sitesFor("pca", model).find(({ name }) => name === "resid_mid")!.absent).toContain("parallel");
  });
});

describe("what it costs", () => {
  it("is said in blocks and tokens", () => {
    expect(cost(emptyForm(), model)).toContain("20,000 tokens through all 12 layers, once");
    expect(cost(form({ site: "resid_post", layer: 3, method: "mean_difference" }), model)).toContain("through 4 of 12 layers, twice");
    expect(cost(form({ method: "unembedding" }), model)).toContain("no text is run");
    expect([depth(form({ site: "embed" }), 12), depth(form({ site: "resid_pre", layer: 3 }), 12)]).toEqual([0, 3]);
  });

  it("tells how much longer only once that can be told", () => {
    expect(remaining(0.01, 10)).toBe("");
    expect(remaining(0.5, 30)).toBe("about 30 s left");
    expect(remaining(0.1, 60)).toBe("about 9 min left");
    expect(remaining(0.99, 60)).toBe("a moment more");
  });
});
