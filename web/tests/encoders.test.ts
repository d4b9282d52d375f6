import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { DictionaryInfo, Edit, State } from "../src/connect/wire";
import { fits, rowOf, unitChoices, unitOf } from "../src/lib/dictionaries";
import { App } from "../src/state/app.svelte";
import { decodeView } from "../src/state/hash";
import { restore, shareLink } from "../src/state/share";
import { Fake, info, state } from "./fake";
import { rooted } from "./rooted";

const ID = "sae@resid_post.0";
const HASH = "5".repeat(64);
const MANY = 24_576;
const encoder = (more: Partial<DictionaryInfo> = {}) => info(ID, { space: "centred", linear: false, activation: "relu", n: MANY, hash: HASH, shipped: false, ...more });
const REF = `${ID}~sha256:${HASH}`;

let fake: Fake;
let app: App;
let frames: FrameRequestCallback[];
function open(hash = ""): void {
  fake = new Fake();
  app = new App(fake, rooted());
  if (hash) app.view.current = decodeView(hash).view;
  app.session.start();
}
function held(...dictionaries: DictionaryInfo[]): State {
  const base = state({});
  return { ...base, model: { ...base.model!, d_model: 4, dictionaries: [info("pca@resid_post.0"), info("svd@resid_post.0"), ...dictionaries] } } as State;
}
async function follow(next?: State): Promise<void> {
  if (next) fake.listener.state(next);
  for (let i = 0; i < 4; i++) {
    app.mixing.references.follow();
    app.streams.follow();
    app.directions.followBasis();
    app.directions.followReading();
    app.mixing.followProducts(app.streams.settled);
    await new Promise((done) => setTimeout(done));
  }
}
async function paint(): Promise<void> {
  for (const frame of frames.splice(0)) frame(0);
  await new Promise((done) => setTimeout(done, 5));
  await follow();
}
/** The picture of one feature of 24,576. */
async function begin(): Promise<void> {
  open();
  await follow(held(encoder()));
  await paint();
  app.mixing.choose(ID);
  app.mixing.show(20_000);
  await follow();
  await paint();
}
/** The activation of feature i, and a component's centred coordinate, as the fake has them. */
const activation = (row: number, pos: number, i: number) => row * 2 + pos + i / 1000;
const centred = (row: number, pos: number, k: number) => (row * 2 + pos) * 3 + k - 1;

beforeEach(() => {
  frames = [];
  vi.stubGlobal("requestAnimationFrame", (frame: FrameRequestCallback) => frames.push(frame));
});
afterEach(() => vi.unstubAllGlobals());

