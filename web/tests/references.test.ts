import { describe, expect, it } from "vitest";
import { byIdAlone, missing, pinned, pinnedIn, pinnedNames, resolve, resolved, type Names } from "../src/lib/references";
import { info } from "./fake";

const [ONE, OTHER] = ["1".repeat(64), "2".repeat(64)];
const pca = info("pca@resid_post.0", { hash: "a".repeat(64) });
const sae = info("sae@resid_post.0" as never, { hash: ONE, shipped: false, linear: false, n: 24_576 });
const fitted = info("pca@resid_mid.0", { hash: "b".repeat(64), shipped: false });
const here = [pca, sae, fitted];
const PCA = `${pca.id}~sha256:${"a".repeat(16)}`;
const REF = `${sae.id}~sha256:${ONE}`;
const names = (more: Partial<Names>): Names => ({ dictionary: "", weights: {}, terms: {}, also: [], ...more });

describe("a reference", () => {
  it("holds the hash, of what ships its beginning", () => {
    expect(here.map(pinned)).toEqual([PCA, REF, `pca@resid_mid.0~sha256:${"b".repeat(64)}`]);
    expect(resolve(PCA, here)).toBe(pca);
    expect(resolve(PCA, [{ ...pca, hash: OTHER }])).toBeNull();
  });

  it("is answered by that hash alone, whatever id it has here", () => {
    expect(resolve(REF, here)).toBe(sae);
    const moved = { ...sae, id: "sae@resid_post.0#2" };
    const another = { ...sae, hash: OTHER };
    expect(resolve(REF, [another, moved])).toBe(moved);
    expect(resolve(REF, [another])).toBeNull();
    expect([resolve(`${sae.id}~sha256:`, here), resolve(`${sae.id}~sha256:111`, here)]).toEqual([null, null]);
    expect(missing(REF, [another])).toEqual({ id: sae.id, hash: ONE, other: OTHER });
    expect(missing(REF, [])).toEqual({ id: sae.id, hash: ONE, other: "" });
  });

  it("stands in edits wherever a dictionary does, also where a fitted PCA goes by its site", () => {
    const edits = [
      { kind: "feature", dictionary: sae.id, index: [3], over: { kind: "prompt", edits: [{ kind: "feature", dictionary: fitted.id, index: [1] }] } },
      { kind: "steer", direction: { kind: "mix", terms: [{ dictionary: sae.id, index: 5, weight: 1 }, { dictionary: pca.id, index: 0, weight: 2 }] } },
      { kind: "steer", direction: { kind: "pca", site: "resid_mid.0", weights: { 2: 0.5 } } },
      { kind: "steer", direction: { kind: "pca", site: "resid_post.0", weights: { 2: 0.5 } } },
    ];
    expect(pinnedIn(edits, here)).toEqual([
      { kind: "feature", dictionary: REF, index: [3], over: { kind: "prompt", edits: [{ kind: "feature", dictionary: pinned(fitted), index: [1] }] } },
      { kind: "steer", direction: { kind: "mix", terms: [{ dictionary: REF, index: 5, weight: 1 }, { dictionary: PCA, index: 0, weight: 2 }] } },
      { kind: "steer", direction: { kind: "mix", terms: [{ dictionary: pinned(fitted), index: 2, weight: 0.5 }] } },
      { kind: "steer", direction: { kind: "mix", terms: [{ dictionary: PCA, index: 2, weight: 0.5 }] } },
    ]);
  });
});

describe("a link's view", () => {
  const view = names({ dictionary: sae.id, weights: { 20_000: 1 }, terms: { "pca@resid_post.0/1": 0.5, "saved:mine/3": 1 }, also: [fitted.id, "saved:mine/3"] });

  it("goes out with hashes and comes back with the ids of here", () => {
    const out = pinnedNames(view, here, null);
    expect(out).toEqual({ ...view, dictionary: REF, terms: { [`${PCA}/1`]: 0.5, "saved:mine/3": 1 }, also: [pinned(fitted), "saved:mine/3"] });
    expect(resolved(out, here)).toEqual(view);
    expect(resolved(view, here)).toBeNull();
    const moved = [pca, { ...sae, id: "sae@resid_post.0#2" }, fitted];
    expect(resolved(out, moved)!.dictionary).toBe("sae@resid_post.0#2");
  });

  it("names the usual dictionary, for it may be another's elsewhere", () => {
    expect(pinnedNames(names({ weights: { 1: 1 } }), [fitted], fitted).dictionary).toBe(pinned(fitted));
    expect(pinnedNames(names({ weights: { 1: 1 } }), [pca], pca).dictionary).toBe(PCA);
    expect(pinnedNames(names({}), [pca], null).dictionary).toBe("");
  });

  it("keeps the reference of what is not here, also where another has its id", () => {
    const out = pinnedNames(view, here, null);
    const waiting = resolved(out, [pca, { ...sae, hash: OTHER }, fitted])!;
    expect([waiting.dictionary, waiting.weights, waiting.also]).toEqual([REF, view.weights, view.also]);
    expect(resolved(waiting, here)!.dictionary).toBe(sae.id);
  });

  it("of 0.1 names dictionaries by their id alone, and that is known", () => {
    const edits = [{ kind: "steer", direction: { kind: "pca", site: "resid_post.0", weights: { 2: 0.5 } } }, { kind: "feature", dictionary: REF }];
    expect(byIdAlone(names({}), edits, here, pca)).toEqual([pca.id]);
    expect(byIdAlone(names({ terms: { "pca@resid_mid.0/1": 1 } }), undefined, here, pca)).toEqual([fitted.id]);
    expect(byIdAlone(names({ weights: { 7: 1 } }), undefined, here, pca)).toEqual([pca.id]);
    expect(byIdAlone(names({ dictionary: PCA, weights: { 7: 1 } }), pinnedIn(edits, here), here, pca)).toEqual([]);
    expect(byIdAlone(names({}), undefined, here, pca)).toEqual([]);
  });
});
