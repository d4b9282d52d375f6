import { words } from "../connect/connector";
import type { ItemDetail, ItemInfo, Job, JobDetail, ProbeData } from "../connect/wire";
import { Call } from "./call.svelte";
import { initial } from "./manifest.svelte";

/** What is shown of a job, or of an item, of which more is known. */
export type Detail = Pick<JobDetail, "views" | "table"> & Partial<Omit<ItemDetail, "views" | "table">>;

type Shown = { job: string } | { item: string } | null;

/** Methods as forms, their calls as jobs, and what they made: the shelf. */
export class JobStore extends Call {
  shown: Shown = $state(null);
  detail: Detail | null = $state.raw(null);
  error = $state("");
  private asked = "";

  jobs: Job[] = $derived.by(() => this.session.state?.jobs ?? []);
  items: ItemInfo[] = $derived.by(() => this.session.state?.items?.items ?? []);
  running: Job[] = $derived.by(() => this.jobs.filter(({ phase }) => phase === "running" || phase === "waiting"));
  job: Job | null = $derived.by(() => {
    const { shown } = this;
    return shown && "job" in shown ? (this.jobs.find(({ id }) => id === shown.job) ?? null) : null;
  });
  item: ItemInfo | null = $derived.by(() => {
    const { shown } = this;
    return shown && "item" in shown ? (this.items.find(({ name }) => name === shown.item) ?? null) : null;
  });

  async start(): Promise<void> {
    const job = await this.ask();
    if (job) this.show({ job });
  }

  /** Opens a method's form; false where there is none here, which is said. */
  async open(method: string): Promise<boolean> {
    await this.manifest.load();
    const schema = this.manifest.methods.find(({ id }) => id === method);
    if (!schema) this.session.notify(`There is no method “${method}” here.`, "error");
    else {
      this.forms[schema.id] ??= initial(schema);
      this.choose(schema.id);
    }
    return !!schema;
  }

  async python(): Promise<string> {
    if (!this.schema) return "";
    try {
      return (await this.session.connector.query("python", { method: this.schema.id, args: this.args() })).code;
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
    const answer = "item" in shown ? this.session.connector.query("item", { name: shown.item }) : this.session.connector.query("job", { job: shown.job });
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
    if (!["task", "file", "item", "probe"].includes(kind ?? "")) return Promise.resolve(null);
    let asked = this.names.get(key);
    if (!asked) {
      asked = this.session.connector.query("read_data", { data: $state.snapshot(data) as ProbeData }).then(
        ({ labels, positions }) => {
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
