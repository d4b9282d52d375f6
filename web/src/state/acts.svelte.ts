import type { Companion, Edit } from "../connect/wire";
import { fromCompanion, isFrom, quoted } from "../lib/companion";
import { nodeSite } from "../lib/map";
import { done, toggled } from "../lib/mapEdits";
import type { MapStore } from "./map.svelte";
import { bare, type Session } from "./session.svelte";

/** What can be done to what is selected with the companion beside the prompt. */
export class Acts {
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

  constructor(
    private session: Session,
    private map: MapStore,
    private writeCompanion: () => void,
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
}
