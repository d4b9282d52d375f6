import { beforeEach, describe, expect, it, vi } from "vitest";
import { WireError } from "../src/connect/connector";
import type { ChosenToken, ContinuationsFound } from "../src/connect/said.generated";
import type { Job, ShownEdit, State } from "../src/connect/wire";
import { activeOf, differenceOf, idsUpTo, insideOf, limitOf, sheetOf, toldOf } from "../src/lib/generation";
import { decodeView, defaults, encodeView } from "../src/state/hash";
import { GenerationStore } from "../src/state/generation.svelte";
import { bare, Session } from "../src/state/session.svelte";
import { Fake, state, tok } from "./fake";

const token = (id: number, log_prob: number | null, other: number | null): ChosenToken => ({ id, text: `t${id}`, log_prob, other });
const run = (...tokens: ChosenToken[]) => ({ tokens, text: "", stopped: false });
const found = (more: Partial<ContinuationsFound> = {}): ContinuationsFound => ({
  prompt: [1, 2], job: "j1", item: null, revision: 1, done: true, edits: [], code: "print()",
  draws: [{ seed: 0, same: 1, said: "", baseline: run(token(7, -1, -2), token(8, -0.5, -4)), edited: run(token(7, -2, -1), token(9, -1, null)) }], ...more,
});

describe("what was generated", () => {
  it("is coloured by what the edits did, whichever side chose the token", () => {
    const [{ baseline, edited }] = found().draws;
    expect(baseline.tokens.map((one) => differenceOf(one, "baseline"))).toEqual([-1, -3.5]);
    expect(edited!.tokens.map((one) => differenceOf(one, "edited"))).toEqual([-1, null]);
    expect(limitOf(found())).toBe(3.5);
    expect(limitOf(found({ draws: [] }))).toBe(1);
  });

  it("tells both log-probabilities in one order, and what is not read yet", () => {
    expect(toldOf(token(8, -0.5, -4), "baseline", true)).toBe("log p −0.50 baseline, −4.00 edited, Δ −3.50 nats");
    expect(toldOf(token(7, -2, -1), "edited", true)).toBe("log p −1.00 baseline, −2.00 edited, Δ −1.00 nats");
    expect(toldOf(token(9, -1, null), "edited", true)).toBe("log p not read yet baseline, −1.00 edited");
    expect(toldOf(token(9, -1, null), "baseline", false)).toBe("log p −1.00 nats");
  });

  it("knows how far a prompt goes on with it", () => {
    const { tokens } = found().draws[0].baseline;
    expect(idsUpTo(found(), tokens, 1)).toEqual([1, 2, 7, 8]);
    expect([[1, 2], [1, 2, 7], [1, 2, 7, 8], [1, 2, 9], [1, 3, 7], [1], [1, 2, 7, 8, 9]].map((now) => insideOf(found(), tokens, now))).toEqual([-1, 0, 1, null, null, null, null]);
  });

  it("is a table, with one side where there are no edits", () => {
    const [draw] = found().draws;
    expect(sheetOf(draw).rows).toEqual([[0, "t7", -1, -2, "t7", -2, -1], [1, "t8", -0.5, -4, "t9", -1, null]]);
    expect(sheetOf({ ...draw, edited: null })).toEqual({ columns: ["token", "baseline", "log p"], rows: [[0, "t7", -1], [1, "t8", -0.5]] });
  });

  it("is asked for with the edits that a run applies", () => {
    const edit = { id: "e1", enabled: true, kind: "ablate", site: "z.1", label: "", glyph: "", beside: "", slider: null, at: { layer: null, pos: null }, delta: null, inert: null, error: null } as ShownEdit;
    expect(activeOf([edit, { ...edit, enabled: false }, { ...edit, error: "no" }], bare)).toEqual([{ kind: "ablate", site: "z.1" }]);
  });
});

const job = (id: string, phase: Job["phase"], more: Partial<Job> = {}): Job => ({
  id, phase, method: "continuations", title: "", name: "", stage: "", progress: null, left: null, cost: null, seconds: null, revision: 1, items: [], note: "", warnings: [], error: null, args: null, ...more,
});
const CUT = { id: "e1", enabled: true, kind: "ablate", site: "z.1", to: "zero", label: "", glyph: "", beside: "", slider: null, at: { layer: null, pos: null }, delta: null, inert: null, error: null } as ShownEdit;

let fake: Fake;
let store: GenerationStore;
let answer: ContinuationsFound;
let asked: Record<string, unknown>[];
const turn = () => new Promise((done) => setTimeout(done));
const view = { current: { selection: { layer: 1, pos: 0 }, mode: "base" } };
const items: State["items"] = { items: [], bytes: 0, budget: 1, can_restore: false };
const news = (jobs: Job[], more: Partial<State> = {}): void =>
  fake.listener.state({ ...state({}), prompt: { text: "ab", bos: false, by_ids: false, tokens: [tok("a", 1), tok("b", 2)] }, edits: [CUT], items, jobs, ...more } as State);
const intents = () => fake.intent.mock.calls as unknown as [string, Record<string, unknown>][];

