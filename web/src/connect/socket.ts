import { baseAddress } from "../root/host";
import { isErrorBody, WireError, type Connector, type IntentAnswers, type Intents, type Listener, type Queries, type QueryAnswers } from "./connector";
import { lost, Mirror, type Message } from "./mirror";
import { parseSafetensors } from "./safetensors";
import { headerOf, opened } from "./secret";
import type { ErrorBody } from "./wire";

const FIRST_WAIT = 300;
const LONGEST_WAIT = 10_000;

/** Times that a question is asked again of a server that is busy; it says when. */
const AGAIN = 5;

const OCTETS = "application/octet-stream";
/** Who one is stands in a cookie, which comes with a request and is set by its answer. */
const byCookie = (name: string): boolean => name.startsWith("library_");

const NAMES = new Set(["library_sign_in", "library_sign_out"]);

/** Larger files go by request: a socket is closed by so large a message. */
const MOST_FRAMED = 16 << 20;

/** The session over HTTP and one WebSocket, reconnecting whenever the socket or the numbering breaks. */
export class SocketConnector extends Mirror implements Connector {
  private socket: WebSocket | null = null;
  private attempt = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private base: string = baseAddress(),
    private open: (url: string) => WebSocket = (url) => new WebSocket(url),
    private fetcher: typeof fetch = (input, init) => fetch(input, init),
    private secret = "",
  ) {
    super();
  }

  subscribe(listener: Listener): () => void {
    this.listener = listener;
    this.connect();
    return () => {
      this.listener = null;
      clearTimeout(this.timer);
      this.drop(lost("The page was closed."));
    };
  }

  async intent<N extends keyof Intents>(name: N, args?: Intents[N]): Promise<IntentAnswers[N]> {
    return this.send(name, { ...args }) as Promise<IntentAnswers[N]>;
  }

  private async send(name: string, given: Record<string, unknown>): Promise<unknown> {
    const { data, ...rest } = given;
    if (byCookie(name) || (data instanceof Blob && data.size > MOST_FRAMED)) {
      const answer = await this.post(name, given);
      if (NAMES.has(name) && this.socket?.readyState === 1) this.socket.send(JSON.stringify({ id: 0, intent: name, args: given })); // who is at this socket
      return answer;
    }
    const file = data instanceof Blob ? await data.arrayBuffer() : null;
    const socket = this.socket;
    if (!socket || socket.readyState !== 1)
      throw new WireError(lost("Not connected to Residscope: nothing was changed."));
    return this.asked((id) => {
      if (file) socket.send(framed({ id, intent: name, args: rest }, file));
      else socket.send(JSON.stringify({ id, intent: name, args: given }));
    });
  }

  async query<N extends keyof Queries>(name: N, args?: Queries[N], signal?: AbortSignal): Promise<QueryAnswers[N]> {
    return this.ask(name, { ...args }, signal) as Promise<QueryAnswers[N]>;
  }

  private async ask(name: string, given: Record<string, unknown>, signal?: AbortSignal): Promise<unknown> {
    const kept = this.kept(name, given);
    if (kept) return kept;
    const body = JSON.stringify(given);
    const response = await this.patiently(`api/queries/${name}`, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
    if (response.headers.get("content-type") === OCTETS) return parseSafetensors(await response.arrayBuffer());
    return response.json();
  }

  /** An intent over HTTP: its arguments as JSON, or a file as the body and the others in the address. */
  private async post(name: string, { data, ...rest }: Record<string, unknown>): Promise<unknown> {
    const file = data instanceof Blob;
    const asked = file ? `?${new URLSearchParams(rest as Record<string, string>)}` : "";
    const headers = { "content-type": file ? OCTETS : "application/json" };
    const response = await this.request(`api/intents/${name}${asked}`, { method: "POST", headers, body: file ? data : JSON.stringify(rest) });
    return ((await response.json()) as { value: unknown }).value;
  }

  private receiveTensors(data: ArrayBuffer): void {
    const size = new DataView(data).getUint32(0, true);
    const { query, args } = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size))) as { query: string; args: Record<string, unknown> };
    this.keep(query, args, data.slice(4 + size));
  }

  link(address: string): string {
    return opened(address, this.secret);
  }

  retry(): void {
    clearTimeout(this.timer);
    if (!this.socket) this.connect();
  }

  /** A request that changes nothing, sent again where the server asks to come back; not all pages at once. */
  private async patiently(path: string, init: RequestInit): Promise<Response> {
    for (let again = 0; ; again++) {
      const response = await this.fetched(path, init);
      if (response.status !== 429 || again === AGAIN) return this.checked(path, response);
      const seconds = Number(response.headers.get("retry-after") ?? 1);
      await new Promise((done) => setTimeout(done, seconds * (1000 + 500 * Math.random())));
      init.signal?.throwIfAborted();
    }
  }

  private async request(path: string, init: RequestInit): Promise<Response> {
    return this.checked(path, await this.fetched(path, init));
  }

  private fetched(path: string, init: RequestInit): Promise<Response> {
    return this.fetcher(new URL(path, this.base).href, { credentials: "same-origin", ...init, headers: { ...headerOf(this.secret), ...(init.headers as Record<string, string> | undefined) } });
  }

  private async checked(path: string, response: Response): Promise<Response> {
    if (response.ok) return response;
    const answer = await response.json().catch(() => null);
    if (isErrorBody(answer?.error)) throw new WireError(answer.error);
    throw new WireError({ type: "BadAnswer", message: `${path} answered ${response.status} ${response.statusText}.` });
  }

  private connect(): void {
    this.listener?.connection({ phase: "connecting" });
    const url = new URL("ws", this.base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = this.open(opened(url.href, this.secret));
    this.socket = socket;
    this.begin();
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => {
      if (this.socket !== socket) return;
      if (event.data instanceof ArrayBuffer) this.receiveTensors(event.data);
      else this.receive(JSON.parse(String(event.data)) as Message);
    };
    socket.onclose = () => {
      if (this.socket === socket) void this.reconnect(lost("The connection to Residscope was lost."));
    };
  }

  protected override receive(message: Message): void {
    if (message.state) this.attempt = 0;
    super.receive(message);
  }

  protected broken(reason: ErrorBody): void {
    void this.reconnect(reason);
  }

  private async reconnect(reason: ErrorBody): Promise<void> {
    this.drop(reason);
    if (!this.listener) return;
    const wait = Math.min(FIRST_WAIT * 2 ** this.attempt++, LONGEST_WAIT);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.connect(), wait);
    const retryAt = Date.now() + wait;
    this.listener.connection({ phase: "lost", reason, retryAt });
    // A socket's refusal carries no words: ask for them once over HTTP.
    const refusal = await this.request("api/state", {}).then(() => null, (error: unknown) => error);
    if (refusal instanceof WireError && !this.socket)
      this.listener?.connection({ phase: "lost", reason: refusal.body, retryAt });
  }

  private drop(reason: ErrorBody): void {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.rejectAll(reason);
  }
}

/** A message with a file: the length of its JSON in 4 bytes, the JSON, the file. */
function framed(message: object, file: ArrayBuffer): ArrayBuffer {
  const head = new TextEncoder().encode(JSON.stringify(message));
  const frame = new Uint8Array(4 + head.length + file.byteLength);
  new DataView(frame.buffer).setUint32(0, head.length, true);
  frame.set(head, 4);
  frame.set(new Uint8Array(file), 4 + head.length);
  return frame.buffer;
}
