import { words } from "../connect/connector";
import type { ItemInfo, Job } from "../connect/wire";
import { lacking, sent, type MethodSchema, type Values } from "../lib/forms";
import { initial, type ManifestStore } from "./manifest.svelte";
import type { Session } from "./session.svelte";

/** A table's columns and first rows. */
export interface Cells {
  columns: string[];
  rows: (string | number | null)[][];
  n: number;
}

/** What is shown of a job or an item. */
export interface Detail {
  views: { kind: string }[];
  table: Cells | null;
  code?: string;
  args?: Values;
  method?: string;
  provenance?: Record<string, unknown>;
}

type Shown = { job: string } | { item: string } | null;

/** Methods as forms, their calls as jobs, and what they made: the shelf. */
export class JobStore {
  /** The method whose form is open. */
  chosen = $state("");
  /** What each form holds, by method. */
  forms: Record<string, Values> = $state({});
  cost: number | null = $state(null);
  refused = $state("");
  shown: Shown = $state(null);
  detail: Detail | null = $state.raw(null);
  error = $state("");
  private asked = "";
  private priced = "";

  jobs: Job[] = $derived.by(() => this.session.state?.jobs ?? []);
  items: ItemInfo[] = $derived.by(() => this.session.state?.items?.items ?? []);
  schema: MethodSchema | null = $derived.by(() => this.manifest.methods.find(({ id }) => id === this.chosen) ?? this.manifest.methods[0] ?? null);
  values: Values | null = $derived.by(() => (this.schema ? (this.forms[this.schema.id] ?? null) : null));
  missing = $derived.by(() => (this.schema && this.values ? lacking(this.schema, this.values, this.session.model) : ""));
  running: Job[] = $derived.by(() => this.jobs.filter(({ phase }) => phase === "running" || phase === "waiting"));
  job: Job | null = $derived.by(() => {
    const { shown } = this;
    return shown && "job" in shown ? (this.jobs.find(({ id }) => id === shown.job) ?? null) : null;
  });
  item: ItemInfo | null = $derived.by(() => {
    const { shown } = this;
    return shown && "item" in shown ? (this.items.find(({ name }) => name === shown.item) ?? null) : null;
  });

  constructor(
    private session: Session,
    private manifest: ManifestStore,
  ) {}

  /** Call from an effect: a form begins with what its method takes unless said. */
  begin(): void {
    const { schema } = this;
    if (schema && !this.forms[schema.id]) this.forms[schema.id] = initial(schema);
  }

  choose(id: string): void {
    this.chosen = id;
    this.refused = "";
  }

  private args(): Values {
    return this.schema && this.values ? sent(this.schema, $state.snapshot(this.values), this.session.model) : {};
  }

  /** Call from an effect: what the form would take, once it rests. */
  followCost(): (() => void) | undefined {
    const { schema, missing } = this;
    const key = JSON.stringify([schema?.id, this.values, this.session.state?.prompt?.text]);
    if (!schema || missing || key === this.priced) return;
    const timer = setTimeout(() => {
      this.priced = key;
      this.session.connector.query<{ seconds: number | null }>("cost", { method: schema.id, args: this.args() }).then(
        ({ seconds }) => this.priced === key && ([this.cost, this.refused] = [seconds, ""]),
        (error: unknown) => this.priced === key && ([this.cost, this.refused] = [null, words(error)]),
      );
    }, 350);
    return () => clearTimeout(timer);
  }

  async start(): Promise<void> {
    if (!this.schema || this.missing) return;
    const answer = (await this.session.send("start", { method: this.schema.id, args: this.args() })) as { job: string } | undefined;
    if (answer) this.show({ job: answer.job });
  }

  async python(): Promise<string> {
    if (!this.schema) return "";
    try {
      return (await this.session.connector.query<{ code: string }>("python", { method: this.schema.id, args: this.args() })).code;
    } catch (error) {
      this.session.notify(words(error), "error");
      return "";
    }
  }

  cancel(id: string): void {
    void this.session.send("cancel", { job: id });
  }

  show(shown: Shown): void {
    this.shown = shown;
    this.asked = "";
    this.error = "";
    if (!shown || "item" in shown) this.detail = null;
  }

  /** Call from an effect: keeps the picture in step with the job, and goes on to what it made. */
  followShown(): void {
    const { shown, job } = this;
    if (!shown) return;
    if (job?.items.length && (job.phase === "done" || job.phase === "cancelled")) {
      this.shown = { item: job.items[0] };
      return;
    }
    const key = "item" in shown ? `item ${shown.item}` : job?.revision ? `job ${job.id} ${job.revision}` : "";
    if (!key || key === this.asked) return;
    this.asked = key;
    const answer = "item" in shown ? this.session.connector.query<Detail>("item", { name: shown.item }) : this.session.connector.query<Detail>("job", { job: shown.job });
    answer.then(
      (detail) => this.asked === key && ([this.detail, this.error] = [detail, ""]),
      (error: unknown) => this.asked === key && (this.error = words(error)),
    );
  }

  private names = new Map<string, Promise<{ labels: string[]; positions: string[] } | null>>();

  /** Which labels and positions some labelled prompts have; null where they cannot be made. */
  namesIn(data: unknown): Promise<{ labels: string[]; positions: string[] } | null> {
    const key = JSON.stringify([this.session.model?.hash, data ?? null]);
    const kind = (data as { kind?: string } | null)?.kind;
    if (kind !== "task" && kind !== "file") return Promise.resolve(null);
    let asked = this.names.get(key);
    if (!asked) {
      type Named = { name: string }[];
      asked = this.session.connector.intent("read_data", { data: $state.snapshot(data) as Record<string, unknown> }).then(
        (answer) => {
          const { labels, positions } = answer as { labels: Named; positions: Named };
          return { labels: labels.map(({ name }) => name), positions: positions.map(({ name }) => name) };
        },
        () => null,
      );
      this.names.set(key, asked);
    }
    return asked;
  }

  /** The form as it was when an item was made. */
  again({ method, args }: Detail): void {
    if (!method || !args || !this.manifest.methods.some(({ id }) => id === method)) return;
    this.forms[method] = { ...args };
    this.choose(method);
  }
}
