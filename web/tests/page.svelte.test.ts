import { beforeEach, describe, expect, it, vi } from "vitest";
import { WireError } from "../src/connect/connector";
import type { Job, State } from "../src/connect/wire";
import { PromptStore } from "../src/state/prompts.svelte";
import { Session } from "../src/state/session.svelte";
import { Fake, state } from "./fake";

const job = (id: string, phase: Job["phase"], more: Partial<Job> = {}): Job => ({
  id, phase, method: "draw-prompts", title: "", name: "", stage: "", progress: null, left: null, cost: null, seconds: null, revision: 0, items: [], note: "", warnings: [], error: null, args: null, ...more,
});
const pageOf = (id: string) => ({ id, prompts: [{ text: "ab", own: true, tokens: [], next: [] }] });

let fake: Fake;
let session: Session;
let store: PromptStore;
let asked: [string, unknown][];
let drawn: { job: string; ready: boolean };
const turn = () => new Promise((done) => setTimeout(done));
const news = (jobs: Job[]): void => fake.listener.state({ ...state({}), jobs } as State);
const intents = () => fake.intent.mock.calls as unknown as [string, Record<string, unknown>][];

/** What the tab's effect does. */
async function follow(): Promise<void> {
  store.follow();
  await turn();
  await turn();
}

beforeEach(() => {
  fake = new Fake();
  asked = [];
  drawn = { job: "j1", ready: false };
  fake.query = (async (name: string, args: Record<string, unknown>) => (asked.push([name, args]), pageOf(`p${asked.length}`))) as never;
  fake.intent = vi.fn(async (name: string) => (name === "draw_prompts" ? { ...drawn } : null)) as never;
  session = new Session(fake);
  session.start();
  news([]);
  const view = { current: { direction: "mix" }, dragging: false };
  store = new PromptStore(session, view as never, { unit: "raw", first: -1 } as never, { play: [], terms: [], zero: false, ready: false } as never, () => 0);
});

describe("a page of prompts", () => {
  it("shows one's own at once, and those that a job draws once it is done", async () => {
    await follow();
    expect(asked).toEqual([["prompts", { own: ["ab"] }]]);
    expect(intents()).toEqual([["draw_prompts", { text: { kind: "builtin", name: "python-docs" }, n: 20, length: 40, seed: 0 }]]);
    expect([store.page?.id, store.waiting > 0]).toEqual(["p1", true]);
    news([job("j1", "waiting")]);
    expect(store.stage).toBe("Waiting for the job before it");
    news([job("j1", "running", { stage: "Reading prompts" })]);
    expect([store.stage, asked.length]).toEqual(["Reading prompts", 1]);
    news([job("j1", "done")]);
    await turn();
    expect(asked[1]).toEqual(["prompts", { own: ["ab"], drawn: "j1" }]);
    expect([store.page?.id, store.waiting, store.error]).toEqual(["p2", 0, ""]);
  });

  it("shows those that a job has read so far, and never fewer in the end", async () => {
    await follow();
    news([job("j1", "running", { revision: 1 })]);
    await turn();
    expect(asked.slice(1)).toEqual([["prompts", { own: ["ab"], drawn: "j1" }]]);
    expect([store.page?.id, store.from, store.waiting > 0]).toEqual(["p2", "Python documentation", true]);
    let late: () => void = () => {};
    const query = fake.query;
    fake.query = (async (name: never, args: never) => (await new Promise<void>((go) => (late = go)), query(name, args))) as never;
    news([job("j1", "running", { revision: 2 })]);
    fake.query = query;
    news([job("j1", "done", { revision: 2 })]);
    await turn();
    expect([store.page?.id, store.waiting]).toEqual(["p3", 0]);
    late();
    await turn();
    expect([store.page?.id, asked.length]).toEqual(["p3", 4]);
  });

  it("waits for no job where the same is drawn already", async () => {
    drawn = { job: "j0", ready: true };
    await follow();
    expect(asked.at(-1)).toEqual(["prompts", { own: ["ab"], drawn: "j0" }]);
    expect(store.waiting).toBe(0);
  });

  it("says in the job's words why there are none", async () => {
    await follow();
    news([job("j1", "failed", { error: { type: "EmptyCorpus", message: "the text gave no prompt", received: null, allowed: null, fix: null } })]);
    await turn();
    expect([store.error, store.waiting, store.page?.id]).toEqual(["the text gave no prompt", 0, "p1"]);
  });

  it("that is cancelled stops its job, and what comes later changes nothing", async () => {
    await follow();
    news([job("j1", "running")]);
    store.cancel();
    expect(intents().at(-1)).toEqual(["cancel", { job: "j1" }]);
    news([job("j1", "done")]);
    await turn();
    expect([asked.length, store.waiting]).toEqual([1, 0]);
    expect(store.error).toContain("Stopped");
  });
});

describe("waiting for a job", () => {
  const forever = new AbortController().signal;

  it("lasts until its line says how it ended, though it be known only later, or is put away", async () => {
    const [late, gone] = [session.ended("j8", forever), session.ended("j9", forever)];
    news([job("j9", "running")]);
    news([job("j8", "done")]);
    expect([(await late)?.phase, await gone]).toEqual(["done", null]);
    expect((await session.ended("j8", forever))?.phase).toBe("done");
  });

  it("can be left", async () => {
    const stop = new AbortController();
    const waiting = session.ended("j8", stop.signal);
    stop.abort(new WireError({ type: "Left", message: "left" }));
    await expect(waiting).rejects.toThrow("left");
    await expect(session.ended("j8", stop.signal)).rejects.toThrow("left");
  });
});
