import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { SocketConnector } from "../src/connect/socket";
import { WireError, type Connection } from "../src/connect/connector";
import type { State } from "../src/connect/wire";
import { f32, pack } from "./pack";

class FakeSocket {
  static all: FakeSocket[] = [];
  readyState = 1;
  sent: { id: number; intent: string; args: unknown }[] = [];
  onmessage: ((event: { data: string | ArrayBuffer }) => void) | null = null;
  onclose: (() => void) | null = null;
  constructor(readonly url: string) {
    FakeSocket.all.push(this);
  }
  send(message: string | ArrayBuffer): void {
    this.sent.push(typeof message === "string" ? JSON.parse(message) : message);
  }
  close(): void {
    this.readyState = 3;
  }
  say(message: unknown): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }
  die(): void {
    this.readyState = 3;
    this.onclose?.();
  }
}

const refusal = { type: "PromptTooLong", message: "too long. Received: 3000. Allowed: 2048.", received: "3000", allowed: "2048", fix: null };
let states: State[];
let connections: Connection[];
let answer: Response;

function start() {
  const fetcher = vi.fn(async () => answer.clone()) as unknown as typeof fetch;
  const connector = new SocketConnector("http://127.0.0.1:8000/lab/", (url) => new FakeSocket(url) as never, fetcher);
  const stop = connector.subscribe({ state: (s) => states.push(s), connection: (c) => connections.push(c) });
  return { connector, stop, fetcher };
}

const socket = () => FakeSocket.all.at(-1)!;

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
  [states, connections] = [[], []];
  answer = new Response("{}");
});
afterEach(() => vi.useRealTimers());

