import { describe, expect, it, vi } from "vitest";
import type { Connector, Listener } from "../src/connect/connector";
import type { ItemInfo, Job, State } from "../src/connect/wire";
import { alike, Measured } from "../src/state/measured.svelte";
import { Session } from "../src/state/session.svelte";
import { headsIn } from "../src/state/study.svelte";

const ARGS = { data: { kind: "probe", probe: "p", part: "held_out" }, edits: [{ kind: "lrqp", log_alpha: 3 }] };
/** What the server keeps of a call: the same, with all that was left out. */
const kept = (args: object) => ({ batch: 32, ...args, seed: 0 });
const job = (more: Partial<Job>) => ({ id: "j1", method: "intervene", phase: "running", revision: 0, items: [], args: kept(ARGS), ...more }) as Job;
const item = (more: Partial<ItemInfo>) => ({ name: "a", method: "intervene", made: 1, args: kept(ARGS), ...more }) as ItemInfo;

function opened(args: () => Record<string, unknown> | null = () => ARGS) {
  let listener!: Listener;
  const connector = {
    subscribe: (to: Listener) => ((listener = to), () => {}),
    intent: vi.fn(async () => ({ job: "j1" })),
    query: vi.fn(async (name: string): Promise<unknown> => (name === "cost" ? { seconds: 4 } : { views: [{ kind: "text", of: name }] })),
  };
  const session = new Session(connector as unknown as Connector);
  session.start();
  const state = (jobs: Job[], items: ItemInfo[]) => listener.state({ jobs, items: { items }, links: { opened: 0, undo: false }, notices: [] } as unknown as State);
  const measured = new Measured(session, "intervene", args, (other) => alike(other?.data, ARGS.data));
  const follow = async () => {
    measured.followViews();
    await new Promise((done) => setTimeout(done));
  };
  return { measured, connector, state, follow };
}

describe("what a tab asks of a method", () => {
  it("is answered by the item of that very call, whoever asked for it, and greyed where another was answered", async () => {
    const { measured, state, follow, connector } = opened();
    state([], [item({ name: "other", method: "look" }), item({ name: "mine" })]);
    await follow();
    expect([measured.item?.name, measured.stale]).toEqual(["mine", false]);
    expect(connector.query).toHaveBeenLastCalledWith("item", { name: "mine" });
    expect(measured.views).toHaveLength(1);
    state([], [item({ name: "weaker", args: kept({ ...ARGS, edits: [{ kind: "lrqp", log_alpha: 1 }] }) })]);
    expect([measured.item?.name, measured.stale, measured.views]).toEqual(["weaker", true, null]);
    state([], [item({ name: "elsewhere", args: kept({ ...ARGS, data: { kind: "task" } }) })]);
    expect(measured.item).toBeNull();
    // an edit that says less is another edit
    state([], [item({ args: kept({ ...ARGS, edits: [{ kind: "lrqp" }] }) })]);
    expect(measured.stale).toBe(true);
  });

  it("says how far it is, what went wrong, and is dismissed", async () => {
    const { measured, state, connector } = opened();
    state([job({}), job({ id: "j0", method: "look" })], []);
    expect([measured.running, measured.job?.id]).toEqual([true, "j1"]);
    await measured.cancel();
    expect(connector.intent).toHaveBeenLastCalledWith("cancel", { job: "j1" });
    state([job({ phase: "failed", error: { type: "X", message: "no answers" } as Job["error"] })], []);
    expect([measured.running, measured.error]).toEqual([false, "no answers"]);
    state([job({ phase: "failed" }), job({ id: "j2", phase: "done" })], [item({})]);
    expect([measured.job, measured.error]).toEqual([null, ""]);
  });

  it("asks for nothing, and for no price, where there is nothing to ask", async () => {
    const { measured, state, connector } = opened(() => null);
    state([job({})], []);
    expect([measured.job, measured.item, measured.followCost()]).toEqual([null, null, undefined]);
    await measured.start();
    expect(connector.intent).not.toHaveBeenCalled();
  });

  it("is priced once, and not again once it is answered", async () => {
    const { measured, state, connector } = opened();
    state([], []);
    vi.useFakeTimers();
    measured.followCost();
    await vi.runAllTimersAsync();
    vi.useRealTimers();
    expect(measured.cost).toBe(4);
    expect(measured.followCost()).toBeUndefined();
    state([], [item({})]);
    expect(measured.followCost()).toBeUndefined();
    expect(connector.query).toHaveBeenCalledTimes(1);
  });
});

it("heads are read out of the table of their roles", () => {
  const rows = [["name movers", "23.0", 1], ["name movers", "23.2", 0.5], ["S-inhibition heads", "20.0", 0]];
  const report = { kind: "grid", views: [{ kind: "table", columns: ["role", "head", "direct"], rows }] };
  expect(headsIn([report] as unknown as Parameters<typeof headsIn>[0])).toEqual({ "name movers": ["23.0", "23.2"], "S-inhibition heads": ["20.0"] });
  expect(headsIn(null)).toEqual({});
});
