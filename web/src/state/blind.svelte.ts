import { words } from "../connect/connector";
import type { BlindResult, BlindTest, Description } from "../connect/library";
import type { LibraryStore } from "./library.svelte";

/** A blind test of one description: guesses one by one, and only then what the direction said. */
export class BlindStore {
  test: BlindTest | null = $state.raw(null);
  /** The description a test is being made for. */
  waiting = $state("");
  error = $state("");
  /** One guess an item, null where none is made yet. */
  guesses: (number | null)[] = $state([]);
  at = $state(0);
  result: BlindResult | null = $state.raw(null);
  sending = $state(false);
  of: Description | null = $state.raw(null);

  active = $derived(!!this.of);
  done = $derived(this.guesses.length > 0 && this.guesses.every((guess) => guess !== null));

  constructor(private library: LibraryStore) {}

  async begin(description: Description): Promise<void> {
    await this.library.change(async () => {
      this.leave();
      [this.of, this.waiting] = [description, description.id];
      try {
        const test = await this.library.ask<BlindTest>(`descriptions/${description.id}/blind`, {});
        if (this.waiting !== description.id) return; // left meanwhile
        [this.test, this.guesses, this.at] = [test, test.items.map(() => null), 0];
      } catch (error) {
        if (this.waiting === description.id) this.error = words(error);
      } finally {
        if (this.waiting === description.id) this.waiting = "";
      }
    });
  }

  guess(value: number): void {
    this.guesses[this.at] = Math.max(-1, Math.min(1, value));
  }

  step(by: number): void {
    this.at = Math.max(0, Math.min(this.guesses.length - 1, this.at + by));
  }

  async finish(): Promise<void> {
    const { test, guesses } = this;
    if (!test || !this.done || this.sending) return;
    [this.sending, this.error] = [true, ""];
    try {
      const result = await this.library.ask<BlindResult>(`blind/${test.test}`, { guesses: [...guesses] });
      if (this.test !== test) return;
      this.result = result;
      this.library.one.replace(result.description);
    } catch (error) {
      if (this.test === test) this.error = words(error);
    } finally {
      this.sending = false;
    }
  }

  leave(): void {
    [this.test, this.of, this.result, this.guesses, this.at, this.waiting, this.error] = [null, null, null, [], 0, "", ""];
  }
}
