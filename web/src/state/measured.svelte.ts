import { words } from "../connect/connector";
import type { ItemInfo, Job } from "../connect/wire";
import type { PlainView } from "../views/kinds/plain";
import type { Session } from "./session.svelte";

type Args = Record<string, unknown>;

/** What a tab asks of a method: one call, its price, the job that answers it, and the pictures that it made. */
export class Measured {
  cost: number | null = $state(null);
  refused = $state("");
  private fetched: { key: string; views: PlainView[] } | null = $state.raw(null);
  private failed = $state("");
  private wantedCost = "";
  private wantedViews = "";

  private key = $derived.by(() => JSON.stringify(this.args()));
  /** The call under way, or that failed, since the last answer to it. */
  job: Job | null = $derived.by(() => {
    const last = (this.session.state?.jobs ?? []).findLast(({ method, args }) => method === this.method && this.same(args));
    return last && last.phase !== "done" ? last : null;
  });
  running = $derived.by(() => this.job?.phase === "running" || this.job?.phase === "waiting");
  /** What answers the call, else the latest answer to one like it. */
  item: ItemInfo | null = $derived.by(() => {
    const mine = (this.session.state?.items?.items ?? []).filter(({ method, args }) => method === this.method && this.like(args));
    return mine.findLast(({ args }) => this.same(args)) ?? mine.at(-1) ?? null;
  });
  /** What is shown answers another call: of another edit, another layer. */
  stale = $derived.by(() => !!this.item && !this.same(this.item.args));
  /** Why its pictures are not whole, or not of what is asked; empty where they are. */
  unfinished = $derived.by(() => {
    if (this.running) return "the job is still filling it";
    if (this.job?.revision) return "the job ended before it was whole";
    return this.stale ? "it is still of what was asked before" : "";
  });
  views: PlainView[] | null = $derived.by(() => (this.fetched && this.fetched.key === this.wanted() ? this.fetched.views : null));
  error = $derived.by(() => this.failed || (this.job?.phase === "failed" ? (this.job.error?.message ?? "It failed.") : ""));

  /** args: what to ask, null where there is nothing to. like: whether another call's arguments are near enough to show its answer. */
  constructor(
    private session: Session,
    readonly method: string,
    private args: () => Args | null,
    private like: (args: Args | null) => boolean = (args) => this.same(args),
  ) {}

  /** Call from an effect: what it would take. */
  followCost(): (() => void) | undefined {
    const { key } = this;
    const args = this.args();
    if (!args || this.job || (this.item && !this.stale) || key === this.wantedCost) return;
    const timer = setTimeout(() => {
      this.wantedCost = key;
      this.session.connector.query("cost", { method: this.method, args }).then(
        ({ seconds }) => this.wantedCost === key && ([this.cost, this.refused] = [seconds, ""]),
        (error: unknown) => this.wantedCost === key && ([this.cost, this.refused] = [null, words(error)]),
      );
    }, 250);
    return () => clearTimeout(timer);
  }

  /** Call from an effect: the pictures of what was made, or of what there is of it so far. */
  followViews(): void {
    const key = this.wanted();
    if (!key || key === this.wantedViews) return;
    this.wantedViews = key;
    const { job, item } = this;
    const asked = job?.revision ? this.session.connector.query("job", { job: job.id }) : this.session.connector.query("item", { name: item!.name });
    asked.then(
      ({ views }) => this.wantedViews === key && ([this.fetched, this.failed] = [{ key, views }, ""]),
      (error: unknown) => this.wantedViews === key && (this.failed = words(error)),
    );
  }

  async start(): Promise<void> {
    const args = this.args();
    if (args) await this.session.send("start", { method: this.method, args });
  }

  /** Stops it, or is done with what went wrong. */
  async cancel(): Promise<void> {
    if (this.job) await this.session.send("cancel", { job: this.job.id });
  }

  /** The lines of Python of the call; a refusal is thrown. */
  async python(): Promise<string> {
    return (await this.session.connector.query("python", { method: this.method, args: this.args() ?? {} })).code;
  }

  private wanted(): string {
    if (this.job?.revision) return `job ${this.job.id} ${this.job.revision}`;
    return this.item ? `item ${this.item.name} ${this.item.made}` : "";
  }

  /** Whether a call had these arguments: what was left out counts as what the method takes then. */
  private same(args: Args | null): boolean {
    const mine = this.args();
    return !!mine && !!args && Object.entries(mine).every(([name, value]) => alike(value, args[name]));
  }
}

/** Whether two plain values are one, in whatever order their parts stand. */
export function alike(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || !a || !b || Array.isArray(a) !== Array.isArray(b)) return false;
  const [left, right] = [Object.entries(a), Object.entries(b)];
  return left.length === right.length && left.every(([name, value]) => alike(value, (b as Args)[name]));
}
