import type { Job } from "../connect/wire";
import { family, nearest, placeOf } from "../lib/dictionaries";
import type { MethodSchema } from "../lib/forms";
import { Call } from "./call.svelte";
import type { ManifestStore } from "./manifest.svelte";
import type { Mixing } from "./mixing.svelte";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

/** The methods that make dictionaries, asked for beside the picture; what they bring is looked at. */
export class Fitting extends Call {
  /** Jobs asked for from here; reactive, for one may have ended before its number is known. */
  private mine: string[] = $state.raw([]);

  /** Fits that wait, run, or have ended with something to say. */
  jobs: Job[] = $derived.by(() => {
    const known = new Set(this.methods.map(({ id }) => id));
    return (this.session.state?.jobs ?? []).filter(({ method, phase, note }) => known.has(method) && phase !== "cancelled" && (phase !== "done" || note));
  });
  /** The one that is told of beside the button: the one under way, or what went wrong last. */
  job: Job | null = $derived.by(() => this.jobs.find(({ phase }) => phase === "running") ?? this.jobs.at(-1) ?? null);
  busy = $derived(this.jobs.some(({ phase }) => phase === "running" || phase === "waiting"));

  constructor(
    session: Session,
    manifest: ManifestStore,
    private view: ViewStore,
    private mixing: Mixing,
  ) {
    super(session, manifest);
  }

  protected override among(methods: MethodSchema[]): MethodSchema[] {
    return methods.filter(({ makes }) => makes === "dictionary");
  }

  /** Where there is none yet, the whole stream. */
  protected override usual(): string {
    return this.session.model?.dictionaries.length ? "pca" : "pca-stream";
  }

  async start(): Promise<void> {
    this.chosen ||= this.schema?.id ?? "";
    const job = await this.ask();
    if (job) this.mine = [...this.mine, job];
  }

  cancel(job: string): void {
    void this.session.send("cancel", { job });
  }

  forget(id: string): void {
    this.mixing.letGo(id);
    void this.session.send("forget_dictionary", { id });
  }

  /** Call from an effect: what was fitted from here is looked at once it is there. */
  follow(): void {
    const state = this.session.state;
    for (const { id, phase, items } of state?.jobs ?? []) {
      if (!this.mine.includes(id) || phase === "running" || phase === "waiting") continue;
      this.mine = this.mine.filter((other) => other !== id);
      if (phase === "done") this.look(items);
    }
  }

  private look(items: string[]): void {
    const state = this.session.state;
    const ids = new Set(state?.items.items.filter(({ name }) => items.includes(name)).map(({ id }) => id));
    const fresh = (state?.model?.dictionaries ?? []).filter(({ id }) => ids.has(id));
    if (!fresh.length) return;
    const next = nearest(fresh, family(fresh[0]), this.mixing.dictionary) ?? fresh[0];
    this.mixing.choose(next.id);
    if (fresh.length === 1) this.view.pickComponent(0);
    this.session.notify(fresh.length === 1 ? `Fitted: ${placeOf(next)}` : `Fitted at ${fresh.length} places`);
  }
}
