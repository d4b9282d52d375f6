import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { Connector, Listener } from "../src/connect/connector";
import { parseSafetensors } from "../src/connect/safetensors";
import type { Run, State } from "../src/connect/wire";
import { App } from "../src/state/app.svelte";
import { f32, pack } from "./pack";

const tok = (text: string, id = 1) => ({ id, text });
const run = (id: string, version: number, texts: string[], more: Partial<Run> = {}): Run => ({
  id, version, label: "unedited", prompt: texts.join(""), tokens: texts.map((text) => tok(text)), edits: 0, metric: 1, top: [], seconds: 0.1, ...more,
});

function state(more: Partial<State>): State {
  const base = {
    version: 1,
    model: { name: "m", hash: "h", n_layers: 1, dictionaries: [{ id: "pca@resid_post.0", site: "resid_post.0", head: null, kind: "pca", n: 1, fitted_on: "" }], sites: [] },
    models: [], status: { phase: "idle", detail: "", progress: null, forward_ms: 1, error: null },
    prompt: { text: "ab", bos: false, tokens: [tok("a"), tok("b")] },
    metric: { positive: tok("x", 1), negative: tok("y", 2), chosen: true },
    edits: [], can_undo: false, can_redo: false, runs: [run("r1", 1, ["a", "b"])], current: { a: "r1", b: null },
    selection: { layer: 0, pos: 1 }, saved: [], directions: [], fit: null, probes: [], probing: null, notices: [],
  };
  return { ...base, ...more } as unknown as State;
}

/** A session that answers at once, and remembers what it was asked. */
class Fake implements Connector {
  asked: string[] = [];
  listener!: Listener;
  cols = new Map([["r1", 2], ["r2", 3]]);
  subscribe = (listener: Listener) => ((this.listener = listener), () => {});
  intent = vi.fn(async () => null);
  retry = () => {};
  async tensors(path: string) {
    this.asked.push(path);
    const cols = this.cols.get(/runs\/(\w+)/.exec(path)![1])!;
    const cells = Array.from({ length: 2 * cols }, (_, i) => i);
    if (path.includes("logits")) return parseSafetensors(pack({ value: f32([2, cols], cells), offset: f32([2, cols], cells.map(() => 0.5)) }));
    if (path.includes("coef")) return parseSafetensors(pack({ coef: f32([2, cols, 1], cells), offset: f32([2, 1], [0, 0]) }));
    return parseSafetensors(pack({ norm: f32([2, cols], cells), next_p: f32([cols, 0], []) }, { next_text: "[]" }));
  }
  async json<T>(path: string): Promise<T> {
    this.asked.push(path);
    return { components: [], top: [], bottom: [] } as T;
  }
}

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
  app = new App(fake, "");
  app.session.start();
});
afterEach(() => vi.unstubAllGlobals());

describe("what is asked of the server", () => {
  it("is the picture first; directions wait until it is painted", async () => {
    await follow(state({}));
    expect(fake.asked).toEqual(["api/runs/r1/stream", "api/runs/r1/coef?dictionary=pca%40resid_post.0", "api/runs/r1/logits?positive=1&negative=2"]);
    expect(app.streams.field).not.toBeNull();
    await paint();
    expect(fake.asked.slice(3)).toEqual(["api/dictionaries?id=pca%40resid_post.0", "api/directions/read"]);
  });

  it("is nothing twice", async () => {
    await follow(state({}));
    await paint();
    const before = fake.asked.length;
    await follow(state({ selection: { layer: 0, pos: 0 } }));
    expect(fake.asked).toHaveLength(before);
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
  it("is raw until it is centred, and only where the mean is known", async () => {
    await follow(state({}));
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit", 3]);
    app.view.current.logits = "centred";
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit-centred", 2.5]);
    const bare = state({});
    await follow({ ...bare, model: { ...bare.model!, dictionaries: [] } });
    expect([app.streams.unit, app.streams.valueAt("base", 1, 1)]).toEqual(["logit", 3]);
  });
});
