import { words } from "../connect/connector";
import type { DirectionRef, Evidence, Gathering } from "../connect/wire";
import type { DirectionStore } from "./directions.svelte";
import type { Session } from "./session.svelte";

/** Evidence for the direction on screen: asked for when somebody presses the button, shown as its parts come. */
export class EvidenceStore {
  evidence: Evidence | null = $state.raw(null);
  error = $state("");
  /** The direction that each key's evidence is of. */
  private keys = new Map<string, string>();
  private shownOf = $state("");
  private wanted = "";
  private model: string | undefined;

  gathering: Gathering | null = $derived.by(() => this.session.state?.evidence ?? null);
  /** Still at work: not done, and not failed. */
  busy = $derived(!!this.gathering && !this.gathering.done && !this.gathering.error);
  private here = $derived.by(() => (this.directions.ref ? spelled(this.session.model?.hash, this.directions.ref) : ""));
  /** What is shown, or being gathered, is of another direction than the one on screen. */
  stale = $derived(!!this.shownOf && this.shownOf !== this.here);

  constructor(
    private session: Session,
    private directions: DirectionStore,
  ) {}

  /** Call from an effect. */
  follow(): void {
    const hash = this.session.model?.hash;
    if (hash !== this.model) this.clear(hash);
    const { gathering, here } = this;
    if (gathering?.revision) this.keys.set(spelled(hash, gathering.direction), gathering.key); // nothing is held before its first part
    const current = gathering && spelled(hash, gathering.direction) === here;
    const key = this.keys.get(here) ?? gathering?.key ?? "";
    const revision = current || !this.keys.has(here) ? (gathering?.revision ?? 0) : "held";
    const asked = key && (gathering?.key !== key || gathering.revision > 0) ? `${key}|${revision}` : "";
    if (!asked || asked === this.wanted) return;
    this.wanted = asked;
    const of = [...this.keys].find(([, held]) => held === key)?.[0] ?? "";
    this.session.connector.json<Evidence>(`api/evidence?key=${encodeURIComponent(key)}`).then(
      (evidence) => this.wanted === asked && ([this.evidence, this.shownOf, this.error] = [evidence, of, ""]),
      (error: unknown) => {
        if (this.wanted !== asked) return;
        this.keys.delete(of); // no longer held: it can be gathered again
        if (gathering?.key === key) this.error = words(error);
      },
    );
  }

  private clear(model: string | undefined): void {
    [this.evidence, this.shownOf, this.error, this.wanted, this.model] = [null, "", "", "", model];
    this.keys.clear();
  }

  async gather(): Promise<void> {
    const { ref } = this.directions;
    if (ref) await this.session.send("gather_evidence", { direction: ref });
  }

  async cancel(): Promise<void> {
    await this.session.send("cancel_evidence");
  }
}

/** One spelling for a direction, whatever order its fields come in. */
export function spelled(model: string | undefined, ref: DirectionRef): string {
  const sorted = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(sorted);
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)).map(([k, v]) => [k, sorted(v)]));
  };
  return `${model ?? ""}|${JSON.stringify(sorted(ref))}`;
}
