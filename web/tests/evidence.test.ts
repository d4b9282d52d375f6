import { beforeEach, describe, expect, it, vi } from "vitest";
import type { Connector, Listener } from "../src/connect/connector";
import type { DirectionRef, State } from "../src/connect/wire";
import { App } from "../src/state/app.svelte";
import { EvidenceStore, spelled } from "../src/state/evidence.svelte";
import { rooted } from "./rooted";

const tok = (text: string, id: number) => ({ id, text });
function state(jobs: object[], items: object[] = [], positive = "x", hash = "h"): State {
  return {
    version: 1, model: { name: "m", hash, n_layers: 1, dictionaries: [], sites: [] }, models: [],
    status: { phase: "idle", detail: "", progress: null, forward_ms: 1, error: null }, prompt: null, companion: null,
    metric: { positive: tok(positive, 1), negative: tok("y", 2), chosen: true }, edits: [], can_undo: false, can_redo: false, links: { opened: 0, undo: false }, runs: [],
    current: { a: null, b: null }, selection: { layer: 0, pos: 0 }, saved: [], directions: [], fit: null, probes: [], probing: null, jobs,
    items: { items, bytes: 0, budget: 0, can_restore: false }, notices: [],
  } as unknown as State;
}
const ref = (positive: string): DirectionRef => ({ kind: "logit_diff", positive, negative: "y" });
const job = (id: string, positive: string, revision: number, phase = "running") => ({ id, method: "evidence", args: { direction: ref(positive) }, revision, phase, items: [] });
const item = (name: string, positive: string) => ({ name, method: "evidence", args: { direction: ref(positive) } });

class Fake implements Connector {
  asked: unknown[] = [];
  listener!: Listener;
  subscribe = (listener: Listener) => ((this.listener = listener), () => {});
  intent = vi.fn(async () => null as never);
  retry = () => {};
  link = (address: string) => address;
  async query<T>(name: string, args: Record<string, unknown> = {}): Promise<T> {
    if (name === "evidence") this.asked.push(args);
    return { ...args, edits: [], done: false } as T;
  }
  tensors = () => Promise.reject(new Error("none"));
  json = () => Promise.reject(new Error("none"));
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
  it("is asked for once for each part that comes, and then on the shelf", async () => {
    await follow(state([]));
    await follow(state([job("j1", "x", 0)]));
    expect(fake.asked).toEqual([]);
    expect(store.busy).toBe(true);
    for (const revision of [1, 1, 2]) await follow(state([job("j1", "x", revision)]));
    expect(fake.asked).toEqual([{ job: "j1" }, { job: "j1" }]);
    await follow(state([job("j1", "x", 3, "done")], [item("its own", "x")]));
    expect(fake.asked.at(-1)).toEqual({ item: "its own" });
    expect(store.busy).toBe(false);
    expect(store.stale).toBe(false);
  });

  it("is stale under another direction, and comes back with its own", async () => {
    await follow(state([], [item("of x", "x")]));
    await follow(state([], [item("of x", "x")], "z"));
    expect(store.stale).toBe(true);
    expect(store.evidence).toMatchObject({ item: "of x" });
    await follow(state([job("j2", "z", 1)], [item("of x", "x")], "z"));
    expect(store.stale).toBe(false);
    expect(store.evidence).toMatchObject({ job: "j2" });
    await follow(state([job("j2", "z", 1)], [item("of x", "x")], "x"));
    expect(store.evidence).toMatchObject({ item: "of x" });
    expect(store.stale).toBe(false);
  });

  it("goes with its model", async () => {
    await follow(state([job("j1", "x", 3)]));
    await follow(state([], [], "x", "other"));
    expect(store.evidence).toBeNull();
  });

  it("knows a direction however its fields are ordered", () => {
    expect(spelled("h", { kind: "pca", site: "s", weights: { "1": 1, "0": 2 } })).toBe(spelled("h", { weights: { "0": 2, "1": 1 }, site: "s", kind: "pca" } as DirectionRef));
    expect(spelled("h", ref("x"))).not.toBe(spelled("g", ref("x")));
  });
});
