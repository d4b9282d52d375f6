import { isErrorBody, WireError, type Listener } from "./connector";
import { parseSafetensors } from "./safetensors";
import type { ErrorBody, State } from "./wire";

interface Waiting {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** What a session says, over whatever it comes: an answer, the whole state, or a numbered change of it. */
export interface Message {
  id?: number;
  ok?: boolean;
  value?: unknown;
  error?: ErrorBody;
  seq?: number;
  /** The number before the first of several changes that are told as one. */
  after?: number;
  state?: State;
  patch?: Partial<State>;
  /** Of lists of things with ids: the ids of what is in them now, and what of it is new or another. */
  parts?: Record<string, Part>;
}
interface Thing {
  id: string;
}
interface Part {
  ids: string[];
  new: Thing[];
}

/** The lists that parts make of a state's; null where one has not what they keep of it. */
function put(state: State, parts: Record<string, Part>): Partial<State> | null {
  const lists: Record<string, Thing[]> = {};
  for (const [key, part] of Object.entries(parts)) {
    const before = (state as unknown as Record<string, Thing[]>)[key] ?? [];
    const things = new Map([...before, ...part.new].map((one) => [one.id, one]));
    if (part.ids.some((id) => !things.has(id))) return null;
    lists[key] = part.ids.map((id) => things.get(id)!);
  }
  return lists as Partial<State>;
}

const MOST_PUSHED = 12;

const keyOf = (name: string, args: Record<string, unknown>): string => `${name} ${JSON.stringify(Object.entries(args).sort(([a], [b]) => (a < b ? -1 : 1)))}`;

export const lost = (message: string): ErrorBody => ({ type: "ConnectionLost", message });

/** What every connector to a live session keeps: the state that it mirrors, what it asked, and tensors that came before they were asked for. */
export abstract class Mirror {
  protected listener: Listener | null = null;
  protected state: State | null = null;
  private seq = 0;
  private lastId = 0;
  private pushed = new Map<string, ArrayBuffer>();
  private waiting = new Map<number, Waiting>();

  /** The numbering broke, or the session refused this page altogether. */
  protected abstract broken(reason: ErrorBody): void;

  /** Awaits the answer of what is sent under a new number. */
  protected asked(send: (id: number) => void): Promise<unknown> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      send(id);
    });
  }

  /** Of an answer that nobody waits for any more. */
  protected forget(id: number): void {
    this.waiting.delete(id);
  }

  protected receive(message: Message): void {
    if (message.id !== undefined) {
      const waiting = this.waiting.get(message.id);
      this.waiting.delete(message.id);
      if (isErrorBody(message.error)) waiting?.reject(new WireError(message.error));
      else waiting?.resolve(message.value);
      return;
    }
    if (isErrorBody(message.error)) {
      this.broken(message.error);
    } else if (message.state) {
      this.seq = message.seq ?? 0;
      this.state = message.state;
      this.listener?.connection({ phase: "open" });
      this.listener?.state(this.state, this.seq);
    } else if (message.patch && this.state) {
      const seq = message.seq ?? 0;
      const lists = put(this.state, message.parts ?? {});
      if (this.seq < (message.after ?? seq - 1) || this.seq >= seq || !lists) {
        this.broken(lost("A message from Residscope went missing."));
        return;
      }
      this.seq = seq;
      if (message.patch.model) this.pushed.clear(); // another model, mean or dictionary: what was sent before is not of it
      this.state = { ...this.state, ...message.patch, ...lists };
      this.listener?.state(this.state, this.seq);
    }
  }

  /** Whether a change is older than what is on screen. */
  protected stale(message: Message): boolean {
    return message.patch !== undefined && (message.seq ?? 0) <= this.seq;
  }

  /** Tensors that come with the news they belong to: they are there before they are asked for. */
  protected keep(query: string, args: Record<string, unknown>, data: ArrayBuffer): void {
    this.pushed.set(keyOf(query, args), data);
    for (const old of [...this.pushed.keys()].slice(0, -MOST_PUSHED)) this.pushed.delete(old);
  }

  /** An answer that came before its question, once: what was sent is as of then, and asked again it may be another. */
  protected kept(query: string, args: Record<string, unknown>): unknown {
    const key = keyOf(query, args);
    const data = this.pushed.get(key);
    this.pushed.delete(key);
    return data && parseSafetensors(data);
  }

  /** Nothing that is held is true any more: the whole state is on its way. */
  protected begin(): void {
    this.state = null;
    this.pushed.clear();
  }

  protected rejectAll(reason: ErrorBody): void {
    for (const { reject } of this.waiting.values()) reject(new WireError(reason));
    this.waiting.clear();
  }
}