beforeEach(() => {
  fake = new Fake();
  [answer, asked] = [found({ edits: [{ kind: "ablate", to: "zero", site: "z.1" }] }), []];
  fake.query = (async (_: string, args: Record<string, unknown>) => (asked.push(args), answer)) as never;
  const session = new Session(fake);
  session.start();
  news([]);
  store = new GenerationStore(session, view as never);
  store.open = true;
});

describe("the panel", () => {
  it("asks for what its form says, leaves it with the job, and puts the one before away", async () => {
    news([job("j1", "running"), job("j0", "done", { items: ["mine"] })]);
    Object.assign(store.form, { tokens: 5, temperature: 0.5, seed: 2, n: 3, stop: "·end↵" });
    await store.generate();
    expect(intents()).toEqual([
      ["start", { method: "continuations", keep: false, args: { prompt: { kind: "live" }, edits: [{ kind: "ablate", site: "z.1", to: "zero" }], max_new_tokens: 5, temperature: 0.5, seed: 2, n: 3, stop: " end\n" } }],
      ["cancel", { job: "j1" }],
    ]);
    fake.intent.mockClear();
    Object.assign(store.form, { temperature: 0, stop: "" });
    await store.generate();
    expect(intents()[0][1].args).toEqual({ prompt: { kind: "live" }, edits: [{ kind: "ablate", site: "z.1", to: "zero" }], max_new_tokens: 5, temperature: 0 });
  });

  it("says what its form lacks, and a refusal in the server's words", async () => {
    for (const [wrong, words] of [[{ tokens: null }, "Tokens"], [{ temperature: -1 }, "Temperature"], [{ temperature: 1, seed: 0.5 }, "Seed"], [{ temperature: 1, n: 0 }, "How many"]] as const) {
      Object.assign(store.form, { tokens: 5, temperature: 0, seed: 0, n: 1 }, wrong);
      expect(store.missing).toContain(words);
    }
    await store.generate();
    expect(intents()).toEqual([]);
    Object.assign(store.form, { tokens: 5, temperature: 0, seed: 0, n: 1 });
    fake.intent = vi.fn(async () => Promise.reject(new WireError({ type: "PromptTooLong", message: "too long" }))) as never;
    await store.generate();
    expect([store.refused, store.starting]).toEqual(["too long", false]);
  });

  it("follows its job one question at a time, and begins anew with another", async () => {
    news([job("j1", "running")]);
    store.follow();
    news([job("j1", "running", { revision: 2 })]);
    store.follow();
    expect(asked).toEqual([{ job: "j1" }]);
    await turn();
    await turn();
    expect(asked).toEqual([{ job: "j1" }, { job: "j1" }]);
    expect(store.found).toEqual(answer);
    news([job("j1", "running", { revision: 2 }), job("j2", "waiting", { revision: 0 })]);
    store.follow();
    expect([store.found, store.busy]).toEqual([null, true]);
  });

  it("shows what was kept where no job is left", async () => {
    news([], { items: { ...items, items: [{ name: "mine", id: null, kind: "report:continuations", title: "", method: "continuations", made: 0, bytes: 0, args: null, warnings: [], cut: false, changes: 0 }] } });
    store.follow();
    await turn();
    expect(asked).toEqual([{ item: "mine" }]);
    expect(store.keepable).toBe(false);
  });

  it("is stale once the prompt or the edits are others, but not where the prompt goes on with its tokens", async () => {
    const jobs = [job("j1", "done")];
    news(jobs);
    store.follow();
    await turn();
    expect([store.stale, store.extended, store.keepable]).toEqual(["", false, true]);
    const prompt = (...ids: number[]) => ({ prompt: { text: "", bos: false, by_ids: false, chat: null, tokens: ids.map((id) => tok("x", id)) } });
    news(jobs, prompt(1, 2, 7, 9));
    expect([store.stale, store.extended, store.inside]).toEqual(["", true, [{ baseline: null, edited: 1 }]]);
    news(jobs, prompt(1, 5));
    expect([store.stale, store.elsewhere]).toEqual(["It continues another prompt.", true]);
    news(jobs, { edits: [] });
    expect(store.stale).toBe("The edits have changed since.");
    news(jobs, { edits: [{ ...CUT, id: "e2", head: null } as ShownEdit, { ...CUT, id: "e3", enabled: false }] });
    expect(store.stale).toBe("");
  });

  it("looks inside a token by its ids, on the side that chose it", async () => {
    news([job("j1", "done")]);
    store.follow();
    await turn();
    await store.look(answer.draws[0], "edited", 1);
    expect(intents()).toEqual([["set_tokens", { ids: [1, 2, 7, 9] }]]);
    expect(view.current).toEqual({ selection: null, mode: "edit" });
    store.back();
    expect(intents()[1]).toEqual(["set_tokens", { ids: [1, 2] }]);
  });
});

describe("a link to a prompt that was set by its ids", () => {
  const shared = { model: "m", hash: "h", prompt: "hello", bos: false, metric: null, edits: [], probes: [] };
  it("carries them, and takes nothing else for them", () => {
    expect(decodeView(encodeView(defaults(), { ...shared, ids: [3, 4] })).shared?.ids).toEqual([3, 4]);
    expect(decodeView(encodeView(defaults(), shared)).shared).not.toHaveProperty("ids");
    expect(decodeView(encodeView(defaults(), { ...shared, ids: ["3"] as never })).shared).not.toHaveProperty("ids");
  });
});
