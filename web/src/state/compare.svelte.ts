import { add, cosines, orthogonalise, projectOut, subtract, type Coordinates } from "../lib/algebra";
import type { Term } from "../lib/mix";
import type { HeatMapView } from "../views/kinds/plain";
import type { Mixing } from "./mixing.svelte";

/** A direction beside the current one: a component, a saved direction, or a mix that was set aside. */
export interface Other {
  /** In a picture. */
  short: string;
  name: string;
  terms: Term[];
}

export type Operation = "add" | "subtract" | "project_out";

const BY: Record<Operation, typeof add> = { add, subtract, project_out: projectOut };

/** The algebra of the current direction with others, all from the Gram matrix: nothing is asked of the server. */
export class Compare {
  others: Other[] = $state.raw([]);
  /** Why the last operation gave nothing. */
  failed = $state("");
  private aside = 0;

  /** Those whose products are known, with their place in `others`. */
  private placed = $derived.by(() =>
    this.others.flatMap((other, at) => {
      const coordinates = this.mixing.coordinates(other.terms);
      return coordinates ? [{ at, short: other.short, name: other.name, coordinates }] : [];
    }),
  );
  current: Coordinates | null = $derived.by(() => this.mixing.coordinates(this.mixing.terms));

  /** Cosines of the current direction (named first) and the others. */
  table = $derived.by((): HeatMapView | null => {
    const gram = this.mixing.gram;
    if (!gram || !this.current || !this.placed.length) return null;
    const rows = ["current", ...this.placed.map(({ at, short }) => `${at + 1} ${short}`)];
    const columns = ["current", ...this.placed.map(({ at }) => String(at + 1))];
    const values = cosines(gram, [this.current, ...this.placed.map(({ coordinates }) => coordinates)]);
    return {
      kind: "heat_map", values: values.map((row) => row.map((value) => (Number.isFinite(value) ? value : null))), rows, columns,
      title: "Cosines", row_title: "", column_title: "", unit: "cos", scale: "diverging", limit: 1, low: null, high: null, marks: [], note: "", texts: null, bottom_up: false,
    };
  });

  constructor(private mixing: Mixing) {}

  /** Its cosine with the current direction, where both are known. */
  cosineOf(at: number): number | null {
    const row = this.placed.findIndex((other) => other.at === at);
    return row < 0 ? null : (this.table?.values[0][row + 1] ?? null);
  }

  take(short: string, name: string, terms: Term[]): void {
    this.failed = "";
    for (const { source } of terms) this.mixing.include(source);
    if (!this.others.some((other) => other.name === name)) this.others = [...this.others, { short, name, terms }];
  }
  /** The current direction, put beside itself so that another can be made. */
  setAside(): void {
    if (!this.mixing.zero) this.take("aside", `set aside ${++this.aside}`, this.mixing.terms);
  }
  drop(at: number): void {
    this.failed = "";
    this.others = this.others.filter((_, i) => i !== at);
  }

  apply(operation: Operation, at: number): void {
    const gram = this.mixing.gram;
    const other = this.placed.find((one) => one.at === at);
    if (!gram || !this.current || !other) return;
    const made = BY[operation](gram, this.current, other.coordinates);
    this.settle(made, operation === "project_out" ? `the direction lies along ${other.name}` : `the direction and ${other.name} cancel`);
  }

  /** Gram-Schmidt against all the others. */
  orthogonalise(): void {
    const gram = this.mixing.gram;
    if (!gram || !this.current) return;
    const made = orthogonalise(gram, this.current, this.placed.map(({ coordinates }) => coordinates));
    this.settle(made, "the direction lies within what the others span");
  }

  private settle(made: Coordinates | null, why: string): void {
    this.failed = made ? "" : `Nothing is left: ${why}. The mix is as it was.`;
    if (made) this.mixing.adopt(made);
  }
}
