import type { DictionaryInfo } from "../connect/wire";
import { isLarge, MOST_WHOLE, titleOf } from "../lib/dictionaries";
import type { Session } from "./session.svelte";

/** Which directions are read of dictionaries that have too many to read all: those with a weight, and those picked. */
export class Picks {
  private picked: Record<string, number[]> = $state({});

  constructor(private session: Session) {}

  /** Of one dictionary, beside those that have a weight; null where all are read. */
  of(info: DictionaryInfo | null, weighted: readonly number[]): number[] | null {
    if (!info || !isLarge(info)) return null;
    const all = new Set([...weighted, ...(this.picked[info.id] ?? []).filter((index) => index < info.n)]); // another model's may be shorter
    return [...all].slice(0, MOST_WHOLE).toSorted((a, b) => a - b);
  }

  /** Puts one among them; answers whether it is read. One that is not there, or one too many, is refused in words. */
  pick(info: DictionaryInfo | null, index: number, weighted: readonly number[]): boolean {
    const there = Number.isInteger(index) && index >= 0 && index < (info?.n ?? 0);
    if (!info || !isLarge(info)) return there;
    const read = this.of(info, weighted)!;
    if (!there) {
      this.session.notify(`${titleOf(info)} has directions 0 to ${(info.n - 1).toLocaleString("en")}: ${index} is none of them.`, "error");
    } else if (!read.includes(index) && read.length >= MOST_WHOLE) {
      this.session.notify(`${MOST_WHOLE} directions of one dictionary are all that is read at once: leave some out first.`, "error");
    } else if (!this.picked[info.id]?.includes(index)) {
      this.picked[info.id] = [...(this.picked[info.id] ?? []), index];
    }
    return there && !!this.of(info, weighted)?.includes(index);
  }

  clear(source: string): void {
    delete this.picked[source];
  }
}