describe("the picture of a feature", () => {
  it("is its activation, asked for alone and never all of them", async () => {
    await begin();
    expect(app.streams.unit).toBe("activation");
    expect(app.streams.valueAt("base", 1, 1)).toBeCloseTo(activation(1, 1, 20_000), 4);
    const about = fake.asked.filter((asked) => asked.includes("sae"));
    expect(about).toEqual([`coef r1 ${ID} [20000]`, `dictionary ${ID} [20000]`, `gram ${ID}/20000`]);
    expect(app.mixing.chips).toEqual([20_000]);
  });

  it("is in its own units however little it weighs, and signed", async () => {
    await begin();
    app.mixing.setWeight(ID, 20_000, -0.25);
    app.view.applyWeights();
    expect(app.streams.valueAt("base", 1, 1)).toBeCloseTo(-activation(1, 1, 20_000), 4);
  });

  it("asks for nothing while a slider moves, also to zero and back", async () => {
    await begin();
    app.mixing.pick(ID, 7);
    await follow();
    await paint();
    expect(fake.asked).toContain(`coef r1 ${ID} [7,20000]`);
    const before = fake.asked.length;
    app.view.dragging = true;
    for (const weight of [0.5, 0, -0.5, 0]) {
      app.mixing.setWeight(ID, 20_000, weight);
      app.mixing.setWeight(ID, 7, 1);
      app.view.applyWeights();
      await follow();
    }
    expect(fake.asked).toHaveLength(before);
    expect(app.mixing.indicesOf(ID)).toEqual([7, 20_000]);
  });

  it("asks for nothing while nothing is chosen, and says that nothing is", async () => {
    open();
    await follow(held(encoder()));
    await paint();
    app.view.current.direction = "mix";
    app.mixing.choose(ID);
    await follow();
    await paint();
    expect(fake.asked.filter((asked) => asked.includes("sae"))).toEqual([]);
    expect([app.mixing.zero, app.mixing.picture, app.mixing.chips]).toEqual([true, null, []]);
  });

  it("is asked for of what goes by the id now, however many another model's had", async () => {
    await begin();
    app.mixing.pick(ID, 500);
    await follow(held(encoder({ n: 600, hash: "6".repeat(64) })));
    expect(app.mixing.indicesOf(ID)).toEqual([500]);
  });

  it("keeps the picture before it until its own is there", async () => {
    await begin();
    const before = [...app.streams.field!.values];
    app.mixing.show(7);
    expect([...app.streams.field!.values]).toEqual(before);
    await follow();
    expect(app.streams.valueAt("base", 0, 1)).toBeCloseTo(activation(0, 1, 7), 4);
  });

  it("has no number but its own, and no more of them than are read at once", async () => {
    await begin();
    for (const wrong of [MANY, -1, 0.5]) expect(app.mixing.pick(ID, wrong)).toBe(false);
    expect(app.session.notices.list.at(-1)!.text).toContain("0 to 24,575");
    for (let i = 0; i < 450; i++) app.mixing.pick(ID, i);
    expect(app.mixing.indicesOf(ID)).toHaveLength(400);
    expect(app.mixing.indicesOf(ID)).toContain(20_000);
    app.mixing.unpick(ID);
    expect(app.mixing.indicesOf(ID)).toEqual([20_000]);
  });
});

describe("a mix with features", () => {
  it("is the plain weighted sum of coordinates, as the label says", async () => {
    await begin();
    app.mixing.setWeight(ID, 7, 0.5);
    app.view.applyWeights();
    await follow();
    expect(app.streams.unit).toBe("activation");
    expect(app.streams.valueAt("base", 1, 1)).toBeCloseTo(activation(1, 1, 20_000) + 0.5 * activation(1, 1, 7), 4);
    app.mixing.include("pca@resid_post.0");
    app.mixing.setWeight("pca@resid_post.0", 2, -0.25);
    app.view.applyWeights();
    await follow();
    await paint();
    const sum = activation(1, 1, 20_000) + 0.5 * activation(1, 1, 7) - 0.25 * centred(1, 1, 2);
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["mixed", expect.closeTo(sum, 4)]);
    app.view.current.unit = "raw";
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["mixed-raw", expect.closeTo(sum - 0.25, 4)]);
    app.view.current.unit = "cos"; // there is none of a sum of activations
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["mixed", expect.closeTo(sum, 4)]);
  });

  it("is a direction too, which is another thing: linear, and said to be", async () => {
    await begin();
    const terms = [{ dictionary: ID, index: 20_000, weight: 1 }];
    expect(app.directions.ref).toEqual({ kind: "mix", terms });
    expect(app.mixing.beforeOf(app.directions.ref)).toBe("ReLU");
    expect(app.mixing.beforeOf({ kind: "pca", site: "resid_post.0", weights: { 0: 1 } })).toBe("");
    expect(app.mixing.feature).toEqual({ source: ID, index: 20_000, weight: 1 });
    await app.python();
    const shown = { direction: { kind: "mix", terms }, unit: "activation", mode: "base", rows: [...app.streams.sites] };
    expect(fake.intent).toHaveBeenLastCalledWith("python", shown);
    expect(shown.rows[0]).toBe("embed");
    app.mixing.include("pca@resid_post.0");
    app.mixing.setWeight("pca@resid_post.0", 2, 1);
    app.view.applyWeights();
    app.view.current.unit = "raw";
    await app.python();
    expect(fake.intent).toHaveBeenLastCalledWith("python", expect.objectContaining({ unit: "mixed-raw" }));
    app.view.current.direction = "logit";
    app.view.current.logits = "raw";
    await app.python();
    expect(fake.intent).toHaveBeenLastCalledWith("python", expect.objectContaining({ unit: "logit", direction: app.directions.ref }));
  });

  it("whose rows cancel is a picture still, and no direction", async () => {
    await begin();
    app.mixing.setWeight(ID, 20_000, 1);
    app.mixing.setWeight(ID, 7, -1);
    app.view.applyWeights();
    await follow();
    await paint();
    fake.query = (async () => ({ of: [[ID, 7], [ID, 20_000]], gram: [[1, 1], [1, 1]] })) as never;
    app.mixing.pick(ID, 9); // asks for the products anew
    await follow();
    expect([app.mixing.zero, app.mixing.ref]).toEqual([false, null]);
    expect(app.mixing.picture).not.toBeNull();
  });
});

