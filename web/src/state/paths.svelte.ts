import type { Companion } from "../connect/wire";
import { fromCompanion, quoted } from "../lib/patching";
import type { Node } from "../lib/map";
import { blocksOf, endName, endsOf, kvHeadOf, pathEdit, reaches, readsOf, sameEnd, sends, type Blocks, type End, type Reads } from "../lib/mapPaths";
import type { MapStore } from "./map.svelte";
import type { Session } from "./session.svelte";

interface Point {
  x: number;
  y: number;
}
const NONE: Blocks = { layers: 0, heads: 0, shared: [], parallel: false, absent: new Set() };

/** A path edit while it is drawn, by a drag or by keys, and those that are on the stack. */
export class Paths {
  /** What sends; null: no path is being drawn. */
  from: End | null = $state.raw(null);
  /** Where the pointer holds it; null: it is led by keys. */
  held: Point | null = $state.raw(null);
  over: End | "band" | null = $state.raw(null);
  /** A head it was dropped on: which of its inputs is still to be said. */
  choice: { to: Node; at: Point } | null = $state.raw(null);
  /** The edit that is lit on the map and in the stack. */
  lit = $state("");
  blocks: Blocks = $derived.by(() => (this.session.model ? blocksOf(this.session.model) : NONE));
  to: End | null = $derived.by(() => {
    if (!this.from) return null;
    return this.choice ? this.choice.to : this.held ? (this.over === "band" ? null : this.over) : this.map.at;
  });
  possible = $derived.by(() => !!this.from && !!this.to && reaches(this.from, this.to, this.blocks));
  /** Those of the stack that are in force. */
  shown = $derived.by(() =>
    this.session.edits.flatMap((edit) => {
      const ends = edit.enabled && !edit.error ? endsOf(edit, this.blocks) : null;
      return ends ? [{ id: edit.id, label: edit.label, ...ends }] : [];
    }),
  );
  /** What happens where it is let go, or connected. */
  words = $derived.by(() => {
    const { from, to } = this;
    if (!from) return "";
    const companion = this.companion();
    if (this.held && this.over === "band") return "These layers are drawn together: open them first, or use the keys";
    if (!to || sameEnd(from, to)) return `Path from ${endName(from)}: to what reads it`;
    if (!this.possible) return `${endName(from)} to ${endName(to)} is no path: ${this.why(from, to)}`;
    const what = to === "logits" ? "the logits read" : to !== "embed" && to.head !== null ? `${endName(to)} reads` : `${endName(to)} reads`;
    return companion ? `${what} ${endName(from)} as in ${quoted(companion)}; nothing else does` : `${what} ${endName(from)} as in a companion: write one first`;
  });

  constructor(
    private session: Session,
    private map: MapStore,
    private needCompanion: () => boolean,
  ) {}

  private companion = (): Companion | null => this.session.state?.companion ?? null;

  private why(from: End, to: End): string {
    if (!sends(from, this.blocks)) return "the model has no site there to send from";
    if (to === "embed") return "the embedding reads nothing";
    if (!reaches("embed", to, this.blocks)) return "the model has no site there to receive at";
    return `${endName(to)} reads the stream before ${endName(from)} writes into it`;
  }

  /** Inputs of a head, each with the head that it belongs to: several query heads may read one key. */
  inputs(to: Node): { reads: Reads; head: number }[] {
    return readsOf(this.blocks).map((reads) => ({ reads, head: reads === "q" ? to.head! : kvHeadOf(to.layer, to.head!, this.blocks) }));
  }

  /** held: by the pointer, from there. */
  start(from: End, held: Point | null = null): void {
    [this.from, this.held, this.over, this.choice] = [from, held, held ? from : null, null];
  }

  drag(held: Point, over: End | "band" | null): void {
    this.held = held;
    if (over === "band" || this.over === "band" || !sameEnd(over, this.over)) this.over = over;
  }

  /** By key: the selected part sends, or does no more. */
  mark(): void {
    if (this.from && sameEnd(this.from, this.map.at)) this.cancel();
    else this.start(this.map.at);
  }

  cancel(): void {
    [this.from, this.held, this.over, this.choice] = [null, null, null, null];
  }

  /** Where it stands: asks which input of a head is meant, or puts the edit on the stack. */
  connect(at: Point, to = this.to): void {
    const { from } = this;
    if (!from || !to || sameEnd(from, to)) return this.held ? this.cancel() : undefined;
    if (!reaches(from, to, this.blocks)) {
      this.session.notify(`${endName(from)} to ${endName(to)} is no path: ${this.why(from, to)}.`);
      return this.held ? this.cancel() : undefined;
    }
    if (!this.needCompanion()) return this.cancel();
    if (typeof to === "object" && to.head !== null) [this.held, this.choice] = [null, { to, at }];
    else this.put(to, "q");
  }

  choose(reads: Reads): void {
    if (this.choice) this.put(this.choice.to, reads);
  }

  private put(to: End, reads: Reads): void {
    const companion = this.companion();
    if (!this.from || !companion) return this.cancel();
    const edit = { ...pathEdit(this.from, to, reads, this.blocks), ...fromCompanion(companion, this.session.state?.prompt?.tokens.length ?? 0) };
    void this.session.send("add_edit", { edit });
    this.cancel();
  }
}
