import type { Companion, Edit, Prompt } from "../connect/wire";
import { averageArgs, METHOD as AVERAGE, meanAt, noteOf, type Mean } from "../lib/averages";
import type { ValueUnit } from "../lib/format";
import { cellEdit, changedAt, patchedRun, sweepArgs, sweepField, sweepMap, type PatchSight, type SweepName } from "../lib/patchGrid";
import { toggledPatch } from "../lib/patching";
import type { Field } from "../lib/stream";
import { Measured } from "./measured.svelte";
import { bare, type Session } from "./session.svelte";
import type { Cell, ViewStore } from "./view.svelte";

/** Patching sweeps over the prompt and its companion: each a method's call, whose picture fills in while it runs. */
export class PatchStore {
  hover: Cell | null = $state.raw(null);
  private head = $state(0);
  private readonly sweeps: Record<SweepName, Measured>;
  private readonly averaged: Measured;

  get sight(): PatchSight {
    return this.view.current.patch;
  }
  prompt: Prompt | null = $derived.by(() => this.session.state?.prompt ?? null);
  companion: Companion | null = $derived.by(() => this.session.state?.companion ?? null);
  /** A task's prompts stand in place of the two. */
  average = $derived.by(() => this.sight.average);
  tracing = $derived.by(() => !this.average && this.sight.sweep === "causal-tracing");
  changed: number[] = $derived.by(() => changedAt(this.prompt, this.companion));
  /** The tokens that noise hides. */
  subject: number[] = $derived.by(() => this.sight.subject ?? (this.changed.length ? this.changed : [this.pos]));
  /** Why nothing can be asked; empty where it can. */
  lacking: "" | "companion" | "answers" | "lengths" = $derived.by(() => {
    if (this.average) return "";
    if (!this.session.state?.metric) return "answers";
    if (this.tracing) return "";
    if (!this.companion) return "companion";
    return this.companion.tokens.length === this.prompt?.tokens.length ? "" : "lengths";
  });
  measured: Measured = $derived.by(() => (this.average ? this.averaged : this.sweeps[this.sight.sweep]));
  /** Of the same cells, the estimate beside the exact values, or these beside it. */
  private beside: Measured | null = $derived.by(() => (this.tracing || this.average ? null : this.sweeps[this.sight.sweep === "activation-patching" ? "attribution-patching" : "activation-patching"]));
  map = $derived.by(() => sweepMap(this.measured.views));
  heads = $derived.by(() => !!this.map && this.map.column_title !== "pos" && this.sight.site === "z");
  /** Columns are places of the task's prompts, or heads: not the tokens of the prompt on screen. */
  apart = $derived.by(() => this.heads || this.average);
  /** The mean of a cell over many prompts, and its interval. */
  mean({ row, col }: Cell): Mean | null {
    return this.average ? meanAt(this.measured.views, row, col) : null;
  }
  /** What the task check says of the prompts. */
  check = $derived.by(() => (this.average ? noteOf(this.measured.views) : ""));
  /** The metric of the unedited prompt and of the companion, where they are known. */
  ends = $derived.by(() => {
    const own = this.session.runs.findLast(({ edits, prompt }) => !edits && prompt === this.prompt?.text)?.metric ?? null;
    return { prompt: own, companion: this.companion?.outcome?.metric ?? null };
  });
  /** The number of a cell where patching changes nothing. */
  private still = $derived.by(() => {
    if (this.tracing) return 0;
    if (this.average || this.sight.by !== "logits") return this.sight.mode === "denoise" ? 0 : 1;
    return this.ends[patchedRun(this.sight)] ?? 0;
  });
  field: Field | null = $derived.by(() => (this.map ? sweepField(this.map, this.sight.site, this.still) : null));
  other: Field | null = $derived.by(() => {
    const map = sweepMap(this.beside?.views ?? null);
    return map && this.field && map.rows.length === this.field.rows && map.columns.length === this.field.cols ? sweepField(map, this.sight.site, this.still) : null;
  });
  unit: ValueUnit = $derived.by(() => (this.average || (!this.tracing && this.sight.by !== "logits") ? "share" : "metric"));
  /** Of the columns. */
  tokens: string[] = $derived.by(() => (this.average && !this.heads ? (this.map?.columns ?? []) : this.heads && this.field ? Array.from({ length: this.field.cols }, (_, head) => String(head)) : (this.prompt?.tokens ?? []).map(({ text }) => text)));
  private pos = $derived.by(() => {
    const at = this.view.current.selection ?? this.session.state?.selection ?? { layer: 0, pos: 0 };
    return Math.min(Math.max(at.pos, 0), (this.prompt?.tokens.length ?? 1) - 1);
  });
  locked: Cell = $derived.by(() => {
    const at = this.view.current.selection ?? this.session.state?.selection ?? { layer: 0, pos: 0 };
    const [rows, cols] = [this.field?.rows ?? 1, this.field?.cols ?? 1];
    return { row: Math.min(Math.max(at.layer, 0), rows - 1), col: Math.min(this.apart ? this.head : this.pos, cols - 1) };
  });
  pointed: Cell = $derived.by(() => this.hover ?? this.locked);

