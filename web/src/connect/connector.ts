import type { Asked } from "./asked.generated";
import type { Said } from "./said.generated";
import type { ErrorBody, ProbeData, State } from "./wire";

/** What each intent and query takes. Probe data may be those of the state, where a file is without its text: the server refuses them then. */
export type Intents = Asked["intents"];
export type Queries = Omit<Asked["queries"], "read_data"> & { read_data: { data: ProbeData } };
/** What each answers. */
export type IntentAnswers = Said["intents"];
export type QueryAnswers = Said["queries"];

export type Connection =
  | { phase: "connecting" }
  | { phase: "open" }
  /** It answers by itself, later: what was asked still counts. */
  | { phase: "busy"; reason: ErrorBody }
  /** retryAt: null where nothing but the person before it can bring it back. */
  | { phase: "lost"; reason: ErrorBody; retryAt: number | null };

export interface Listener {
  /** The whole state: on connecting, and after every patch, whose number in the session's news it has. */
  state(state: State, seq?: number): void;
  connection(connection: Connection): void;
}

/** One door to a session: three verbs. A server stands behind it, or a notebook's kernel. */
export interface Connector {
  /** Starts; the answer stops it. */
  subscribe(listener: Listener): () => void;
  /** Accepted (with a value) or refused (a `WireError`); what it causes arrives as state. A file goes as `args.data`, a Blob. */
  intent<N extends keyof Intents>(name: N, args?: Intents[N]): Promise<IntentAnswers[N]>;
  /** The answer to a question that changes nothing: JSON, or `Tensors`. */
  query<N extends keyof Queries>(name: N, args?: Queries[N], signal?: AbortSignal): Promise<QueryAnswers[N]>;
  /** Tries again now instead of waiting. */
  retry(): void;
  /** An address of the server's, as a link that this page may follow. */
  link(address: string): string;
  /** An item as a file, where no address gives it. */
  file?(name: string, ending: string): Promise<{ name: string; data: Blob }>;
}

/** A refusal, in the one shape the wire has for it. */
export class WireError extends Error {
  readonly body: ErrorBody;
  constructor(body: ErrorBody) {
    super(body.message);
    this.name = body.type;
    this.body = body;
  }
}

export function isErrorBody(value: unknown): value is ErrorBody {
  if (typeof value !== "object" || value === null) return false;
  const body = value as Record<string, unknown>;
  return typeof body.type === "string" && typeof body.message === "string";
}

/** The words of any failure, the server's own where it spoke. */
export function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
