import { beforeEach, describe, expect, it } from "vitest";
import type { Connector } from "../src/connect/connector";
import type { DictionaryInfo, SavedDirection } from "../src/connect/wire";
import { Mixing } from "../src/state/mixing.svelte";
import { Session } from "../src/state/session.svelte";
import { ViewStore } from "../src/state/view.svelte";

const pca: DictionaryInfo = {
  id: "pca@resid_post.1", site: "resid_post.1", head: null, place: "resid_post.1", kind: "pca", n: 4, space: "centred", standardised: false, fitted_on: "", tokens: 1, shipped: true, width: 8,
};
const saved = (name: string, more: Partial<SavedDirection> = {}): SavedDirection => ({ name, site: "resid_post.1", head: null, space: "centred", width: 8, norm: 1, library: name, ...more });

let session: Session;
let view: ViewStore;
let mixing: Mixing;
beforeEach(() => {
  session = new Session({} as Connector);
  view = new ViewStore("");
  mixing = new Mixing(session, view);
  hold([pca], [saved("plural"), saved("a logit", { space: "lens" }), saved("head", { site: "z.1", head: 2, width: 4 })]);
});
function hold(dictionaries: DictionaryInfo[], directions: SavedDirection[]): void {
  session.state = { model: { hash: "h", n_layers: 2, dictionaries }, directions } as never;
}

describe("a saved direction", () => {
  it("stands alone beside the chosen dictionary, in the space it was found in", () => {
    view.current.weights = { 3: 1 };
    mixing.showSaved("plural");
    expect(mixing.terms).toEqual([{ source: "saved:plural", index: 0, weight: 1 }]);
    expect(mixing.dictionary?.id).toBe(pca.id);
    expect(mixing.play).toEqual([pca.id, "saved:plural"]);
    expect([mixing.unit, mixing.ref]).toEqual(["centred", { kind: "saved", name: "plural" }]);
    expect(mixing.saved).toEqual(["saved:plural"]); // the others cannot be mixed with it
  });

  it("of another space or width, or without any dictionary, takes the dictionary's place", () => {
    mixing.showSaved("a logit");
    expect([mixing.dictionary?.id, mixing.unit, mixing.ref]).toEqual(["saved:a logit", "folded", { kind: "saved", name: "a logit" }]);
    mixing.showSaved("head");
    expect([mixing.dictionary?.place, mixing.play]).toEqual(["z.1 head 2", ["saved:head"]]);
    mixing.choose(pca.id);
    expect([mixing.dictionary?.id, mixing.terms[0]?.source]).toEqual([pca.id, pca.id]);
    hold([], [saved("plural")]);
    mixing.showSaved("plural");
    expect([mixing.dictionary?.kind, mixing.ref]).toEqual(["saved", { kind: "saved", name: "plural" }]);
  });

  it("that is gone is on screen no more", () => {
    mixing.showSaved("plural");
    hold([pca], []);
    expect([mixing.terms, mixing.ref]).toEqual([[], null]);
  });

  it("that a link asks for already is known by it", () => {
    expect(mixing.asksFor("plural")).toBe(false);
    view.current.terms = { "saved:plural": 0.5 };
    expect(mixing.asksFor("plural")).toBe(true);
  });
});
