import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Connector, Listener } from "../src/connect/connector";
import type { DirectionRef, State } from "../src/connect/wire";
import { App } from "../src/state/app.svelte";
import { EvidenceStore, spelled } from "../src/state/evidence.svelte";
import { rooted } from "./rooted";

const tok = (text: string, id: number) => ({ id, text });
function state(evidence: object | null, positive = "x", hash = "h"): State {
  return {
    version: 1, model: { name: "m", hash, n_layers: 1, dictionaries: [], sites: [] }, models: [],
    status: { phase: "idle", detail: "", progress: null, forward_ms: 1, error: null }, prompt: null,
    metric: { positive: tok(positive, 1), negative: tok("y", 2), chosen: true }, edits: [], can_undo: false, can_redo: false, runs: [],
    current: { a: null, b: null }, selection: { layer: 0, pos: 0 }, saved: [], directions: [], fit: null, probes: [], probing: null, evidence, notices: [],
  } as unknown as State;
}
const ref = (positive: string): DirectionRef => ({ kind: "logit_diff", positive, negative: "y" });
const gathering = (key: string, positive: string, revision: number, more = {}) => ({
  key, label: key, direction: ref(positive), stage: "Steering", progress: 0.5, error: null, done: false, revision, ...more,
});

class Fake implements Connector {
  asked: string[] = [];
  listener!: Listener;
  subscribe = (listener: Listener) => ((this.listener = listener), () => {});
  intent = vi.fn(async () => null);
  retry = () => {};
  query<T>(): Promise<T> {
    return Promise.resolve({ edits: [] } as T);
  }
  tensors = () => Promise.reject(new Error("none"));
  async json<T>(path: string): Promise<T> {
    this.asked.push(path);
    return { key: path.split("=")[1], done: false } as T;
  }
}

let fake: Fake;
let store: EvidenceStore;
async function follow(next: State): Promise<void> {
  fake.listener.state(next);
  store.follow();
  await new Promise((done) => setTimeout(done));
  store.follow();
}
beforeEach(() => {
  fake = new Fake();
  const app = new App(fake, rooted("#direction=logit"));
  app.view.current.direction = "logit";
  app.session.start();
  store = new EvidenceStore(app.session, app.directions);
});

describe("evidence", () => {
  it("is asked for once for each part that comes", async () => {
    await follow(state(null));
    await follow(state(gathering("k1", "x", 0)));
    expect(fake.asked).toEqual([]);
    expect(store.busy).toBe(true);
    for (const revision of [1, 1, 2]) await follow(state(gathering("k1", "x", revision)));
    expect(fake.asked).toEqual(["api/evidence?key=k1", "api/evidence?key=k1"]);
    expect(store.evidence?.key).toBe("k1");
    expect(store.stale).toBe(false);
  });

  it("is stale under another direction, and comes back with its own", async () => {
    await follow(state(gathering("k1", "x", 3, { done: true })));
    await follow(state(gathering("k1", "x", 3, { done: true }), "z"));
    expect(store.stale).toBe(true);
    expect(store.evidence?.key).toBe("k1");
    await follow(state(gathering("k2", "z", 1), "z"));
    expect(store.stale).toBe(false);
    expect(store.evidence?.key).toBe("k2");
    await follow(state(gathering("k2", "z", 1), "x"));
    expect(store.evidence?.key).toBe("k1");
    expect(store.stale).toBe(false);
  });

  it("goes with its model", async () => {
    await follow(state(gathering("k1", "x", 3)));
    await follow(state(null, "x", "other"));
    expect(store.evidence).toBeNull();
  });

  it("knows a direction however its fields are ordered", () => {
    expect(spelled("h", { kind: "pca", site: "s", weights: { "1": 1, "0": 2 } })).toBe(spelled("h", { weights: { "0": 2, "1": 1 }, site: "s", kind: "pca" } as DirectionRef));
    expect(spelled("h", ref("x"))).not.toBe(spelled("g", ref("x")));
  });
});
