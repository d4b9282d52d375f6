import { words } from "../connect/connector";
import type { ContinuationsFound, SeedDraw } from "../connect/said.generated";
import type { Job } from "../connect/wire";
import { activeOf, idsUpTo, insideOf, type Side } from "../lib/generation";
import { tokenTyped } from "../lib/tokens";
import { spelled } from "./evidence.svelte";
import { bare, type Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

const METHOD = "continuations";
/** A number of a form that is empty is null. */
export interface GenerationForm {
  tokens: number | null;
  temperature: number | null;
  seed: number | null;
  n: number | null;
  stop: string;
}
const whole = (value: number | null, low: number, high: number): boolean => value !== null && Number.isInteger(value) && value >= low && value <= high;

/** The prompt continued with and without its edits: asked for by hand, streamed, and looked into token by token. */
export class GenerationStore {
  open = $state(false);
  table = $state(false);
  form: GenerationForm = $state({ tokens: 40, temperature: 0, seed: 0, n: 1, stop: "" });
  found: ContinuationsFound | null = $state.raw(null);
  error = $state("");
  /** Why it could not be started. */
  refused = $state("");
  /** It is being asked for. */
  starting = $state(false);
  private shown = "";
  private asking = false;
  private model: string | undefined;

  private jobs: Job[] = $derived.by(() => (this.session.state?.jobs ?? []).filter(({ method }) => method === METHOD));
  /** The latest one. */
  job: Job | null = $derived.by(() => this.jobs.at(-1) ?? null);
  busy = $derived(this.job?.phase === "running" || this.job?.phase === "waiting");
  /** What the one that waits is waiting for. */
  before = $derived.by(() => this.session.state?.jobs.find(({ phase, id }) => phase === "running" && id !== this.job?.id)?.title ?? "");
  private edits = $derived.by(() => activeOf(this.session.edits, bare));
  private prompt = $derived.by(() => this.session.state?.prompt?.tokens.map(({ id }) => id) ?? []);
  /** Why the form cannot be sent. */
  missing = $derived.by(() => {
    const { tokens, temperature, seed, n } = this.form;
    if (!this.session.state?.prompt) return "Type a prompt first.";
    if (!whole(tokens, 1, 100_000)) return "Tokens: a whole number from 1.";
    if (temperature === null || !(temperature >= 0)) return "Temperature: 0 or more.";
    if (temperature > 0 && !whole(seed, 0, 2 ** 32 - 1)) return "Seed: a whole number from 0.";
    if (temperature > 0 && !whole(n, 1, 100)) return "How many: from 1 to 100.";
    return "";
  });
  /** Where what is shown comes from: the latest job while it is there, else the latest item of the shelf. */
  private source = $derived.by(() => {
    const { job } = this;
    const kept = this.busy ? undefined : job?.items.find((name) => this.session.state?.items.items.some((item) => item.name === name));
    if (kept) return { args: { item: kept }, key: `item ${kept}` };
    if (job) return job.revision ? { args: { job: job.id }, key: `${job.id} ${job.revision} ${job.phase}` } : null;
    const item = this.session.state?.items?.items.findLast(({ method }) => method === METHOD);
    return item ? { args: { item: item.name }, key: `item ${item.name}` } : null;
  });
  /** Of each draw and side the token that the prompt now ends with; -1: the prompt itself. */
  inside = $derived.by(() => (this.found?.draws ?? []).map((draw) => ({ baseline: this.at(draw, "baseline"), edited: this.at(draw, "edited") })));
  /** The prompt goes on with generated tokens. */
  extended = $derived(this.inside.some(({ baseline, edited }) => (baseline ?? -1) >= 0 || (edited ?? -1) >= 0));
  /** It continues another prompt than the one that is here. */
  elsewhere = $derived.by(() => !!this.found && !this.inside.some(({ baseline, edited }) => baseline !== null || edited !== null));
  private sameEdits = $derived.by(() => {
    const asked = this.found?.edits;
    if (!this.found || asked === "live") return true;
    return this.spelledOf(asked ?? []) === this.spelledOf(this.edits);
  });
  /** Why what is shown is no answer to what would be asked now. */
  stale = $derived(this.elsewhere ? "It continues another prompt." : !this.sameEdits ? "The edits have changed since." : "");
  /** What ended can be kept, and is not yet. */
  keepable = $derived(!!this.job && !this.busy && this.job.revision > 0 && !this.job.items.length);

  constructor(
    private session: Session,
    private view: ViewStore,
  ) {}

  private at(draw: SeedDraw, side: Side): number | null {
    const run = draw[side];
    return this.found && run ? insideOf(this.found, run.tokens, this.prompt) : null;
  }
  private spelledOf(edits: unknown): string {
    return spelled(this.session.model?.hash, edits as never);
  }

  /** Call from an effect: what is shown follows its source, one question at a time. */
  follow(): void {
    const hash = this.session.model?.hash;
    if (hash !== this.model) [this.found, this.error, this.shown, this.model] = [null, "", "", hash];
    const { source } = this;
    if (!source) {
      if (this.job) [this.found, this.shown] = [null, ""]; // another is on its way
      return;
    }
    if (!this.open || this.asking || source.key === this.shown) return;
    this.asking = true;
    const { key } = source;
    this.session.connector
      .query("continuations", source.args)
      .then(
        (found) => ([this.found, this.error] = [found, ""]),
        (error: unknown) => (this.error = words(error)),
      )
      .finally(() => {
        [this.asking, this.shown] = [false, key];
        this.follow(); // what came meanwhile
      });
  }

  /** Asks for it in place of the one before, which stops; what somebody has kept of that stays kept. */
  async generate(): Promise<void> {
    if (this.missing || this.starting) return;
    const { tokens, temperature, seed, n, stop } = this.form;
    const drawn = temperature! > 0 ? { seed, n } : {};
    const args = { prompt: { kind: "live" }, edits: this.edits, max_new_tokens: tokens, temperature, ...drawn, ...(stop ? { stop: tokenTyped(stop) } : {}) };
    [this.starting, this.refused] = [true, ""];
    try {
      const past = this.jobs;
      await this.session.intent("start", { method: METHOD, args, keep: false });
      for (const { id, items } of past) if (!items.length) this.session.drop(id);
    } catch (error) {
      this.refused = words(error);
    } finally {
      this.starting = false;
    }
  }

  stop(): void {
    if (this.job && this.busy) void this.session.send("cancel", { job: this.job.id });
  }
  /** Puts the line of one that failed away. */
  dismiss(): void {
    if (this.job && !this.busy) void this.session.send("cancel", { job: this.job.id });
  }

  async keep(): Promise<void> {
    if (!this.job) return;
    const answer = await this.session.send("keep_made", { job: this.job.id, name: "Continuations" });
    if (answer) this.session.notify(`On the shelf: ${answer.names.join(", ")}`);
  }

  /** The prompt goes on up to and with a generated token, by ids, and what the model does there is on screen. */
  async look(draw: SeedDraw, side: Side, at: number): Promise<void> {
    const run = draw[side];
    if (!this.found || !run) return;
    if (!(await this.session.accepted("set_tokens", { ids: idsUpTo(this.found, run.tokens, at) }))) return;
    this.view.current.selection = null; // its last token
    this.view.current.mode = side === "edited" ? "edit" : "base";
  }

  /** Back to the prompt that was continued. */
  back(): void {
    if (this.found) void this.session.send("set_tokens", { ids: this.found.prompt });
  }
}