describe("what may be mixed", () => {
  const stream = encoder();
  const inside = encoder({ id: "t@mlp_in.0", site: "mlp_in.0", beside_stream: false });
  const pca = info("pca@resid_post.0");

  it("is what is read of the same vectors", () => {
    expect([fits(stream, pca), fits(inside, pca), fits(inside, stream), fits(inside, { ...inside, site: "mlp_in.5" })]).toEqual([true, false, false, true]);
    expect([rowOf(stream, -1), rowOf(stream, 3), rowOf(inside, 3), rowOf(inside, -1), rowOf({ ...inside, site: "final_norm" }, 29)]).toEqual([0, 4, 3, -1, 0]);
  });

  it("is labelled by what is in it", () => {
    const svd = info("svd@resid_post.0");
    expect(["own", "centred", "raw", "cos"].map((unit) => unitOf(unit as never, [stream]))).toEqual(Array(4).fill("activation"));
    expect([unitOf("own", [stream, pca]), unitOf("own", [stream, svd]), unitOf("centred", [stream, svd])]).toEqual(["mixed", "mixed-raw", "mixed"]);
    expect(unitChoices([stream]).map(({ label }) => label)).toEqual(["activation"]);
    expect(unitChoices([stream, pca]).map(({ unit, label }) => [unit, label])).toEqual([["own", "centred"], ["raw", "raw"]]);
  });
});

