/** A session for tests that answers at once. */

import { vi } from "vitest";
import type { Connector, Listener } from "../src/connect/connector";
import { parseSafetensors } from "../src/connect/safetensors";
import type { DictionaryInfo, Kind, Run, State } from "../src/connect/wire";
import { f32, pack, u8 } from "./pack";

export const info = (id: string, more: Partial<DictionaryInfo> = {}): DictionaryInfo => {
  const [kind, site] = id.replace(/#\d+$/, "").split("@") as [Kind, string];
  return { id, site, head: null, place: site, kind, n: 3, space: kind === "pca" ? "centred" : "raw", standardised: false, fitted_on: "text", tokens: 9, shipped: true, width: 4, ...more };
};
export const tok = (text: string, id = 1) => ({ id, text });
export const run = (id: string, version: number, texts: string[], more: Partial<Run> = {}): Run => ({
  id, version, label: "unedited", model: null, prompt: texts.join(""), tokens: texts.map((text) => tok(text)), edits: 0, metric: 1, own: null, newest: null, top: [], seconds: 0.1, ...more,
});

export function state(more: Partial<State>): State {
  const base = {
    version: 1,
    model: { name: "m", hash: "h", n_layers: 1, certificate: { passed: true, worst: 0, worst_check: "", cached: true, seconds: 1, checks: [] }, dictionaries: [info("pca@resid_post.0")], sites: [] },
    models: [], status: { phase: "idle", detail: "", progress: null, forward_ms: 1, error: null },
    prompt: { text: "ab", bos: false, tokens: [tok("a"), tok("b")] },
    metric: { positive: tok("x", 1), negative: tok("y", 2), chosen: true },
    edits: [], can_undo: false, can_redo: false, links: { opened: 0, undo: false }, runs: [run("r1", 1, ["a", "b"])], current: { a: "r1", b: null },
    selection: { layer: 0, pos: 1 }, saved: [], directions: [], probes: [], notices: [],
  };
  return { ...base, ...more } as unknown as State;
}

/** A session that answers at once, and remembers what it was asked. */
export class Fake implements Connector {
  asked: string[] = [];
  listener!: Listener;
  cols = new Map([["r1", 2], ["r2", 3]]);
  subscribe = (listener: Listener) => ((this.listener = listener), () => {});
  intent = vi.fn(async () => null as never);
  retry = () => {};
  link = (address: string) => address;
  /** The last token alone, whatever the lengths say. */
  sink = (rows: number, cols: number) => u8([rows, cols], Array.from({ length: rows * cols }, (_, i) => +(i % cols === cols - 1)));
  /** The activation of feature i at a cell is the cell's number plus a thousandth of i. */
  private some(cols: number, indices: number[]) {
    const coef = Array.from({ length: 2 * cols }, (_, cell) => indices.map((i) => cell + i / 1000)).flat();
    const k = indices.length;
    return parseSafetensors(pack({ coef: f32([2, cols, k], coef), offset: f32([2, k], Array(2 * k).fill(0)), sink: this.sink(2, cols) }, { rows: JSON.stringify(["embed", "resid_post.0"]), fitted_row: "null" }));
  }
  /** Spelled `stream r1`, `coef r1 pca@resid_post.0` ...: what is asked, and of what. */
  async query<T>(name: string, args: Record<string, unknown> = {}): Promise<T> {
    if (name === "library_alike") return { entries: [], descriptions: 0 } as T;
    if (name === "link") return { edits: [], left_out: [], lost: [] } as T;
    if (name === "manifest") return { edits: [], methods: [], tasks: [], broken: {} } as T;
    const { run, dictionary, id, of, indices } = args as { run?: string; dictionary?: string; id?: string; of?: string[]; indices?: number[] };
    this.asked.push([name, run, dictionary, id, of?.join("+"), indices && `[${indices.join()}]`].filter(Boolean).join(" "));
    if (name === "gram") {
      const pairs = of!.flatMap((source) => {
        const single = source.startsWith("saved") ? null : /^(.+)\/(\d+)$/.exec(source);
        return single ? [[single[1], Number(single[2])]] : (source.startsWith("saved") ? [0] : [0, 1, 2]).map((i) => [source, i]);
      });
      // the first of each dictionary lean on each other by 0.6
      return { of: pairs, gram: pairs.map((a, i) => pairs.map((b, j) => (i === j ? 1 : a[1] === 0 && b[1] === 0 ? 0.6 : 0))) } as T;
    }
    if (!["stream", "logits", "coef"].includes(name)) return { components: [], top: [], bottom: [], label: "d", about: "", norm: 1, variance: null, sd: null, cos_logit_diff: null } as T;
    const cols = this.cols.get(run!)!;
    const cells = Array.from({ length: 2 * cols }, (_, i) => i);
    if (name === "logits") return parseSafetensors(pack({ value: f32([2, cols], cells), offset: f32([2, cols], cells.map(() => 0.5)) })) as T;
    if (name === "stream") return parseSafetensors(pack({ norm: f32([2, cols], cells.map((x) => x + 1)), sink: this.sink(2, cols), next_p: f32([cols, 0], []) }, { next_text: "[]" })) as T;
    if (indices) return this.some(cols, indices) as T;
    const own = dictionary!.includes("z.");
    const rows = own ? 1 : 2;
    const coef = Array.from({ length: rows * cols * 3 }, (_, i) => i + (dictionary!.includes("svd") ? 100 : 0));
    return parseSafetensors(
      pack({ coef: f32([rows, cols, 3], coef), offset: f32([rows, 3], Array(rows * 3).fill(own ? NaN : 1)), sink: this.sink(rows, cols) }, { rows: JSON.stringify(own ? ["z.0"] : ["embed", "resid_post.0"]), fitted_row: "null" }),
    ) as T;
  }
}
