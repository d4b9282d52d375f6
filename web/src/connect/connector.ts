import type { ErrorBody, State } from "./wire";
import type { Tensors } from "./safetensors";

export type Connection =
  | { phase: "connecting" }
  | { phase: "open" }
  | { phase: "lost"; reason: ErrorBody; retryAt: number };

export interface Listener {
  /** The whole state: on connecting, and after every patch. */
  state(state: State): void;
  connection(connection: Connection): void;
}

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** One door to a session. A server stands behind it today; a kernel or a frozen page may. */
export interface Connector {
  /** Starts; the answer stops it. */
  subscribe(listener: Listener): () => void;
  /** Accepted (with a value) or refused (a `WireError`); what it causes arrives as state. */
  intent(name: string, args?: Record<string, unknown>): Promise<unknown>;
  /** The answer to a question that changes nothing: JSON, or `Tensors`. */
  query<T>(name: string, args?: Record<string, unknown>, signal?: AbortSignal): Promise<T>;
  tensors(path: string, signal?: AbortSignal): Promise<Tensors>;
  /** GET, or POST where there is a body, unless `method` says otherwise; a Blob travels as the bytes it is. */
  json<T>(path: string, body?: unknown, signal?: AbortSignal, method?: Method): Promise<T>;
  /** Tries again now instead of waiting. */
  retry(): void;
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