describe("a link", () => {
  const edit: Edit = { kind: "feature", dictionary: ID, index: [20_000], value: 3 };
  const shared = () => decodeView(new URL(shareLink(app)).hash);

  async function linked(): Promise<string> {
    await begin();
    await follow({ ...app.session.state!, edits: [{ ...edit, id: "e1", enabled: true, label: "", glyph: "", beside: "", slider: null, at: { layer: 0, pos: null }, delta: null, inert: null, error: null }] } as State);
    return new URL(shareLink(app)).hash;
  }

  it("calls a brought dictionary by its id and hash, also in its edits", async () => {
    await linked();
    const { view, shared: held } = shared();
    expect([view.dictionary, view.weights]).toEqual([REF, { 20_000: 1 }]);
    expect(held!.edits[0].dictionary).toBe(REF);
  });

  it("opens where the dictionary goes by another id", async () => {
    const hash = await linked();
    open(hash);
    await follow(held(encoder({ hash: "7".repeat(64) }), encoder({ id: `${ID}#2` })));
    await paint();
    expect([app.mixing.dictionary?.id, app.mixing.references.missing, app.streams.unit]).toEqual([`${ID}#2`, [], "activation"]);
    expect(fake.asked).toContain(`coef r1 ${ID}#2 [20000]`);
  });

  it("is read along nothing where it is missing, or another has its id, and says which", async () => {
    const hash = await linked();
    for (const other of [undefined, "7".repeat(64)]) {
      open(hash);
      await follow(held(...(other ? [encoder({ hash: other })] : [])));
      await paint();
      expect(app.mixing.references.missing).toEqual([{ id: ID, hash: HASH, other: other ?? "" }]);
      expect([app.mixing.terms, app.mixing.picture, app.streams.fieldValues]).toEqual([[], null, null]);
      expect(fake.asked.some((asked) => asked.startsWith("coef") && asked.includes("sae"))).toBe(false);
      expect(app.view.link(null, app.mixing.names)).toContain(encodeURIComponent(HASH)); // still in the address
    }
    await follow(held(encoder({ id: `${ID}#2` }))); // its file is brought in
    await paint();
    expect([app.mixing.references.missing, app.mixing.terms]).toEqual([[], [{ source: `${ID}#2`, index: 20_000, weight: 1 }]]);
    expect(app.mixing.dictionary?.id).toBe(`${ID}#2`);
    open(hash);
    await follow(held());
    app.mixing.leaveOutMissing();
    expect([app.mixing.references.missing, app.view.current.weights]).toEqual([[], {}]);
  });

  it.each([
    ["chosen", "#dir=mix&d=nmf%40mlp_post.3&w=1:1"],
    ["mixed in", "#dir=mix&w=1:1&mix=nmf%40mlp_post.3%2F2*0.5"],
    ["chosen, and saved", "#dir=mix&d=saved%3Amine&w=0:1"],
  ])("whose dictionary is not here (%s) lends its weights to no other", async (what, hash) => {
    open(hash);
    await follow(held());
    await paint();
    expect([app.mixing.terms, app.mixing.picture, app.mixing.references.missing.map(({ id }) => id)]).toEqual([[], null, what.endsWith("saved") ? [] : ["nmf@mlp_post.3"]]);
    if (!what.startsWith("chosen")) return;
    expect(app.mixing.component).toBeNull(); // no chip is pressed
    app.mixing.show(2); // what is picked now is of what is in the pickers
    expect([app.mixing.references.missing, app.mixing.terms]).toEqual([[], [{ source: "pca@resid_post.0", index: 2, weight: 1 }]]);
  });

  it("whose dictionary is forgotten by somebody else is read along no other", async () => {
    await begin();
    app.mixing.show(1);
    await follow(held());
    expect([app.mixing.terms, app.mixing.references.missing.map(({ id }) => id)]).toEqual([[], [ID]]);
    app.mixing.setWeight("pca@resid_post.0", 0, 0.5);
    app.view.applyWeights();
    expect([app.mixing.references.missing, app.mixing.terms]).toEqual([[], [{ source: "pca@resid_post.0", index: 0, weight: 0.5 }]]);
    app.mixing.choose("svd@resid_post.0");
    app.mixing.letGo("svd@resid_post.0");
    expect([app.view.current.dictionary, app.mixing.references.missing]).toEqual(["", []]);
  });

  it("of what has no mix says so, and reads along nothing until it is left out", async () => {
    open(`#dir=mix&w=1:1&mix=${encodeURIComponent(encodeURIComponent("sae@mlp_in.0/3"))}*0.5`);
    await follow(held(encoder({ id: "sae@mlp_in.0", site: "mlp_in.0", beside_stream: false })));
    await paint();
    expect([app.mixing.unfit.map(({ id }) => id), app.mixing.terms]).toEqual([["sae@mlp_in.0"], []]);
    app.mixing.leaveOutMissing();
    expect([app.mixing.unfit, app.mixing.terms]).toEqual([[], [{ source: "pca@resid_post.0", index: 1, weight: 1 }]]);
  });

  it("of a small encoder asks for all of it, and shows its activation", async () => {
    open();
    await follow(held(encoder({ n: 3 })));
    await paint();
    app.mixing.choose(ID);
    app.mixing.show(2);
    await follow();
    await paint();
    expect(fake.asked).toContain(`coef r1 ${ID}`);
    expect([app.mixing.indicesOf(ID), app.streams.unit, app.mixing.chips]).toEqual([null, "activation", [0, 1, 2]]);
  });

  it("has each edit that is left out named with the server's reason", async () => {
    const hash = await linked();
    const { shared: held_ } = decodeView(hash);
    open();
    await follow(held());
    fake.intent = vi.fn(async (name: string) => (name === "open_link" ? { lost: [], left_out: [{ part: "edits", index: 0, error: { message: `the dictionary that is referred to is not here. Received: ${ID}, sha256 ${HASH}` } }] } : null)) as never;
    app.view.shared = held_;
    await restore(app, held_!);
    expect(fake.intent).toHaveBeenCalledWith("open_link", expect.objectContaining({ edits: [expect.objectContaining({ dictionary: REF })] }));
    expect(app.session.notices.list.some(({ text }) => text.includes(HASH))).toBe(true);
  });
});
