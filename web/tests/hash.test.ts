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
  heads: { by: ["induction", "attention"], scatter: true, how: "lines", over: "max", weighted: true, way: "in", locked: 4, from: 9, to: 0 },
  over: { id: "greater_than", n: 40 },
  lens: { show: "rank", token: " Mary", through: "a lens, of mine" },
  patch: { sweep: "causal-tracing", site: "mlp_out", clean: "companion", mode: "noise", by: "log_prob", average: true, subject: [1, 2], window: 10 },
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

describe("a link that somebody changed", () => {
  const whole = encodeView(view, shared);
  const odd = ["", "%", "%ff", "null", "[]", "{}", "1e999", "-1", "NaN", "__proto__:1", "99999999999999999999", "[null]", '"\\ud800"', "%00", "a".repeat(5000), "[".repeat(5000)];

  /** Numbers below `most`, the same for the same seed (mulberry32). */
  function drawn(seed: number): (most: number) => number {
    return (most) => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * most);
    };
  }

  /** A tree of JSON with some of its values replaced, or taken away. */
  function tree(value: unknown, draw: (most: number) => number): unknown {
    if (draw(12) === 0) return [null, 3, "x", [], {}, [null], { kind: 3 }, true][draw(8)];
    if (Array.isArray(value)) return value.map((one) => tree(one, draw));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).flatMap(([name, one]) => (draw(15) ? [[name, tree(one, draw)]] : [])));
    return value;
  }

  function changed(draw: (most: number) => number): string {
    const query = new URLSearchParams(whole);
    const names = [...query.keys()];
    for (let i = 0; i <= draw(3); i++) query.set(names[draw(names.length)], odd[draw(odd.length)]);
    if (draw(2)) query.set("share", JSON.stringify(tree(shared, draw)));
    const text = query.toString();
    const at = draw(text.length);
    return draw(4) ? text : text.slice(0, at) + odd[draw(odd.length)] + text.slice(at + draw(20));
  }

  it("gives a view that its own link gives again, and edits that are edits", () => {
    for (let seed = 0; seed < 2000; seed++) {
      const { view, shared } = decodeView(changed(drawn(seed)));
      expect(Object.keys(view).sort(), `seed ${seed}`).toEqual(Object.keys(defaults()).sort());
      const once = decodeView(encodeView(view)).view;
      expect(decodeView(encodeView(once)).view, `seed ${seed}`).toEqual(once);
      for (const edit of shared?.edits ?? []) expect(typeof edit.kind, `seed ${seed}`).toBe("string");
      for (const probe of shared?.probes ?? []) expect(typeof probe.name, `seed ${seed}`).toBe("string");
    }
    expect(({} as Record<string, unknown>)["1"]).toBeUndefined();
  });
});