  constructor(
    private session: Session,
    private view: ViewStore,
    private selectAt: (layer: number, pos: number) => void,
  ) {
    const of = (sweep: SweepName) =>
      new Measured(session, sweep, () => sweepArgs({ ...this.sight, sweep }, this.prompt, this.companion, this.session.state?.metric ?? null, this.subject));
    this.averaged = new Measured(session, AVERAGE, () => averageArgs(view.current.over, { of: "patch", site: this.sight.site, mode: this.sight.mode }));
    this.sweeps = { "activation-patching": of("activation-patching"), "attribution-patching": of("attribution-patching"), "causal-tracing": of("causal-tracing") };
  }

  change(part: Partial<PatchSight>): void {
    Object.assign(this.view.current.patch, part);
  }

  /** The same sweep over many prompts: begun, unless it is there. */
  async overTask(): Promise<void> {
    this.change({ average: true });
    if (!this.averaged.item || this.averaged.stale) await this.averaged.start();
  }

  /** Call from an effect: what the sweep would take, and the pictures there are of it and of the one beside it. */
  follow(): (() => void) | undefined {
    this.measured.followViews();
    this.beside?.followViews();
    return this.lacking ? undefined : this.measured.followCost();
  }

  select(row: number, col: number): void {
    if (!this.field) return;
    const clamp = (x: number, end: number) => Math.min(Math.max(x, 0), end - 1);
    if (this.apart) this.head = clamp(col, this.field.cols);
    this.selectAt(clamp(row, this.field.rows), this.apart ? this.pos : clamp(col, this.field.cols));
  }

  valueAt({ row, col }: Cell, of: Field | null = this.field): number {
    return of?.said?.[row * of.cols + col] ?? NaN;
  }

  /** Whether what is kept first makes the companion the prompt: the sweep patches the companion's run. */
  swaps = $derived.by(() => patchedRun(this.sight) === "companion");

  /** Puts the chosen cell's patch on the stack; where it is of the companion's run, the two change places first. */
  async keep(): Promise<void> {
    if (this.average) return this.session.notify("A mean over many prompts is no edit of this one: patch this pair to keep a cell.");
    if (this.tracing) return this.session.notify("A state put back under noise is no edit of this prompt: patch from the companion to keep a cell.");
    if (!this.field || !this.companion) return;
    const { row, col } = this.locked;
    const edit: Edit = cellEdit(this.field.sites?.[row] ?? "", col, this.heads);
    if (this.swaps) {
      if ((await this.session.send("swap_companion")) === undefined) return;
      this.change({ clean: this.sight.clean === "prompt" ? "companion" : "prompt" }); // the sweep stays what it was
      await this.session.send("set_edits", { edits: [edit] });
      this.view.current.mode = "edit";
      return;
    }
    await this.session.send("set_edits", { edits: toggledPatch(this.session.edits.map(bare), edit, this.companion) });
  }
}
