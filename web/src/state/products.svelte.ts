import { words } from "../connect/connector";
import { gramOf, type Coordinates, type Gram } from "../lib/algebra";
import type { Term } from "../lib/mix";
import type { Session } from "./session.svelte";

/** What is asked of one source: all of it, or some of its directions. */
export interface Asked {
  source: string;
  /** Null: all of it. */
  indices: readonly number[] | null;
}
export const askedKey = ({ source, indices }: Asked): string => (indices ? `${source}/${indices.join("+")}` : source);

const keyOf = (source: string, index: number): string => `${source}/${index}`;

/** The inner products of the read vectors of all that is in play. */
export class ProductStore {
  error = $state("");
  private known: { gram: Gram; at: Map<string, number>; of: [string, number][] } | null = $state.raw(null);
  private wanted = "";

  constructor(private session: Session) {}

  get gram(): Gram | null {
    return this.known?.gram ?? null;
  }
  get of(): readonly [string, number][] {
    return this.known?.of ?? [];
  }

  /** Terms as weights over everything in play; null until the products of all of it are there. */
  coordinates(terms: readonly Term[]): Coordinates | null {
    if (!this.known) return null;
    const { gram, at } = this.known;
    const found = new Float64Array(gram.n);
    for (const { source, index, weight } of terms) {
      const place = at.get(keyOf(source, index));
      if (place === undefined) return null;
      found[place] += weight;
    }
    return found;
  }

  /** Asks for them where they are of something else than what is in play. */
  follow(asked: readonly Asked[]): void {
    const key = [this.session.model?.hash, ...asked.map(askedKey)].join("|");
    if (!asked.length || key === this.wanted) return;
    this.wanted = key;
    const named = asked.flatMap(({ source, indices }) => indices?.map((index) => keyOf(source, index)) ?? [source]);
    this.session.connector.query("gram", { of: named }).then(
      ({ of, gram }) => {
        if (this.wanted !== key) return;
        this.known = { gram: gramOf(gram), at: new Map(of.map(([source, index], place) => [keyOf(source, index), place])), of };
        this.error = "";
      },
      (error: unknown) => {
        if (this.wanted === key) this.error = words(error);
      },
    );
  }
}
