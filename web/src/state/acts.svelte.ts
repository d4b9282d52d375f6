import type { Companion, Edit } from "../connect/wire";
import { CARRIED, cellPatch, fromCompanion, isFrom, quoted, toggledPatch } from "../lib/patching";
import { nodeSite } from "../lib/map";
import { done, toggled } from "../lib/mapEdits";
import { sameSteer, steers, toggledSteers, type Along } from "../lib/mapSteer";
import type { MapStore } from "./map.svelte";
import { bare, type Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { Cell } from "./view.svelte";

/** What can be done to what is selected with the companion beside the prompt. */
export class Acts {
  /** The companion's token that is being dragged, and the cell it is over. */
  carried: number | null = $state(null);
  over: Cell | null = $state.raw(null);
  companion: Companion | null = $derived.by(() => this.session.state?.companion ?? null);
  private from = $derived.by(() => this.companion && fromCompanion(this.companion, this.session.state?.prompt?.tokens.length ?? 0));
  /** The selected parts of the map are patched from the companion. */
  patched = $derived.by(() => !!this.companion && done(this.session.edits as Edit[], "patch", this.map.selected, this.isFrom));
  /** What a patch of the selected parts will do. */
  patching = $derived.by(() => {
    if (!this.companion) return "A patch takes its values from the companion: write one first";
    const { selected } = this.map;
    const what = selected.length > 1 ? `${selected.length} parts take the values they have` : `${nodeSite(selected[0])} takes the value it has`;
    if (this.patched) return `${selected.length > 1 ? `${selected.length} parts` : nodeSite(selected[0])} from ${quoted(this.companion)}: again takes it off`;
    return `${what} in ${quoted(this.companion)}, at every position${this.from?.align ? "; the prompts differ in length, so token stands for token" : ""}`;
  });

  /** What letting go of the dragged token will do. */
  carriedWords = $derived.by(() => (this.carried === null ? "" : this.over ? this.saying(this.over, this.carried) : "drop it on a cell of the grid"));
  /** What patching the selected cell from where the companion stands for it will do. */
  cellWords = $derived.by(() => {
    const cell = this.selected();
    const from = this.standing(cell.col);
    return from === null ? `${this.token(cell.col)} has no token of the companion that stands for it` : `${this.saying(cell, from)} (p)`;
  });
  private steers_ = $derived.by(() => {
    const along = this.along();
    return along ? steers(this.map.selected, along, this.session.model?.d_model ?? 0) : [];
  });
  steered = $derived.by(() => this.steers_.length > 0 && this.steers_.every((one) => (this.session.edits as Edit[]).some((edit) => edit.enabled !== false && sameSteer(edit, one))));
  /** What steering the selected parts will do. */
  steering = $derived.by(() => {
    const along = this.along();
    if (!along) return "Steering needs a direction: choose answers, or a component, first";
    const where = this.steers_.map(({ site, head }) => `${String(site)}${head === undefined ? "" : ` head ${String(head)}`}`).join(", ");
    if (this.steered) return `${where} is steered along ${along.label}: again takes it off`;
    const { strength, unit } = along.strength;
    return `Adds ${strength} ${unit === "sd" ? "standard deviations" : "times a vector of length one"} along ${along.label} to ${where}, at every position`;
  });

  constructor(
    private session: Session,
    private map: MapStore,
    private streams: Streams,
    private selected: () => Cell,
    private writeCompanion: () => void,
    private along: () => Along | null,
  ) {}

  private isFrom = (edit: Edit): boolean => !!this.companion && isFrom(edit, this.companion);

  /** Answers whether there is a companion; else its box is opened. */
  needCompanion(): boolean {
    if (this.companion) return true;
    this.session.notify("A patch takes its values from another prompt: write a companion first.");
    this.writeCompanion();
    return false;
  }

  /** Puts the selected parts' values from the companion, or takes them off. */
  patch(): void {
    if (!this.needCompanion() || !this.map.data) return;
    const { selected, heads } = this.map;
    void this.session.send("set_edits", { edits: toggled(this.session.edits.map(bare), "patch", selected, heads, this.from!, this.isFrom) });
  }

  /** A token of the companion is taken hold of, or let go. */
  carry(from: number | null, event: DragEvent): void {
    if (from !== null) event.dataTransfer?.setData(CARRIED, String(from));
    [this.carried, this.over] = [from, null];
  }

  private place = ({ row }: Cell) => ({ site: this.streams.sites[row] ?? "embed", ...(this.streams.head === null ? {} : { head: this.streams.head }) });
  private token = (pos: number): string => `token ${pos}${this.streams.tokens[pos] === undefined ? "" : ` “${this.streams.tokens[pos]}”`}`;
  private standing = (pos: number): number | null => this.companion?.pairs.find(([to]) => to === pos)?.[1] ?? null;
  private saying = (cell: Cell, from: number): string => {
    const { site, head } = this.place(cell);
    return `${site}${head === undefined ? "" : ` head ${head}`} at ${this.token(cell.col)} takes what the companion has at ${from} “${this.companion?.tokens[from]?.text ?? ""}”`;
  };

  /** A cell of the stream takes its layer's value from the companion: at a position, else at the one that stands for its own. */
  patchCell(cell: Cell, from: number | null = null): void {
    if (!this.needCompanion() || !this.streams.shown) return;
    const taken = from ?? this.standing(cell.col);
    if (taken === null) return this.session.notify(`${this.token(cell.col)} has no token of the companion that stands for it: drag one onto the cell.`);
    const edit = cellPatch(this.place(cell), cell.col, taken);
    void this.session.send("set_edits", { edits: toggledPatch(this.session.edits.map(bare), edit, this.companion!) });
  }

  /** Steers the selected parts along the direction on screen, or no longer. */
  steer(): void {
    if (!this.map.data) return;
    if (!this.steers_.length) return this.session.notify(this.steering);
    void this.session.send("set_edits", { edits: toggledSteers(this.session.edits.map(bare), this.steers_) });
  }
}
