/** The prompt and its companion, side by side: which token stands for which, in columns. */

interface Tok {
  id: number;
  text: string;
}

/** One column: a position of the prompt and one of the companion; null where it has none. */
export interface Column {
  live: number | null;
  own: number | null;
  kind: "same" | "exchanged" | "added" | "missing";
}

/** Every token of both, in order: `pairs` stand in one column, the others in one of their own. */
export function columnsOf(live: readonly Tok[], own: readonly Tok[], pairs: readonly (readonly [number, number])[]): Column[] {
  const columns: Column[] = [];
  let [i, j] = [0, 0];
  const upTo = (to: number, from: number): void => {
    for (; i < to; i++) columns.push({ live: i, own: null, kind: "missing" });
    for (; j < from; j++) columns.push({ live: null, own: j, kind: "added" });
  };
  for (const [to, from] of pairs) {
    upTo(to, from);
    columns.push({ live: i, own: j, kind: live[i].id === own[j].id ? "same" : "exchanged" });
    [i, j] = [i + 1, j + 1];
  }
  upTo(live.length, own.length);
  return columns;
}

/** `1 differs`, `the same tokens`. */
export function differing(columns: readonly Column[]): string {
  const n = columns.filter(({ kind }) => kind !== "same").length;
  return n ? `${n} differ${n === 1 ? "s" : ""}` : "the same tokens";
}

/** The places where they differ, each with some columns before and after it; those that touch are one. From, and one past the end. */
export function places(columns: readonly Column[], context: number): [number, number][] {
  const found: [number, number][] = [];
  columns.forEach(({ kind }, at) => {
    if (kind === "same") return;
    const [from, to] = [Math.max(0, at - context), Math.min(columns.length, at + context + 1)];
    const last = found.at(-1);
    if (last && from <= last[1]) last[1] = to;
    else found.push([from, to]);
  });
  return found;
}

export const SAID: Record<Column["kind"], string> = {
  same: "", exchanged: "exchanged", added: "only in the companion", missing: "not in the companion",
};
