import { words } from "../connect/connector";
import { named, nameOf, type TermForm } from "../lib/terms";
import type { Session } from "./session.svelte";

/** The field's words, as Python has them: asked for once, when the first is wanted. */
export class GlossaryStore {
  entries: TermForm[] = $state.raw([]);
  /** Titles by id, in order. */
  groups: Record<string, string> = $state.raw({});
  error = $state("");
  private index = $derived.by(() => named(this.entries));
  private asked: Promise<void> | null = null;

  constructor(private session: Session) {}

  load(): Promise<void> {
    this.asked ??= this.ask();
    return this.asked;
  }

  find(name: string): TermForm | null {
    return this.index.get(nameOf(name)) ?? null;
  }

  private async ask(): Promise<void> {
    try {
      const { groups, entries } = await this.session.connector.query("glossary");
      [this.groups, this.entries, this.error] = [groups, entries, ""];
    } catch (error) {
      [this.asked, this.error] = [null, words(error)];
    }
  }
}
