import { words } from "../connect/connector";
import type { ItemInfo, Run } from "../connect/wire";
import { lensField, LENS_UNITS, likely, shownOf, withPart, type LensData, type LensShow, type Likely } from "../lib/lens";
import type { ValueUnit } from "../lib/format";
import type { Field } from "../lib/stream";
import type { Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { Cell, ViewStore } from "./view.svelte";

/** Cells that one question asks for: about half a second of a small model's unembedding. */
const AT_ONCE = 640;
/** Seconds that are taken without asking. */
const UNASKED = 20;
const MOST_HELD = 12;
const MOST_NAME = 60;
const TUNED = "report:tuned_lens";
const LOADS = "tuned-lens-load";
export const TRAINS = "tuned-lens";

interface Shown {
  key: string;
  a: LensData | null;
  b: LensData | null;
}

const sameShape = (a: LensData | null, b: LensData): boolean => a?.rows === b.rows && a.cols === b.cols;

/** The logit lens of the runs on screen, read some tokens at a time from where the reader stands. */
export class LensStore {
  hover: Cell | null = $state.raw(null);
  error = $state("");
  reading = $state(false);
  /** Seconds a cell takes; null until something was read. */
  private pace: number | null = $state(null);
  private held: Map<string, LensData> = $state.raw(new Map());
  private kept: Shown | null = $state.raw(null);
  /** The job that reads a lens from files. */
  private loading = $state("");
  /** What may take long, by its key, once that is agreed to; and what was called off. */
  private agreed = $state("");
  private stopped = $state("");

  get show(): LensShow {
    return this.view.current.lens.show;
  }
  set show(show: LensShow) {
    this.view.current.lens.show = show;
  }
  /** The token that is followed; null: what the run itself says. */
  get token(): string | null {
    return this.view.current.lens.token;
  }
  /** The tuned lens of the shelf that is read through; null: none. */
  get through(): string | null {
    return this.view.current.lens.through;
  }
  set through(name: string | null) {
    this.view.current.lens.through = name;
  }
  tuned: ItemInfo[] = $derived.by(() => (this.session.state?.items?.items ?? []).filter(({ kind }) => kind === TUNED));
  /** The lens that is read through; another of the same name, or after one, is another lens. */
  private item = $derived.by(() => this.tuned.find(({ name }) => name === this.through) ?? null);
  private lensKey = $derived.by(() => (this.through === null ? "" : `${this.through} ${this.item?.made ?? ""}`));
  astray = $derived.by(() => (this.through !== null && this.session.state && !this.item ? `There is no tuned lens “${this.through}” on the shelf. Choose another above, or read it from its files.` : ""));
  /** Lenses that are being trained, or read from files. */
  making = $derived.by(() => (this.session.state?.jobs ?? []).filter(({ method, phase }) => (method === LOADS || method === TRAINS) && (phase === "running" || phase === "waiting")));
  private runs = $derived.by((): { a: Run | null; b: Run | null } => {
    const { a, b } = this.session;
    return { a, b: b && b.id !== a?.id ? b : null };
  });
  private key = $derived.by(() => [this.runs.a?.id, this.runs.b?.id, this.token ?? "", this.lensKey, this.session.model?.hash].join("|"));
  private now: Shown = $derived.by(() => ({ key: this.key, a: this.heldOf(this.runs.a), b: this.heldOf(this.runs.b) }));
  /** What is on screen: of what was asked before until the first tokens of what is asked now are there. */
  private shown: Shown | null = $derived.by(() => (this.now.a && (!this.runs.b || this.now.b) ? this.now : this.kept));
  /** Which of the runs is shown. */
  mode = $derived.by(() => (this.shown?.b && (this.streams.mode !== "delta" || sameShape(this.shown.a, this.shown.b)) ? this.streams.mode : "base"));
  stale = $derived.by(() => !!this.shown && (this.session.behind || this.shown.key !== this.key));
  data: LensData | null = $derived.by(() => (this.mode === "base" ? (this.shown?.a ?? null) : (this.shown?.b ?? null)));
  private vocab = $derived.by(() => this.session.model?.d_vocab ?? 2);
  private fieldA = $derived.by(() => this.field_("a"));
  private fieldB = $derived.by(() => this.field_("b"));
  field: Field | null = $derived.by(() => {
    const { a, b } = this.shown ?? {};
    if (this.mode === "delta" && a && b) return lensField(b, this.show, this.vocab, a);
    const [first, second] = [this.fieldA, this.fieldB];
    const chosen = this.mode === "base" ? first : second;
    return chosen && first && second ? { ...chosen, scale: first.scale, ends: first.ends } : chosen;
  });
  /** The other run's, for the line beside the grid. */
  other: Float32Array | null = $derived.by(() => {
    const { a, b } = this.shown ?? {};
    if (this.mode === "delta" || !a || !b || !sameShape(a, b)) return null;
    return (this.mode === "base" ? this.fieldB : this.fieldA)?.values ?? null;
  });
  unit: ValueUnit = $derived.by(() => LENS_UNITS[this.show]);
  run: Run | null = $derived.by(() => (this.mode === "base" ? this.runs.a : (this.runs.b ?? this.runs.a)));
  tokens: string[] = $derived.by(() => this.run?.tokens?.map(({ text }) => text) ?? []);
  locked: Cell = $derived.by(() => {
    const at = this.view.current.selection ?? this.session.state?.selection ?? { layer: 0, pos: 0 };
    const [rows, cols] = [this.data?.rows ?? 1, this.data?.cols ?? 1];
    return { row: Math.min(Math.max(at.layer + 1, 0), rows - 1), col: Math.min(Math.max(at.pos, 0), cols - 1) };
  });
  pointed: Cell = $derived.by(() => this.hover ?? this.locked);
  /** Positions that are still to be read, and about how long that takes. */
  left = $derived.by(() => {
    const lacking = (run: Run | null) => (run ? (run.tokens?.length ?? 0) - (this.heldOf(run)?.read ?? 0) : 0);
    const tokens = lacking(this.runs.a) + lacking(this.runs.b);
    return { tokens, seconds: this.pace === null ? null : this.pace * tokens * (this.session.model?.n_layers ?? 0) };
  });
  /** More is to be read than is read unasked, or somebody called it off. */
  waits = $derived.by(() => !this.reading && this.left.tokens > 0 && (this.stopped === this.key || (this.left.seconds ?? 0) > UNASKED));
  unfinished = $derived.by(() => (this.stale ? "this is still the picture before, and the next is on its way" : this.left.tokens ? "its tokens are still being read" : ""));

  constructor(
    private session: Session,
    private streams: Streams,
    private view: ViewStore,
    private selectAt: (layer: number, pos: number) => void,
  ) {}

  private field_(which: "a" | "b"): Field | null {
    const data = this.shown?.[which];
    return data ? lensField(data, this.show, this.vocab) : null;
  }
  private name = (run: Run): string => `${run.id}|${this.token ?? ""}|${this.lensKey}`;
  private heldOf(run: Run | null): LensData | null {
    return run ? (this.held.get(this.name(run)) ?? null) : null;
  }

  /** The likeliest tokens of a cell; of a run that is not the one shown, by its name. */
  likely({ row, col }: Cell, which: "shown" | "a" = "shown"): Likely[] {
    const data = which === "a" ? (this.shown?.a ?? null) : this.data;
    return data && row < data.rows && col < data.cols ? likely(data, row * data.cols + col) : [];
  }
  /** A number of a cell of the run that is shown. */
  at(show: LensShow, { row, col }: Cell): number {
    return this.data ? shownOf(this.data, show)[row * this.data.cols + col] : NaN;
  }

  select(row: number, col: number): void {
    if (!this.data) return;
    const clamp = (x: number, end: number) => Math.min(Math.max(x, 0), end - 1);
    this.selectAt(clamp(row, this.data.rows) - 1, clamp(col, this.data.cols));
  }

  /** Follows a token, as it is typed; answers why it cannot. */
  async followToken(text: string | null): Promise<string> {
    if (text !== null) {
      try {
        const { tokens } = await this.session.connector.query("tokens", { text });
        if (tokens.length !== 1) return `These are ${tokens.length} tokens: ${tokens.map(({ text }) => `“${text}”`).join(" ")}. One can be followed.`;
      } catch (error) {
        return words(error);
      }
    }
    this.view.current.lens.token = text;
    return "";
  }

  /** Reads a tuned lens from files, and then through it; answers why not. */
  async loadFrom(source: string): Promise<string> {
    const name = (source.split(/[\\/]/).filter(Boolean).at(-1) ?? "").replace(/\.safetensors$/, "").slice(0, MOST_NAME);
    try {
      this.loading = (await this.session.intent("start", { method: LOADS, args: { source }, name })).job;
      return "";
    } catch (error) {
      return words(error);
    }
  }

  /** Call from an effect: a lens that was asked for here is read through once it is there. */
  followLoading(): void {
    const job = (this.session.state?.jobs ?? []).find(({ id }) => id === this.loading);
    if (!job || job.phase === "running" || job.phase === "waiting") return;
    this.loading = "";
    if (job.items.length) this.through = job.items[0];
    else if (job.error) this.session.notify(job.error.message, "error");
  }

  /** Call from an effect: reads what is lacking of the runs on screen; the answer stops it. */
  follow(): (() => void) | undefined {
    const { key, runs, agreed } = this; // agreed: so that it comes back then
    if (!runs.a || this.session.behind || this.stopped === key || this.astray) return;
    if (agreed && agreed !== key) this.agreed = "";
    const stop = new AbortController();
    this.error = "";
    void this.readAll(key, stop.signal);
    return () => {
      stop.abort();
      this.reading = false;
    };
  }

  /** Reads the rest, however long. */
  goOn(): void {
    [this.agreed, this.stopped] = [this.key, ""];
  }
  stop(): void {
    [this.stopped, this.agreed] = [this.key, ""];
  }

  private async readAll(key: string, signal: AbortSignal): Promise<void> {
    await Promise.resolve(); // what is read from here on is not what an effect depends on
    const { a, b } = this.runs;
    const order = this.streams.mode === "base" ? [a, b] : [b, a];
    this.reading = true;
    try {
      for (const run of order) if (run) await this.readRun(run, key, signal, true);
      for (const run of order) if (run) await this.readRun(run, key, signal, false);
    } catch (error) {
      if (!signal.aborted) [this.error, this.stopped] = [words(error), key];
    } finally {
      if (!signal.aborted) this.reading = false;
    }
  }

  /** once: only where the reader stands. */
  private async readRun(run: Run, key: string, signal: AbortSignal, once: boolean): Promise<void> {
    const cols = run.tokens?.length ?? 0;
    const rows = (this.session.model?.n_layers ?? 0) + 1;
    const count = Math.max(1, Math.min(128, Math.floor(AT_ONCE / rows)));
    const parts = Array.from({ length: Math.ceil(cols / count) }, (_, part) => part * count);
    const here = Math.floor(Math.min(this.locked.col, cols - 1) / count);
    for (const first of [...parts.slice(here), ...parts.slice(0, here)]) {
      const data = this.heldOf(run);
      if (data && !Number.isNaN(data.entropy[first])) {
        if (once) return;
        continue;
      }
      if (!once && this.agreed !== key && (this.left.seconds ?? 0) > UNASKED) return;
      const since = performance.now();
      const asked = { ...(this.token === null ? {} : { token: this.token }), ...(this.through === null ? {} : { through: this.through }) };
      const file = await this.session.connector.query("lens_grid", { run: run.id, first, count, ...asked }, signal);
      if (signal.aborted) return;
      this.pace = (performance.now() - since) / 1000 / (Math.min(count, cols - first) * rows);
      const held = new Map(this.held);
      held.delete(this.name(run));
      held.set(this.name(run), withPart(this.heldOf(run), cols, file));
      for (const old of [...held.keys()].slice(0, -MOST_HELD)) held.delete(old);
      this.held = held;
      if (this.now.a && (!this.runs.b || this.now.b)) this.kept = this.now;
      if (once) return;
    }
  }
}