describe("the connector", () => {
  it("opens beside the page, and mirrors state and patches", () => {
    start();
    expect(socket().url).toBe("ws://127.0.0.1:8000/lab/ws");
    socket().say({ seq: 4, state: { edits: [], can_undo: false } });
    socket().say({ seq: 5, patch: { can_undo: true } });
    expect(states).toEqual([{ edits: [], can_undo: false }, { edits: [], can_undo: true }]);
    expect(connections.at(-1)).toEqual({ phase: "open" });
  });

  it("matches answers to intents, whatever their order", async () => {
    const { connector } = start();
    const first = connector.intent("select", { layer: 3, pos: 1 });
    const second = connector.intent("set_prompt", { text: "x" });
    expect(socket().sent).toEqual([
      { id: 1, intent: "select", args: { layer: 3, pos: 1 } },
      { id: 2, intent: "set_prompt", args: { text: "x" } },
    ]);
    socket().say({ id: 2, error: refusal });
    socket().say({ id: 1, ok: true, value: 42 });
    expect(await first).toBe(42);
    const error = await second.catch((e: unknown) => e);
    expect(error).toBeInstanceOf(WireError);
    expect((error as WireError).name).toBe("PromptTooLong");
    expect((error as WireError).body).toEqual(refusal);
  });

  it("puts together a list of which only some is told, and comes anew where it lacks the rest", () => {
    start();
    const [first, second] = [{ id: "r1", label: "one" }, { id: "r2", label: "two" }];
    socket().say({ seq: 4, state: { runs: [first, second], can_undo: false } });
    socket().say({ seq: 5, patch: { can_undo: true }, parts: { runs: { ids: ["r2", "r3"], new: [{ id: "r3", label: "three" }] } } });
    expect(states.at(-1)).toEqual({ runs: [second, { id: "r3", label: "three" }], can_undo: true });
    expect(states.at(-1)!.runs[0]).toBe(states.at(-2)!.runs[1]);
    socket().say({ seq: 6, patch: {}, parts: { runs: { ids: ["r3", "r2"], new: [{ id: "r2", label: "renamed" }] } } });
    expect(states.at(-1)!.runs.map(({ label }) => label)).toEqual(["three", "renamed"]);
    socket().say({ seq: 7, patch: {}, parts: { runs: { ids: ["r1", "r2"], new: [] } } });
    expect(connections.at(-1)?.phase).toBe("lost");
  });

  it("takes several changes told as one, whatever of them it knows, and nothing twice", () => {
    start();
    socket().say({ seq: 4, state: { can_undo: false } });
    socket().say({ seq: 7, after: 2, patch: { can_undo: true } });
    socket().say({ seq: 9, after: 7, patch: { can_redo: true } });
    expect(states.at(-1)).toEqual({ can_undo: true, can_redo: true });
    expect(connections.at(-1)).toEqual({ phase: "open" });
    socket().say({ seq: 9, patch: { can_redo: false } });
    expect(connections.at(-1)?.phase).toBe("lost");
  });

  it("asks again when a busy server says, and tells in its words where it stays so, or a change was refused", async () => {
    const { connector, fetcher } = start();
    const busy = { type: "Busy", message: "Residscope is answering as much as it can. To fix: come back in 2 s.", fix: "come back in 2 s" };
    answer = new Response(JSON.stringify({ error: busy }), { status: 429, headers: { "retry-after": "2" } });
    const asked = connector.query("manifest");
    await vi.advanceTimersByTimeAsync(1_900);
    expect(fetcher).toHaveBeenCalledTimes(1);
    answer = new Response(JSON.stringify({ methods: [] }));
    await vi.advanceTimersByTimeAsync(1_200);
    expect(await asked).toEqual({ methods: [] });
    answer = new Response(JSON.stringify({ error: busy }), { status: 429, headers: { "retry-after": "2" } });
    await expect(connector.intent("library_vote", { id: "d1", value: 1 })).rejects.toThrow("come back in 2 s");
    expect(fetcher).toHaveBeenCalledTimes(3);
    const refused = connector.query("manifest").catch((error: Error) => error.name);
    await vi.advanceTimersByTimeAsync(20_000);
    expect(await refused).toBe("Busy");
    expect(fetcher).toHaveBeenCalledTimes(9);
    const left = new AbortController();
    const dropped = connector.query("manifest", undefined, left.signal).catch((error: Error) => error.name);
    await vi.advanceTimersByTimeAsync(0);
    left.abort();
    await vi.advanceTimersByTimeAsync(3_000);
    expect(await dropped).toBe("AbortError");
    expect(fetcher).toHaveBeenCalledTimes(10);
  });

  it("reconnects when a number is missing", () => {
    start();
    socket().say({ seq: 1, state: {} });
    socket().say({ seq: 3, patch: { can_undo: true } });
    expect(states).toHaveLength(1);
    expect(connections.at(-1)?.phase).toBe("lost");
    vi.advanceTimersByTime(300);
    expect(FakeSocket.all).toHaveLength(2);
    socket().say({ seq: 9, state: { can_undo: true } });
    expect(states.at(-1)).toEqual({ can_undo: true });
  });

  it("waits longer after each failure, refuses what was under way, and can be told to hurry", async () => {
    const { connector } = start();
    socket().say({ seq: 1, state: {} });
    const waiting = connector.intent("undo").catch((e: Error) => e.name);
    socket().die();
    expect(await waiting).toBe("ConnectionLost");
    await expect(connector.intent("undo")).rejects.toThrow("nothing was changed");
    vi.advanceTimersByTime(300);
    expect(FakeSocket.all).toHaveLength(2);
    socket().die();
    vi.advanceTimersByTime(599);
    expect(FakeSocket.all).toHaveLength(2);
    vi.advanceTimersByTime(1);
    expect(FakeSocket.all).toHaveLength(3);
    socket().die();
    connector.retry();
    expect(FakeSocket.all).toHaveLength(4);
  });

  it("asks over HTTP why it was turned away", async () => {
    start();
    answer = new Response(JSON.stringify({ error: { type: "NotAllowed", message: "no cookie" } }), { status: 401 });
    socket().die();
    await vi.advanceTimersByTimeAsync(1);
    expect(connections.at(-1)).toMatchObject({ phase: "lost", reason: { type: "NotAllowed", message: "no cookie" } });
  });

  it("asks below the page's own address, and raises the wire's errors", async () => {
    const { connector, fetcher } = start();
    answer = new Response(JSON.stringify({ top: [] }));
    expect(await connector.query("lens", { run: "r1", layer: 2, pos: 3 })).toEqual({ top: [] });
    const [address, init] = vi.mocked(fetcher).mock.calls[0];
    expect([address, init!.method, init!.body]).toEqual(["http://127.0.0.1:8000/lab/api/queries/lens", "POST", '{"run":"r1","layer":2,"pos":3}']);
    answer = new Response(JSON.stringify({ error: refusal }), { status: 404 });
    await expect(connector.query("stream", { run: "r1" })).rejects.toThrow(refusal.message);
    answer = new Response("<html>", { status: 502, statusText: "Bad Gateway" });
    await expect(connector.query("manifest")).rejects.toThrow("502 Bad Gateway");
  });

  const push = (run: string, value: number): void => {
    const head = new TextEncoder().encode(JSON.stringify({ query: "stream", args: { run } }));
    const tensors = new Uint8Array(pack({ norm: f32([1, 1], [value]) }));
    const message = new Uint8Array(4 + head.length + tensors.length);
    new DataView(message.buffer).setUint32(0, head.length, true);
    message.set(head, 4);
    message.set(tensors, 4 + head.length);
    socket().onmessage?.({ data: message.buffer });
  };
  const norm = async (connector: SocketConnector, run: string): Promise<number[]> => [
    ...(await connector.query("stream", { run })).tensors.norm.data,
  ];

  it("has the tensors of a run before they are asked for, where they came with the news of it", async () => {
    const { connector, fetcher } = start();
    push("r1", 3);
    expect(await norm(connector, "r1")).toEqual([3]);
    expect(fetcher).not.toHaveBeenCalled();
    answer = new Response(pack({ norm: f32([1, 1], [5]) }), { headers: { "content-type": "application/octet-stream" } });
    expect(await norm(connector, "r2")).toEqual([5]);
    expect(vi.mocked(fetcher).mock.calls[0][0]).toBe("http://127.0.0.1:8000/lab/api/queries/stream");
    expect(await norm(connector, "r1")).toEqual([5]); // used once: later it may be another
  });

  it("asks again once a mean or a dictionary is another", async () => {
    const { connector } = start();
    socket().say({ seq: 1, state: { edits: [] } });
    push("r1", 3);
    socket().say({ seq: 2, patch: { model: { dictionaries: [] } } });
    answer = new Response(pack({ norm: f32([1, 1], [5]) }), { headers: { "content-type": "application/octet-stream" } });
    expect(await norm(connector, "r1")).toEqual([5]);
  });

  it("sends a file that a socket would be closed for by request", async () => {
    const { connector, fetcher } = start();
    answer = new Response(JSON.stringify({ ok: true, value: { name: "large" } }));
    const large = new Blob([new Uint8Array((16 << 20) + 1)]);
    expect(await connector.intent("import_item", { name: "large", data: large })).toEqual({ name: "large" });
    expect([vi.mocked(fetcher).mock.calls[0][0], socket().sent]).toEqual(["http://127.0.0.1:8000/lab/api/intents/import_item?name=large", []]);
  });

  it("sends a file in one frame with what is said of it", async () => {
    const { connector } = start();
    const taken = connector.intent("import_item", { name: "ü", data: new Blob(["abc"]) });
    await vi.waitFor(() => expect(socket().sent).toHaveLength(1));
    const frame = socket().sent[0] as unknown as ArrayBuffer;
    const size = new DataView(frame).getUint32(0, true);
    const text = (from: number, to?: number) => new TextDecoder().decode(new Uint8Array(frame.slice(from, to)));
    expect(JSON.parse(text(4, 4 + size))).toEqual({ id: 1, intent: "import_item", args: { name: "ü" } });
    expect(text(4 + size)).toBe("abc");
    socket().say({ id: 1, ok: true, value: { name: "ü" } });
    expect(await taken).toEqual({ name: "ü" });
  });

  it("changes the library by request, for who one is stands in a cookie", async () => {
    const { connector, fetcher } = start();
    answer = new Response(JSON.stringify({ ok: true, value: { new: true } }));
    expect(await connector.intent("library_vote", { id: "s1", value: 1 })).toEqual({ new: true });
    expect(await connector.intent("library_import", { name: "a b", data: new Blob(["abc"]) })).toEqual({ new: true });
    expect(socket().sent).toEqual([]);
    const [voted, sent] = vi.mocked(fetcher).mock.calls;
    expect([voted[0], voted[1]!.body]).toEqual(["http://127.0.0.1:8000/lab/api/intents/library_vote", '{"id":"s1","value":1}']);
    expect(sent[0]).toBe("http://127.0.0.1:8000/lab/api/intents/library_import?name=a+b");
    expect([await (sent[1]!.body as Blob).text(), sent[1]!.headers]).toEqual(["abc", { "content-type": "application/octet-stream" }]);
    answer = new Response(JSON.stringify({ error: { type: "NoUser", message: "nobody is signed in" } }), { status: 403 });
    await expect(connector.intent("library_undo")).rejects.toMatchObject({ name: "NoUser" });
  });

  it("stays closed once stopped", () => {
    const { stop } = start();
    stop();
    socket().die();
    vi.advanceTimersByTime(60_000);
    expect(FakeSocket.all).toHaveLength(1);
  });
});
