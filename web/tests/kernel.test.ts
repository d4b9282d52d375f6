import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { WireError, type Connection } from "../src/connect/connector";
import { KernelConnector, type KernelModel } from "../src/connect/kernel";
import type { State } from "../src/connect/wire";
import { f32, pack } from "./pack";

type Hear = (...args: never[]) => void;

/** A widget's model as a notebook has it, with the kernel's side in the test's hands. */
class FakeModel implements KernelModel {
  sent: { content: Record<string, unknown>; buffers: ArrayBuffer[] }[] = [];
  private heard = new Map<string, Set<Hear>>();
  get(name: string): unknown {
    return { page: "hash", place: "place", height: 720 }[name];
  }
  send(content: unknown, _callbacks?: unknown, buffers: ArrayBuffer[] = []): void {
    this.sent.push({ content: content as Record<string, unknown>, buffers });
  }
  on(name: string, callback: Hear): void {
    this.heard.set(name, (this.heard.get(name) ?? new Set()).add(callback));
  }
  off(name: string, callback?: Hear): void {
    if (callback) this.heard.get(name)?.delete(callback);
    else this.heard.delete(name);
  }
  fire(name: string, ...args: unknown[]): void {
    for (const callback of [...(this.heard.get(name) ?? [])]) (callback as (...args: unknown[]) => void)(...args);
  }
  say(content: Record<string, unknown>, buffers: (ArrayBuffer | DataView)[] = []): void {
    this.fire("msg:custom", { to: this.page, ...content }, buffers);
  }
  get page(): string {
    return String(this.sent[0].content.page);
  }
  get last(): Record<string, unknown> {
    return this.sent.at(-1)!.content;
  }
  of(kind: string): Record<string, unknown>[] {
    return this.sent.map(({ content }) => content).filter((content) => kind in content);
  }
  get listeners(): number {
    return [...this.heard.values()].reduce((sum, set) => sum + set.size, 0);
  }
}

const refusal = { type: "PromptTooLong", message: "too long.", received: "3000", allowed: "2048", fix: null };
let states: State[];
let heard: number[];
let connections: Connection[];
let model: FakeModel;
let connector: KernelConnector;
let stop: () => void;

function start(): void {
  model = new FakeModel();
  connector = new KernelConnector(model);
  stop = connector.subscribe({ state: (state, seq) => (states.push(state), heard.push(seq ?? -1)), connection: (connection) => connections.push(connection) });
}
const opened = (): void => {
  start();
  model.say({ seq: 4, state: { edits: [], can_undo: false } });
};

beforeEach(() => {
  vi.useFakeTimers();
  [states, heard, connections] = [[], [], []];
});
afterEach(() => vi.useRealTimers());

