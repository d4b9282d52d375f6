import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { State } from "../src/connect/wire";
import { App } from "../src/state/app.svelte";
import { Fake, info, run, state } from "./fake";
import { rooted } from "./rooted";

let fake: Fake;
let app: App;
let frames: FrameRequestCallback[];
/** What the page's effects do, by hand. */
async function follow(next?: State): Promise<void> {
  if (next) fake.listener.state(next);
  for (let i = 0; i < 3; i++) {
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

beforeEach(() => {
  frames = [];
  vi.stubGlobal("requestAnimationFrame", (frame: FrameRequestCallback) => frames.push(frame));
  fake = new Fake();
  app = new App(fake, rooted());
  app.session.start();
});
afterEach(() => vi.unstubAllGlobals());

describe("what is asked of the server", () => {
  it("is the picture first; directions wait until it is painted", async () => {
    await follow(state({}));
    expect(fake.asked).toEqual(["stream r1", "logits r1"]);
    expect(app.streams.field).not.toBeNull();
    await paint();
    expect(fake.asked.slice(2)).toEqual(["coef r1 pca@resid_post.0", "dictionary pca@resid_post.0", "read_direction", "gram pca@resid_post.0"]);
  });

  it("is nothing twice", async () => {
    await follow(state({}));
    await paint();
    const before = fake.asked.length;
    await follow(state({ selection: { layer: 0, pos: 0 } }));
    expect(fake.asked).toHaveLength(before);
  });
});

describe("attention sinks", () => {
  it("are those the server marks, in the stream and elsewhere, whatever the lengths are", async () => {
    await follow(state({}));
    expect([...app.streams.field!.sink]).toEqual([0, 1, 0, 1]);
    await follow(state({ model: { name: "m", hash: "h", n_layers: 1, dictionaries: [info("svd@z.0")], sites: [] } as unknown as State["model"] }));
    app.view.pickComponent(0);
    await paint();
    await follow(app.session.state!);
    expect(app.streams.sites).toEqual(["z.0"]);
    expect([...app.streams.field!.sink]).toEqual([0, 1]);
  });
});

describe("a run", () => {
  it("is stale while its version is lower than the state's", async () => {
    await follow(state({}));
    expect(app.streams.stale).toBe(false);
    await follow(state({ version: 2 }));
    expect(app.streams.stale).toBe(true);
    await follow(state({ version: 2, runs: [run("r1", 2, ["a", "b"])] }));
    expect(app.streams.stale).toBe(false);
  });

  it("compared from another prompt shows its own tokens, and makes nothing stale", async () => {
    const runs = [run("r2", 1, ["c", "d", "e"]), run("r1", 2, ["a", "b"])];
    await follow(state({ version: 2, runs, current: { a: "r2", b: "r1" } }));
    expect(app.streams.tokens).toEqual(["c", "d", "e"]);
    expect([app.names.a, app.names.b]).toEqual(["other prompt", "baseline"]);
    expect(app.streams.stale).toBe(false);
    expect(app.streams.comparable).toBe(false);
    app.view.current.mode = "edit";
    expect(app.streams.tokens).toEqual(["a", "b"]);
  });
});

describe("the logit difference", () => {
  it("is centred for a newcomer, raw where that is chosen or no mean is known", async () => {
    await follow(state({}));
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit-centred", 2.5]);
    app.view.current.logits = "raw";
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit", 3]);
    app.view.current.logits = "centred";
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit-centred", 2.5]);
    const bare = state({});
    await follow({ ...bare, model: { ...bare.model!, dictionaries: [] } });
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit", 3]);
  });
});

describe("choosing a place", () => {
  const places = (): State => {
    const base = state({ selection: { layer: 0, pos: 1 } });
    const dictionaries = [info("pca@resid_post.0"), info("pca@resid_pre.0"), info("svd@resid_pre.0"), info("pca@z.0.h1", { site: "z.0", head: 1, place: "z.0 head 1", width: 2, beside_stream: false })];
    return { ...base, model: { ...base.model!, dictionaries } } as unknown as State;
  };
  const sent = () => fake.intent.mock.calls.map((call) => call as unknown as [string, unknown]).filter(([name]) => name === "select").at(-1)?.[1];
  beforeEach(async () => {
    await follow(places());
    await paint();
  });

  it("selects its direction and its row, from the answers too, at the token that was selected", () => {
    app.choosePlace("pca@resid_pre.0");
    expect([app.view.current.direction, app.mixing.dictionary?.id, app.mixing.component, app.site]).toEqual(["mix", "pca@resid_pre.0", 0, "embed"]);
    expect(sent()).toEqual({ layer: -1, pos: 1 });
    app.choosePlace("pca@resid_post.0");
    expect([app.mixing.dictionary?.id, app.site]).toEqual(["pca@resid_post.0", "resid_post.0"]);
  });

  it("keeps the component's number, and the row moves though the dictionary was chosen before", () => {
    app.showComponent(2);
    app.select(0, 1);
    app.choosePlace("pca@resid_post.0");
    expect([app.mixing.component, app.site]).toEqual([2, "resid_post.0"]);
    app.choosePlace("pca@resid_pre.0");
    expect([app.mixing.component, app.site]).toEqual([2, "embed"]);
  });

  it("puts a mix of several away and says so, for the sentence names one place's direction then", () => {
    app.view.current.weights = { 0: 0.5, 2: 1 };
    app.view.current.direction = "mix";
    app.choosePlace("pca@resid_pre.0");
    expect([app.mixing.terms.length, app.mixing.dictionary?.id]).toEqual([1, "pca@resid_pre.0"]);
    const notice = app.session.notices.list.at(-1)!;
    expect(notice.text).toContain("The mix was put away");
    notice.action!.run();
    expect([app.mixing.dictionary?.id, app.view.current.weights]).toEqual(["pca@resid_post.0", { 0: 0.5, 2: 1 }]);
  });

  it("of one kind after another goes to the nearest place that has it", () => {
    app.choosePlace("pca@resid_post.0");
    app.chooseKind("svd");
    expect([app.mixing.dictionary?.id, app.site]).toEqual(["svd@resid_pre.0", "embed"]);
  });

  it("of a saved direction reads it where it is of, unless a link says where", async () => {
    await follow({ ...places(), directions: [{ name: "mine", site: "resid_pre.0", head: null, space: "centred", width: 4, norm: 1, library: null }] } as unknown as State);
    app.showSaved("mine", true);
    app.followSaved();
    expect([app.shownSaved, app.site]).toEqual(["mine", "resid_post.0"]);
    app.showSaved("mine");
    app.followSaved();
    expect([app.shownSaved, app.site, app.told.terms[0].label, app.told.places]).toEqual(["mine", "embed", "“mine”", ["the embedding"]]);
  });

  it("reads a head's own vectors in the row of its layer", async () => {
    app.choosePlace("pca@z.0.h1");
    expect(sent()).toEqual({ layer: 0, pos: 1 });
    await follow();
    expect([app.site, app.told.row]).toEqual(["z.0", "z.0 head 1"]);
  });
});

describe("mixing", () => {
  const two = () => {
    const base = state({});
    const dictionaries = [info("pca@resid_post.0"), info("svd@resid_post.0"), info("pca@z.0.h1", { site: "z.0", head: 1, place: "z.0 head 1", width: 2 })];
    return { ...base, model: { ...base.model!, dictionaries, n_heads: 2 }, directions: [{ name: "mine", site: "embed", head: null, space: "raw", width: 4, norm: 1, library: null }] } as unknown as State;
  };
  /** value[row, pos] along one component, as the fake has it. */
  const value = (row: number, pos: number, k: number, shift = 0) => (row * 2 + pos) * 3 + k + shift;

  async function begin(): Promise<void> {
    await follow(two());
    await paint();
    app.view.pickComponent(2);
    await follow();
    await paint();
  }

  it("reads one component centred, in its own units, and says so", async () => {
    await begin();
    expect(app.streams.unit).toBe("centred");
    expect(app.streams.valueAt("base", 1, 1)).toBe(value(1, 1, 2) - 1);
    expect([app.directionName, app.directionTitle]).toEqual(["PC 2", "PC 2 of resid_post.0"]);
    expect(app.directions.ref).toEqual({ kind: "pca", site: "resid_post.0", weights: { 2: 1 } });
    app.view.setWeight(2, 0.25); // however small: alone it is itself
    app.view.applyWeights();
    expect(app.streams.valueAt("base", 1, 1)).toBe(value(1, 1, 2) - 1);
    app.view.setWeight(2, -0.25);
    app.view.applyWeights();
    expect(app.streams.valueAt("base", 1, 1)).toBe(1 - value(1, 1, 2));
  });

  it("of two dictionaries asks for the other once, then for nothing, and is read at length one by the products", async () => {
    await begin();
    app.mixing.include("svd@resid_post.0");
    await follow();
    await paint();
    expect(fake.asked).toContain("coef r1 svd@resid_post.0");
    expect(fake.asked).toContain("gram pca@resid_post.0+svd@resid_post.0");
    const before = fake.asked.length;
    app.view.dragging = true;
    app.view.setWeight(2, 0);
    app.mixing.setWeight("pca@resid_post.0", 0, 1);
    app.mixing.setWeight("svd@resid_post.0", 0, 1);
    app.view.applyWeights();
    await follow();
    expect(fake.asked).toHaveLength(before);
    expect(app.mixing.length).toBeCloseTo(Math.sqrt(3.2), 6);
    expect([app.streams.unit, app.streams.valueAt("base", 1, 0)]).toEqual(["raw", expect.closeTo((value(1, 0, 0) + value(1, 0, 0, 100)) / Math.sqrt(3.2), 4)]);
    expect(app.directions.ref).toEqual({ kind: "mix", terms: [{ dictionary: "pca@resid_post.0", index: 0, weight: 1 }, { dictionary: "svd@resid_post.0", index: 0, weight: 1 }] });
    app.view.dragging = false;
    await follow();
    expect(fake.asked.slice(before)).toEqual(["read_direction"]);
  });

  it("has no direction where all weights are zero", async () => {
    await begin();
    app.view.resetWeights();
    expect([app.mixing.zero, app.streams.field, app.directions.ref]).toEqual([true, null, null]);
  });

  it("keeps the picture while another layer's coordinates are on their way, and the component", async () => {
    await begin();
    const before = [...app.streams.field!.values];
    app.mixing.choose("svd@resid_post.0");
    expect([...app.streams.field!.values]).toEqual(before);
    expect(app.view.component).toBe(2);
    await follow();
    expect(app.streams.unit).toBe("raw");
    expect(app.streams.valueAt("base", 0, 1)).toBe(value(0, 1, 2, 100));
  });

  it("keeps a mix when another dictionary is chosen, under its own name", async () => {
    await begin();
    app.view.setWeight(0, 0.5);
    app.view.applyWeights();
    app.mixing.choose("svd@resid_post.0");
    await follow();
    await paint();
    expect(app.view.current.terms).toEqual({ "pca@resid_post.0/0": 0.5, "pca@resid_post.0/2": 1 });
    expect(app.streams.valueAt("base", 1, 1)).toBeCloseTo((0.5 * (value(1, 1, 0) - 1) + value(1, 1, 2) - 1) / Math.hypot(0.5, 1), 4);
    app.mixing.choose("pca@resid_post.0");
    expect(app.view.current.weights).toEqual({ 0: 0.5, 2: 1 });
    expect(app.view.current.terms).toEqual({});
  });

  it("of another width puts the mix away, and shows that site's own rows, raw where no mean is known", async () => {
    await begin();
    app.mixing.include("svd@resid_post.0");
    app.mixing.choose("pca@z.0.h1");
    await follow();
    expect(app.view.current.also).toEqual([]);
    expect([app.streams.rows, app.streams.sites[0], app.streams.unit, app.site, app.head]).toEqual([1, "z.0", "raw", "z.0", { head: 1 }]);
    expect(app.streams.lacksMean).not.toBe("");
    expect(app.streams.lacksNorm).not.toBe("");
  });

  it("adds, projects out and orthogonalises by the products alone", async () => {
    await begin();
    app.view.pickComponent(0);
    app.mixing.include("svd@resid_post.0");
    await follow();
    await paint();
    app.compare.take("SV 0", "SV 0 of resid_post.0", [{ source: "svd@resid_post.0", index: 0, weight: 1 }]);
    app.compare.take("SV 1", "SV 1 of resid_post.0", [{ source: "svd@resid_post.0", index: 1, weight: 1 }]);
    const before = fake.asked.length;
    expect(app.compare.cosineOf(0)).toBeCloseTo(0.6, 9);
    app.compare.apply("project_out", 0);
    expect(app.compare.cosineOf(0)).toBeCloseTo(0, 9);
    app.compare.apply("add", 1);
    expect(app.compare.cosineOf(1)).toBeGreaterThan(0.5);
    app.compare.orthogonalise();
    expect([app.compare.cosineOf(0), app.compare.cosineOf(1)]).toEqual([expect.closeTo(0, 9), expect.closeTo(0, 9)]);
    expect(Math.max(...app.mixing.terms.map(({ weight }) => Math.abs(weight)))).toBe(1);
    app.view.pickComponent(0);
    app.compare.take("PC 0", "PC 0 of resid_post.0", [{ source: "pca@resid_post.0", index: 0, weight: 1 }]);
    app.compare.apply("project_out", 2);
    expect(app.compare.failed).toContain("Nothing is left");
    expect(app.view.component).toBe(0);
    await follow();
    expect(fake.asked.slice(before).filter((asked) => asked !== "read_direction")).toEqual([]);
  });

  it("keeps a locked scale over dictionaries and prompts", async () => {
    await begin();
    app.view.current.locks.centred = 42;
    expect(app.streams.scale).toBe(42);
    app.mixing.choose("svd@resid_post.0"); // raw: another unit, another lock
    await follow();
    expect(app.streams.scale).not.toBe(42);
    app.mixing.choose("pca@resid_post.0");
    await follow({ ...two(), runs: [run("r2", 1, ["c", "d", "e"])], current: { a: "r2", b: null } } as State);
    expect([app.streams.data!.run, app.streams.scale]).toEqual(["r2", 42]);
  });
});
