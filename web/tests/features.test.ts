import { describe, expect, it } from "vitest";
import type { AtlasInfo, FeatureDetail } from "../src/connect/wire";
import { atlasOf, besides, brief, counted, directionOf, onOneScale, readAddress, removal, sameEdit, share, short } from "../src/lib/features";
import type { PlainView } from "../src/views/kinds/plain";
import { decodeView, encodeView, first } from "../src/state/hash";

const atlas = (name: string, more: Partial<AtlasInfo> = {}): AtlasInfo => ({ name, of: "sae", place: "resid_post.8", count: 64, tokens: 1000, corpus: "c", dead: 0, hash: "h", dictionary: "sae@resid_post.8", address: "sae/m/resid_post.8", missing: null, ...more });
const detail = (more: Partial<FeatureDetail>): FeatureDetail => ({ dictionary: "sae@resid_post.8", index: 12, neuron: false, site: "resid_post.8", head: null, flat: false, ...more }) as FeatureDetail;

describe("addresses of features", () => {
  it("are read, with models whose names have slashes", () => {
    expect(readAddress("sae/smollm2-135m/resid_post.8/12")).toEqual({ place: "sae/smollm2-135m/resid_post.8", of: "sae", model: "smollm2-135m", index: 12 });
    expect(readAddress(" neuron/Org/Name/9/312 ")).toEqual({ place: "neuron/Org/Name/9", of: "neuron", model: "Org/Name", index: 312 });
    for (const wrong of ["", "sae/m/12", "sae/m/resid_post.8/x", "sae/m/resid_post.8/-1", "12"]) expect(readAddress(wrong)).toBeNull();
  });
  it("open the tab, and go back and forth", () => {
    const { view } = decodeView("#feature=sae/m/resid_post.8/12");
    expect([view.tab, view.feature]).toEqual(["features", "sae/m/resid_post.8/12"]);
    expect(decodeView(`#${encodeView(view)}`).view).toEqual(view);
    const elsewhere = { ...first(), feature: "neuron/m/3/4", tab: "stream" };
    expect(decodeView(`#${encodeView(elsewhere)}`).view.tab).toBe("stream");
  });
  it("are of the chosen atlas of that place, else of one whose dictionary is here", () => {
    const all = [atlas("gone", { missing: "why" }), atlas("a"), atlas("b"), atlas("n", { address: "neuron/m/9" })];
    const address = readAddress("sae/m/resid_post.8/12")!;
    expect(atlasOf(all, address, "b")?.name).toBe("b");
    expect(atlasOf(all, address, "n")?.name).toBe("a");
    expect(atlasOf(all.slice(3), address, "n")).toBeNull();
  });
});

it("stands beside atlases of the same features alone", () => {
  const all = [atlas("a"), atlas("b"), atlas("other", { hash: "x" }), atlas("n", { hash: "h", address: "sae/m/resid_post.9" })];
  expect(besides(all, all[0]).map(({ name }) => name)).toEqual(["b"]);
});

describe("what takes a feature out", () => {
  it("is its dictionary's edit, a neuron's, or none", () => {
    expect(removal(detail({}))).toEqual({ kind: "feature", dictionary: "sae@resid_post.8", index: [12], scale: 0 });
    expect(removal(detail({ dictionary: null, neuron: true, site: "mlp_post.9" }))).toEqual({ kind: "ablate", site: "mlp_post.9", neuron: [12], to: "zero" });
    expect(removal(detail({ dictionary: null }))).toBeNull();
    expect(removal(detail({ dictionary: "saved:mine", head: 3 }))).toEqual({ kind: "project_out", site: "resid_post.8", head: [3], direction: { kind: "saved", name: "mine" } });
  });
  it("is known again on the stack, whatever the stack adds", () => {
    const edit = removal(detail({}))!;
    expect(sameEdit({ ...edit, id: "e1", enabled: false, value: null, pos: null }, edit)).toBe(true);
    expect(sameEdit({ ...edit, scale: 2 }, edit)).toBe(false);
    expect(sameEdit({ ...edit, index: [13] }, edit)).toBe(false);
  });
  it("is a direction only where there is one", () => {
    expect(directionOf(detail({}))).toEqual({ kind: "mix", terms: [{ dictionary: "sae@resid_post.8", index: 12, weight: 1 }] });
    expect(directionOf(detail({ dictionary: null }))).toBeNull();
    expect(directionOf(detail({ flat: true, site: "z.2" }))).toBeNull();
  });
});

it("says shares and values briefly", () => {
  expect([0, 1e-6, 0.0031, 0.5].map(share)).toEqual(["never", "1e−4 %", "0.31 %", "50 %"]);
  expect([null, 0.12345, -3.14159, 12345].map(brief)).toEqual(["–", "0.123", "−3.14", "12345"]);
});

it("says what is counted, and leaves out what stands above", () => {
  expect([counted({ count: 1536, of: "neuron" }), counted({ count: 1, of: "sae" })]).toEqual(["1,536 neurons", "1 feature of sae"]);
  expect([short("neuron 24.118", "neuron"), short("a name", "sae")]).toEqual(["24.118", "a name"]);
});

it("colours two texts on one scale", () => {
  const examples = (limit: number) => ({ kind: "grid", title: "", columns: 1, views: [{ kind: "contexts", rows: [], columns: [], title: "", unit: "", scale: "sequential", limit, note: "" }] }) as unknown as PlainView;
  const end = (view: PlainView) => (view as unknown as { views: { limit: number }[] }).views[0].limit;
  expect([end(onOneScale(examples(2), examples(19))), end(onOneScale(examples(19), examples(2))), end(onOneScale(examples(2), null))]).toEqual([19, 19, 2]);
});