describe("the kernel's connector", () => {
  it("says hello until it is answered, since a kernel may not listen yet", () => {
    start();
    vi.advanceTimersByTime(2_000);
    expect(model.of("hello").length).toBeGreaterThan(2);
    const said = model.of("hello").length;
    model.say({ seq: 4, state: { edits: [] } });
    expect(connections).toEqual([{ phase: "connecting" }, { phase: "open" }]);
    vi.advanceTimersByTime(1_500);
    expect(model.of("hello").length).toBe(said);
  });

  it("mirrors state and news, what is meant for all or for it, and no other page's", () => {
    opened();
    model.fire("msg:custom", { seq: 5, patch: { can_undo: true } }, []);
    model.fire("msg:custom", { to: "another", seq: 9, state: { edits: [1] } }, []);
    model.fire("msg:custom", { seq: 5, patch: { can_undo: false } }, []); // older than the state that a second page was sent
    expect(states).toEqual([{ edits: [], can_undo: false }, { edits: [], can_undo: true }]);
    expect(heard).toEqual([4, 5]);
    expect(model.of("hello")).toHaveLength(1);
  });

  it("asks for the whole state where a number is missing", () => {
    opened();
    model.fire("msg:custom", { seq: 7, patch: { can_undo: true } }, []);
    expect(states).toHaveLength(1);
    expect(model.of("hello")).toHaveLength(2);
    model.say({ seq: 7, state: { edits: [], can_undo: true } });
    expect(states.at(-1)).toEqual({ edits: [], can_undo: true });
  });

  it("matches answers to what was asked, whatever their order", async () => {
    opened();
    const first = connector.intent("select", { layer: 3, pos: 1 });
    const second = connector.intent("set_prompt", { text: "x" });
    await vi.advanceTimersByTimeAsync(0);
    expect(model.of("intent").map(({ intent, args, id }) => [intent, args, id])).toEqual([["select", { layer: 3, pos: 1 }, 1], ["set_prompt", { text: "x" }, 2]]);
    model.say({ id: 2, error: refusal });
    model.say({ id: 1, ok: true, value: 42 });
    expect(await first).toBe(42);
    expect(((await second.catch((error: unknown) => error)) as WireError).body).toEqual(refusal);
  });

  it("reads tensors wherever they begin in what they came in", async () => {
    opened();
    const file = pack({ coef: f32([1, 2], [1.5, -2]) });
    const held = new Uint8Array(file.byteLength + 3);
    held.set(new Uint8Array(file), 3);
    const asked = connector.query("coef", { run: "r1", dictionary: "d" });
    await vi.advanceTimersByTimeAsync(0);
    model.say({ id: 1, ok: true, tensors: true }, [new DataView(held.buffer, 3)]);
    const answer = (await asked) as unknown as { tensors: { coef: { data: Float32Array } } };
    expect([...answer.tensors.coef.data]).toEqual([1.5, -2]);
  });

  it("has what came before it was asked for, once", async () => {
    opened();
    model.say({ pushed: { query: "logits", args: { run: "r1", positive: 1, negative: 2 } } }, [pack({ value: f32([1, 1], [3]) })]);
    const ask = () => connector.query("logits", { negative: 2, positive: 1, run: "r1" });
    await ask();
    expect(model.of("query")).toHaveLength(0);
    void ask();
    await vi.advanceTimersByTimeAsync(0);
    expect(model.of("query")).toHaveLength(1);
  });

  it("sends files beside their intent, and fetches items as files", async () => {
    opened();
    void connector.intent("import_item", { data: new Blob(["abc"]), name: "mine" });
    await vi.advanceTimersByTimeAsync(0);
    const { content, buffers } = model.sent.at(-1)!;
    expect(content).toMatchObject({ intent: "import_item", args: { name: "mine" } });
    expect(new TextDecoder().decode(buffers[0])).toBe("abc");
    const file = connector.file("mine", ".csv");
    await vi.advanceTimersByTimeAsync(0);
    model.say({ id: 2, ok: true, value: "mine.csv" }, [new TextEncoder().encode("a,b").buffer as ArrayBuffer]);
    const got = await file;
    expect([got.name, await got.data.text()]).toEqual(["mine.csv", "a,b"]);
  });

  it("says that the kernel is busy, and goes on where it was once that answers", async () => {
    opened();
    const asked = connector.intent("set_prompt", { text: "x" });
    await vi.advanceTimersByTimeAsync(9_000);
    expect(connections.at(-1)).toMatchObject({ phase: "busy", reason: { type: "KernelBusy" } });
    model.say({ id: 1, ok: true, value: null });
    expect(connections.at(-1)).toEqual({ phase: "open" });
    expect(await asked).toBe(null);
    expect(model.of("hello")).toHaveLength(1);
  });

  it("stays open while its pings are answered", () => {
    opened();
    for (let second = 0; second < 30; second++) {
      vi.advanceTimersByTime(1_000);
      if ("ping" in model.last) model.say({ pong: model.last.ping });
    }
    expect(connections.map(({ phase }) => phase)).toEqual(["connecting", "open"]);
  });

  it.each(["comm:close", "ended"])("says that the kernel is gone: %s", async (how) => {
    opened();
    const asked = connector.intent("set_prompt", { text: "x" }).catch((error: unknown) => error);
    await vi.advanceTimersByTimeAsync(0);
    if (how === "ended") model.fire("msg:custom", { ended: true }, []);
    else model.fire(how);
    expect(connections.at(-1)).toMatchObject({ phase: "lost", retryAt: null });
    expect(((await asked) as WireError).name).toBe("ConnectionLost");
    await expect(connector.query("manifest")).rejects.toThrow("Run the cell");
  });

  it("goes on over the widget of the next kernel", () => {
    opened();
    model.fire("comm:close");
    const next = new FakeModel();
    connector.moveTo(next);
    expect(model.listeners).toBe(0);
    expect(next.of("hello")).toHaveLength(1);
    next.say({ seq: 1, state: { edits: [], session: "another" } });
    expect(states.at(-1)).toEqual({ edits: [], session: "another" });
    expect(connections.at(-1)).toEqual({ phase: "open" });
  });

  it("may be begun anew before the page that leaves has left", () => {
    opened();
    const again = connector.subscribe({ state: (state) => states.push(state), connection: () => {} });
    stop();
    expect(model.of("bye")).toHaveLength(0);
    model.say({ seq: 5, state: { edits: [], can_undo: true } });
    expect(states.at(-1)).toEqual({ edits: [], can_undo: true });
    again();
    expect(model.of("bye")).toHaveLength(1);
    expect(model.listeners).toBe(0);
  });
});
