import { flushSync } from "svelte";
import { beforeEach, describe, expect, it } from "vitest";
import type { DictionaryInfo, Job, ModelInfo, State } from "../src/connect/wire";
import { lacking, type MethodSchema, type Property } from "../src/lib/forms";
import { App } from "../src/state/app.svelte";
import { Fake, info, state } from "./fake";
import { rooted } from "./rooted";

const property = (kind: string, more: Partial<Property> = {}): Property => ({ kind, argument: "a", title: "text", ...more });
const method = (id: string, makes: string, properties: Record<string, Property> = {}): MethodSchema => ({ id, title: id, about: "", group: "directions", makes, properties, required: Object.keys(properties) });
const job = (id: string, more: Partial<Job>): Job => ({ id, method: "pca", title: "PCA", name: "", phase: "running", stage: "", progress: null, left: null, cost: null, seconds: null, revision: 0, items: [], note: "", warnings: [], error: null, args: null, ...more });

const shelf = (names: Record<string, string | null>): State["items"] => ({
  items: Object.entries(names).map(([name, id]) => ({ name, id, kind: id ? "dictionary" : "result", title: "", method: "", made: 0, bytes: 0, args: null, warnings: [], cut: false, changes: 0 })), bytes: 0, budget: 1, can_restore: false,
});
const having = (dictionaries: DictionaryInfo[], more: Partial<State> = {}): State => state({ model: { ...state({}).model!, dictionaries: dictionaries as ModelInfo["dictionaries"] }, jobs: [], items: shelf({}), ...more });

let fake: Fake;
let app: App;

beforeEach(() => {
  fake = new Fake();
  app = new App(fake, rooted());
  app.session.start();
  app.manifest.methods = [method("look", "report:look"), method("pca", "dictionary", { n: property("count", { default: 30 }) }), method("pca-stream", "dictionary"), method("ours", "dictionary")];
  app.manifest.methods[1].required = [];
});

describe("what is fitted from the page", () => {
  it("is any method that makes dictionaries; the whole stream where there are none yet", () => {
    fake.listener.state(having([]));
    expect(app.fitting.methods.map(({ id }) => id)).toEqual(["pca", "pca-stream", "ours"]);
    expect(app.fitting.schema!.id).toBe("pca-stream");
    fake.listener.state(having([info("pca@resid_post.0")]));
    expect(app.fitting.schema!.id).toBe("pca");
    app.fitting.choose("ours");
    expect(app.fitting.schema!.id).toBe("ours");
  });

  it("is chosen once it is there, and only where it was asked for here", async () => {
    const before = [info("pca@resid_post.0"), info("pca@resid_post.1")];
    fake.listener.state(having(before));
    app.fitting.begin();
    fake.intent.mockResolvedValueOnce({ job: "j2" } as never);
    await app.fitting.start();
    expect(fake.intent).toHaveBeenLastCalledWith("start", { method: "pca", args: { n: 30 } });
    const after = [...before, info("svd@resid_post.0"), info("svd@resid_post.1")];
    const items = shelf({ "a result": null, theirs: "svd@resid_post.0", ours: "svd@resid_post.1" });
    fake.listener.state(having(after.slice(0, 3), { items, jobs: [job("j1", { phase: "done", items: ["theirs"] }), job("j2", {})] }));
    app.fitting.follow();
    expect(app.mixing.dictionary!.id).toBe("pca@resid_post.1");
    expect(app.fitting.busy).toBe(true);
    fake.listener.state(having(after, { items, jobs: [job("j2", { phase: "done", items: ["ours"] })] }));
    app.fitting.follow();
    expect(app.mixing.dictionary!.id).toBe("svd@resid_post.1");
    expect(app.fitting.job).toBeNull();
  });

  it("is chosen too where it was there before its job's number was", async () => {
    fake.listener.state(having([]));
    app.fitting.begin();
    const stop = $effect.root(() => {
      $effect(() => app.fitting.follow());
    });
    fake.intent.mockImplementationOnce(async () => {
      fake.listener.state(having([info("svd@resid_post.1")], { items: shelf({ ours: "svd@resid_post.1" }), jobs: [job("j1", { phase: "done", items: ["ours"] })] }));
      flushSync();
      return { job: "j1" } as never;
    });
    await app.fitting.start();
    flushSync();
    expect(app.session.notices.list.at(-1)?.text).toContain("Fitted: resid_post.1");
    stop();
  });

  it("is told of while it runs, and where it failed until that is put away", () => {
    const error = { type: "EmptyCorpus", message: "no text", received: null, allowed: null, fix: null };
    fake.listener.state(having([], { jobs: [job("j1", { phase: "failed", error }), job("j2", { method: "look" }), job("j3", { phase: "waiting" })] }));
    expect(app.fitting.jobs.map(({ id }) => id)).toEqual(["j1", "j3"]);
    expect(app.fitting.job!.id).toBe("j3");
    fake.listener.state(having([], { jobs: [job("j1", { phase: "failed", error })] }));
    expect([app.fitting.job!.id, app.fitting.busy]).toEqual(["j1", false]);
    app.fitting.cancel("j1");
    expect(fake.intent).toHaveBeenLastCalledWith("cancel", { job: "j1" });
  });

  it("lacks something while one of two texts is", () => {
    const schema = method("mean-difference", "dictionary", { corpora: property("contrast", { title: "texts" }) });
    const text = { kind: "builtin", name: "python-docs" };
    expect(lacking(schema, { corpora: { first: text, second: null } }, null)).toBe("Say the texts.");
    expect(lacking(schema, { corpora: { first: text, second: text } }, null)).toBe("");
  });
});
