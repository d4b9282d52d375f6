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
  /** The job that draws the contexts. */
  private job = "";
  private left = new AbortController();

  active = $derived(!!this.of);
  done = $derived(this.guesses.length > 0 && this.guesses.every((guess) => guess !== null));

  constructor(private library: LibraryStore) {}

  async begin(description: Description): Promise<void> {
    await this.library.change(async () => {
      this.leave();
      [this.of, this.waiting] = [description, description.id];
      const { library, left } = this;
      try {
        const begun = await library.do("library_blind", { id: description.id });
        if (left.signal.aborted) return library.session.drop(begun.job);
        this.job = begun.job;
        await library.session.ended(begun.job, left.signal);
        const test = await library.ask("library_blind_test", { test: begun.test });
        if (!left.signal.aborted) [this.test, this.guesses, this.at] = [test, test.items.map(() => null), 0];
      } catch (error) {
        if (!left.signal.aborted) this.error = words(error);
      } finally {
        if (!left.signal.aborted) [this.waiting, this.job] = ["", ""];
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
      const result = await this.library.do("library_guess", { test: test.test, guesses: guesses.filter((guess) => guess !== null) });
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
    this.left.abort();
    this.left = new AbortController();
    this.library.session.drop(this.job); // what nobody waits for is not drawn
    this.job = "";
    [this.test, this.of, this.result, this.guesses, this.at, this.waiting, this.error] = [null, null, null, [], 0, "", ""];
  }
}
