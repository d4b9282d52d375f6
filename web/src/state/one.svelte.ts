import { words } from "../connect/connector";
import type { Description, Vote, Whole } from "../connect/library";
import { isolated } from "../lib/format";
import type { LibraryStore } from "./library.svelte";

/** One direction of the library, with all that is said of it. */
export class OneStore {
  id = $state("");
  whole: Whole | null = $state.raw(null);
  /** Why it could not be read. */
  failed = $state("");

  constructor(private library: LibraryStore) {}

  async read(id: string): Promise<void> {
    if (this.id !== id) [this.whole, this.failed] = [null, ""];
    this.id = id;
    try {
      const whole = await this.library.ask("library_read", { id });
      if (this.id === id) [this.whole, this.failed] = [whole, ""];
    } catch (error) {
      if (this.id === id) [this.whole, this.failed] = [null, words(error)];
    }
  }

  back(): void {
    [this.id, this.whole, this.failed] = ["", null, ""];
    void this.library.search();
  }

  async rename(name: string): Promise<boolean> {
    const { id, version } = this.whole!.entry;
    const { library } = this;
    const renamed = await library.change(() => library.do("library_rename", { id, name, seen: version }));
    if (renamed) await Promise.all([this.read(id), library.search()]);
    return !!renamed;
  }

  async remove(): Promise<void> {
    const { id, name } = this.whole!.entry;
    const { library } = this;
    const gone = await library.change(() => library.do("library_delete", { id }));
    if (!gone) return;
    this.back();
    library.undoable(`Deleted ${isolated(name)}`, gone, () => this.read(id));
  }

  describe(text: string): Promise<boolean> {
    return this.say(() => this.library.do("library_describe", { id: this.id, text }));
  }

  editDescription({ id, version }: Description, text: string): Promise<boolean> {
    return this.say(() => this.library.do("library_edit_description", { id, text, seen: version }));
  }

  comment(text: string): Promise<boolean> {
    return this.say(() => this.library.do("library_comment", { id: this.id, text }));
  }

  /** Takes a description or a comment away, for undo. */
  async unsay(kind: "description" | "comment", id: string): Promise<void> {
    const { library, id: of } = this;
    const gone = await library.change(() => library.do(`library_delete_${kind}`, { id }));
    if (!gone) return;
    await this.read(of);
    library.undoable(kind === "comment" ? "Comment deleted" : "Description deleted", gone, () => this.read(of));
  }

  /** Up or down; the same again withdraws. */
  async vote(description: Description, value: Vote): Promise<void> {
    const { library } = this;
    const voted = await library.change(() => {
      const { mine } = this.whole?.descriptions.find(({ id }) => id === description.id) ?? description; // who one is may be known only now
      return library.do("library_vote", { id: description.id, value: mine === value ? 0 : value });
    });
    if (voted) this.replace(voted);
  }

  /** One description as it is now, in its place: what one has just voted on does not jump away. */
  replace(now: Description): void {
    const { whole, library } = this;
    if (whole?.entry.id !== now.direction) return;
    const descriptions = whole.descriptions.map((each) => (each.id === now.id ? now : each));
    const votes = descriptions.reduce((sum, { up, down }) => sum + up - down, 0);
    this.whole = { ...whole, descriptions, entry: { ...whole.entry, votes } };
    library.found = library.found.map((each) => (each.id === now.direction ? { ...each, votes } : each));
  }

  private async say(action: () => Promise<unknown>): Promise<boolean> {
    const of = this.id;
    const said = await this.library.change(action);
    if (said) await this.read(of);
    return !!said;
  }
}
