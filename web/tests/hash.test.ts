import { describe, expect, it } from "vitest";
import { decodeView, defaults, encodeView, first, type Shared, type View } from "../src/state/hash";

const view: View = {
  tab: "stream",
  direction: "mix",
  weights: { 3: -0.5, 7: 1 },
  terms: { "nmf@mlp_post.3#2/4": 0.25, "saved:mine, *2/3": -1 },
  also: ["svd@result.9.h3", "saved:mine, *2/3"],
  dictionary: "pca@resid_post.23",
  unit: "cos",
  logits: "centred",
  mode: "delta",
  scaling: "whole",
  locks: { cos: 0.25, logit: 14 },
  numbers: true,
  table: true,
  fit: true,
  selection: { layer: -1, pos: 15 },
  graph: "my graph",
  feature: "sae/a model/resid_post.8/12",
  map: { tint: "attention", node: { layer: 23, head: 3 }, corner: { layer: 21, head: null }, inside: true, to: 3, pos: 4 },
  lens: { show: "rank", token: " Mary" },
  patch: { sweep: "causal-tracing", site: "mlp_out", clean: "companion", mode: "noise", by: "log_prob", subject: [1, 2], window: 10 },
};

const shared: Shared = {
  model: "smollm2-135m",
  hash: "0badc0de",
  prompt: " John & Mary = 100%\n#2 <b>",
  bos: true,
  metric: { positive: " Mary", negative: " John" },
  chat: { messages: [{ role: "user", content: " John & Mary" }], answer: false },
  companion: { text: " Mary & Mary", bos: true },
  edits: [{ kind: "ablate", site: "z.23", head: 3, to: "zero" }],
  probes: [{ name: "order at S2, resid_mid.18", data: { kind: "task", task: "ioi", n: 60, seed: 0, prefixes: false }, site: "resid_mid.18", position: "S2", label: "order" }],
};

describe("the address", () => {
  it("holds nothing of the default view", () => {
    expect(encodeView(defaults())).toBe("");
    expect(decodeView("#tab=stream")).toEqual({ view: defaults(), shared: null });
  });

  it("that holds nothing is a newcomer's: the answers, centred; a link made when they were raw stays raw", () => {
    expect(decodeView("")).toEqual({ view: first(), shared: null });
    expect([first().direction, first().logits]).toEqual(["logit", "centred"]);
    expect(decodeView("#numbers=1").view.logits).toBe("raw");
    expect(decodeView(encodeView(first())).view).toEqual(first());
  });

  it("holds a whole view, there and back", () => {
    expect(decodeView("#" + encodeView(view)).view).toEqual(view);
  });

  it("carries prompt, answers and edits exactly", () => {
    expect(decodeView(new URL(`http://x/#${encodeView(view, shared)}`).hash).shared).toEqual(shared);
  });

  it("carries the model beside it, by its name alone", () => {
    const two = { ...shared, other: "smollm2-135m+repeated-name" };
    expect(decodeView(encodeView(view, two)).shared).toEqual(two);
    expect(decodeView("#share=" + encodeURIComponent(JSON.stringify({ ...shared, other: 7 }))).shared).toEqual(shared);
  });

  it("stays short: what is usual is left out, and weights have five digits", () => {
    const one = { ...defaults(), direction: "mix" as const, weights: { 7: 1 }, dictionary: "pca@resid_post.0" };
    expect(encodeView(one)).toBe("dir=mix&w=7%3A1&d=pca%40resid_post.0");
    expect(decodeView(encodeView({ ...one, weights: { 7: 1 / 3 } })).view.weights[7]).toBe(0.33333);
  });

  it("of an older page still opens: a site meant its components", () => {
    const { view: read } = decodeView("#dir=mix&w=7:1,3:-0.5&site=resid_post.23&unit=raw&lock=raw:12");
    expect(read).toEqual({ ...defaults(), direction: "mix", weights: { 7: 1, 3: -0.5 }, dictionary: "pca@resid_post.23", unit: "raw", locks: { raw: 12 } });
  });

  it("takes only what it understands", () => {
    const { view: read, shared: none } = decodeView("#dir=evil&unit=px&view=x&w=a:1,3:nan,5:9&lock=raw:-2&at=1&mix=nmf@embed*1,x/1*y,*2,a/1*7&also=%&share={");
    expect(read).toEqual({ ...defaults(), weights: { 5: 1 }, terms: { "a/1": 1 } });
    expect(none).toBeNull();
    expect(decodeView("#share=" + encodeURIComponent('{"prompt":7,"model":"m"}')).shared).toBeNull();
  });
});
