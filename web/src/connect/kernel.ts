import { isErrorBody, WireError, type Connector, type IntentAnswers, type Intents, type Listener, type Queries, type QueryAnswers } from "./connector";
import { lost, Mirror, type Message } from "./mirror";
import { parseSafetensors } from "./safetensors";
import type { ErrorBody } from "./wire";

/** What a notebook gives a widget of its model: anywidget's own few verbs. */
export interface KernelModel {
  get(name: string): unknown;
  send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
  on(name: string, callback: (...args: never[]) => void): void;
  off(name: string, callback?: (...args: never[]) => void): void;
}

/** As it stands in a comm: what is for one page alone says so. */
interface Said extends Message {
  to?: string;
  pong?: number;
  ended?: boolean;
  tensors?: boolean;
  pushed?: { query: string; args: Record<string, unknown> };
}

const HELLO_EVERY = 700;
const PING_EVERY = 2_000;
/** Milliseconds without a word before a page says that the kernel is busy. */
const SILENCE = 3_500;
const BUSY: ErrorBody = { type: "KernelBusy", message: "The kernel is busy with a cell: what you ask here is done once it ends." };
const WAITING: ErrorBody = { type: "KernelBusy", message: "Waiting for the kernel: it is busy with a cell, or it has stopped." };
const GONE = lost("This workbench was closed, or its kernel was stopped or started again. Run the cell that makes this workbench again, and the page comes back as it was.");

function octets(buffer: ArrayBuffer | ArrayBufferView): ArrayBuffer {
  if (!ArrayBuffer.isView(buffer)) return buffer;
  return buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.byteLength) as ArrayBuffer; // where tensors begin at multiples of 8
}

/**
 * The session over a widget's comm. Messages may be lost before the kernel listens, so it says hello until it is answered; a kernel
 * that runs a cell may not answer for long, which the page says while what was asked keeps waiting.
 */
export class KernelConnector extends Mirror implements Connector {
  private readonly page = Math.random().toString(36).slice(2, 12);
  private timer: ReturnType<typeof setInterval> | undefined;
  private heard = 0;
  private spoke = 0;
  private quiet: "busy" | "lost" | null = null;

  constructor(private model: KernelModel) {
    super();
  }

  subscribe(listener: Listener): () => void {
    this.listener = listener;
    this.open();
    return () => {
      if (this.listener !== listener) return; // a page that begins anew may subscribe before the old one has left
      this.listener = null;
      this.say({ bye: true });
      this.shut();
      this.rejectAll(lost("The page was closed."));
    };
  }

  /** Goes on over another widget: that of a kernel which was started again. */
  moveTo(model: KernelModel): void {
    if (model === this.model) return;
    this.shut();
    this.rejectAll(lost("The kernel was started again: ask once more."));
    this.model = model;
    if (this.listener) this.open();
  }

  async intent<N extends keyof Intents>(name: N, args?: Intents[N]): Promise<IntentAnswers[N]> {
    const { data, ...rest } = { ...args } as Record<string, unknown>;
    const file = data instanceof Blob ? await data.arrayBuffer() : null;
    return this.request({ intent: name, args: file ? rest : { ...args } }, file) as Promise<IntentAnswers[N]>;
  }

  async query<N extends keyof Queries>(name: N, args?: Queries[N], signal?: AbortSignal): Promise<QueryAnswers[N]> {
    const given = { ...args } as Record<string, unknown>;
    const kept = this.kept(name, given);
    return (kept ?? this.request({ query: name, args: given }, null, signal)) as Promise<QueryAnswers[N]>;
  }

  link(address: string): string {
    return address;
  }

  async file(name: string, ending: string): Promise<{ name: string; data: Blob }> {
    const answer = (await this.request({ file: { name, ending } })) as { value: string; octets: ArrayBuffer };
    return { name: answer.value, data: new Blob([answer.octets]) };
  }

  retry(): void {
    if (this.state && this.quiet !== "lost") this.ping();
    else this.hello();
  }

  private request(message: object, file: ArrayBuffer | null = null, signal?: AbortSignal): Promise<unknown> {
    if (this.quiet === "lost") return Promise.reject(new WireError(GONE));
    let sent = 0;
    const answer = this.asked((id) => {
      sent = id;
      this.say({ ...message, id }, file ? [file] : []);
    });
    if (!signal) return answer;
    return new Promise((resolve, reject) => {
      const left = () => (this.forget(sent), reject(signal.reason));
      signal.addEventListener("abort", left);
      if (signal.aborted) left();
      answer.then(resolve, reject).finally(() => signal.removeEventListener("abort", left));
    });
  }

  private say(message: object, buffers: ArrayBuffer[] = []): void {
    try {
      this.model.send({ page: this.page, ...message }, undefined, buffers);
    } catch {
      this.silent("lost", GONE); // its comm is closed
    }
  }

  private open(): void {
    this.shut();
    this.begin();
    this.quiet = null;
    this.heard = Date.now();
    this.listener?.connection({ phase: "connecting" });
    this.model.on("msg:custom", this.hear);
    this.model.on("comm:close", this.gone);
    this.model.on("comm_live_update", this.doubt);
    this.hello();
    clearInterval(this.timer);
    this.timer = setInterval(this.look, HELLO_EVERY);
  }

  private shut(): void {
    clearInterval(this.timer);
    this.model.off("msg:custom", this.hear);
    this.model.off("comm:close", this.gone);
    this.model.off("comm_live_update", this.doubt);
  }

  private hello(): void {
    this.spoke = Date.now();
    this.say({ hello: true });
  }

  private ping(): void {
    this.spoke = Date.now();
    this.say({ ping: this.spoke });
  }

  private look = (): void => {
    const now = Date.now();
    if (!this.state) {
      if (this.quiet !== "lost") this.hello();
      if (now - this.heard > SILENCE) this.silent("busy", WAITING);
      return;
    }
    if (now - this.heard > SILENCE && this.spoke > this.heard) this.silent("busy", BUSY);
    if (now - this.spoke >= PING_EVERY) this.ping();
  };

  private gone = (): void => this.silent("lost", GONE);

  /** The kernel came or went: a page that it does not know is told nothing, so it begins anew. */
  private doubt = (): void => {
    this.begin();
    this.heard = Date.now();
    this.hello();
  };

  private silent(phase: "busy" | "lost", reason: ErrorBody): void {
    if (this.quiet === phase) return;
    this.quiet = phase;
    if (phase === "busy") this.listener?.connection({ phase, reason });
    else {
      this.rejectAll(reason);
      this.listener?.connection({ phase, reason, retryAt: null });
    }
  }

  private hear = (said: Said, buffers: (ArrayBuffer | DataView)[] = []): void => {
    if (said.to !== undefined && said.to !== this.page) return;
    if (said.ended) return this.gone();
    if (said.to !== undefined) {
      this.heard = Date.now();
      if (this.quiet) {
        this.quiet = null;
        if (this.state) this.listener?.connection({ phase: "open" });
      }
    }
    if (said.pong !== undefined) return;
    if (said.pushed) this.keep(said.pushed.query, said.pushed.args, octets(buffers[0]));
    else if (said.id !== undefined && buffers.length && !isErrorBody(said.error))
      this.receive({ id: said.id, ok: true, value: said.tensors ? parseSafetensors(octets(buffers[0])) : { value: said.value, octets: octets(buffers[0]) } });
    else if (!this.stale(said)) this.receive(said);
  };

  protected broken(_reason: ErrorBody): void {
    this.begin();
    this.hello();
  }
}
