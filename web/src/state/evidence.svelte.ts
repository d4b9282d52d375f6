import { words } from "../connect/connector";
import type { DirectionRef, Evidence, Job } from "../connect/wire";
import type { DirectionStore } from "./directions.svelte";
import type { Session } from "./session.svelte";

const METHOD = "evidence";

/** Evidence for the direction on screen: a job when somebody presses the button, shown as its parts come; then an item of the shelf. */
export class EvidenceStore {
  evidence: Evidence | null = $state.raw(null);
  error = $state("");
  private shownOf = $state("");
  private wanted = "";
  private model: string | undefined;

  private jobs = $derived.by(() => (this.session.state?.jobs ?? []).filter(({ method }) => method === METHOD));
  /** The one at work, or the last one that failed. */
  gathering: Job | null = $derived.by(() => this.jobs.findLast(({ phase }) => phase === "running" || phase === "waiting" || phase === "failed") ?? null);
  busy = $derived(this.gathering?.phase === "running" || this.gathering?.phase === "waiting");
  private here = $derived.by(() => (this.directions.ref ? this.spelledOf(this.directions.ref) : ""));
  /** What is shown is of another direction than the one on screen. */
  stale = $derived(!!this.shownOf && this.shownOf !== this.here);
  /** Where this direction's evidence is: of a job while it comes, then on the shelf. */
  private source = $derived.by(() => {
    const job = this.jobs.findLast(({ args, revision }) => revision > 0 && this.spelledOf(args?.direction) === this.here);
    const item = this.session.state?.items?.items.findLast(({ method, args }) => method === METHOD && this.spelledOf(args?.direction) === this.here);
    if (job && (!item || job.phase === "running")) return { args: { job: job.id }, key: `${job.id} ${job.revision} ${job.phase}` };
    return item ? { args: { item: item.name }, key: item.name } : null;
  });

  constructor(
    private session: Session,
    private directions: DirectionStore,
  ) {}

  private spelledOf(ref: unknown): string {
    return spelled(this.session.model?.hash, ref as DirectionRef);
  }

  /** Call from an effect. */
  follow(): void {
    const hash = this.session.model?.hash;
    if (hash !== this.model) [this.evidence, this.shownOf, this.error, this.wanted, this.model] = [null, "", "", "", hash];
    const { source, here } = this;
    if (!source || !here) return;
    const asked = `${here} ${source.key}`;
    if (asked === this.wanted) return;
    this.wanted = asked;
    this.session.connector.query("evidence", source.args).then(
      (evidence) => this.wanted === asked && ([this.evidence, this.shownOf, this.error] = [evidence, here, ""]),
      (error: unknown) => this.wanted === asked && (this.error = words(error)),
    );
  }

  async gather(name: string): Promise<void> {
    const { ref } = this.directions;
    if (ref) await this.session.send("start", { method: METHOD, args: { direction: ref }, name: `Evidence for ${name}`.slice(0, 100) });
  }

  async cancel(): Promise<void> {
    if (this.gathering) await this.session.send("cancel", { job: this.gathering.id });
  }
}

/** One spelling for a direction, whatever order its fields come in. */
export function spelled(model: string | undefined, ref: DirectionRef): string {
  const sorted = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(sorted);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).filter(([, v]) => v !== null).sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => [k, sorted(v)]));
  };
  return `${model ?? ""}|${JSON.stringify(sorted(ref))}`;
}
