import { words } from "../connect/connector";
import type { Edit, Run, TokenP } from "../connect/wire";
import { attentionTo, between, difference, readMap, sameNode, tintScale, type LayerData, type MapData, type Node, type Tint } from "../lib/map";
import { acted, done, scaled, toggled, type Act } from "../lib/mapEdits";
import type { HeatMapView, PatternView, PlainView } from "../views/kinds/plain";
import { OpenLayer } from "./mapLayer.svelte";
import type { FlowOf } from "../views/mapFlow";
import { Measured } from "./measured.svelte";
import { TINTS_BY, type TintBy } from "./hash";
import { bare, type Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { ViewStore } from "./view.svelte";

export const SCORES = TINTS_BY.slice(4);

interface Shown {
  key: string;
  a: MapData;
  b: MapData | null;
}

const ZOOMS = [1, 1.5, 2, 3, 4];
const MOST_HELD = 24;
const STEP = 0.25;
/** Tokens of a pattern that is shown in full. */
const MOST_SHOWN = 160;

/** The map of the runs on screen, what is selected in it, and what tints it. */
export class MapStore {
  shown: Shown | null = $state.raw(null);
  error = $state("");
  /** When what is waited for was asked for; and whether that was called off. */
  since: number | null = $state(null);
  stopped = $state(false);
  zoom = $state(1);
  /** Picked one by one beside the selected part. */
  also: Node[] = $state.raw([]);
  readonly open: OpenLayer;
  lens: TokenP[] = $state.raw([]);
  readonly ablation: Measured;
  readonly scores: Measured;
  readonly weights: Measured;
  private cache = new Map<string, Promise<unknown>>();
  private wanted = "";
  private wantedLens = "";
  private asking = new Map<string, AbortController>(); // maps that have not come, by their keys

  get tintBy(): TintBy {
    return this.view.current.map.tint;
  }
  set tintBy(tint: TintBy) {
    this.view.current.map.tint = tint;
  }
  private pair = $derived.by(() => {
    const metric = this.session.state?.metric;
    return metric ? { positive: metric.positive.id, negative: metric.negative.id } : null;
  });
  /** Of the run that is looked at. */
  data: MapData | null = $derived.by(() => {
    const { shown } = this;
    const mode = this.streams.mode;
    if (!shown) return null;
    return mode === "base" || !shown.b ? shown.a : mode === "edit" ? shown.b : difference(shown.b, shown.a);
  });
  /** The run before any edit, beside which the edited one is shown. */
  before: MapData | null = $derived.by(() => (this.streams.mode === "edit" ? (this.shown?.a ?? null) : null));
  run: Run | null = $derived.by(() => (this.streams.mode === "base" || !this.session.b ? this.session.a : this.session.b));
  tokens: string[] = $derived.by(() => this.run?.tokens?.map(({ text }) => text) ?? []);
  get layer(): LayerData | null {
    return this.open.data;
  }
  /** Whose values the open layer's drawing shows. */
  flowOf: FlowOf = $derived.by(() => {
    return { head: this.at.head, group: this.session.model?.shared[this.at.layer] ?? 1, tokens: this.tokens };
  });
  stale = $derived.by(() => !!this.shown && (this.session.behind || this.shown.key !== this.key()));
  at: Node = $derived.by(() => {
    const { data } = this;
    const { node } = this.view.current.map;
    const { model } = this.session;
    const [layers, heads] = [data?.layers ?? (model?.n_layers || 1), data?.heads ?? (model?.n_heads || 1)];
    const { layer: wanted, head } = node ?? strongest(this.shown?.a ?? null);
    const layer = Math.min(wanted, layers - 1);
    return { layer, head: head === null ? null : Math.min(head, heads - 1) };
  });
  selected: Node[] = $derived.by(() => {
    const { corner } = this.view.current.map;
    const { data } = this;
    if (!data) return [this.at];
    if (corner && corner.layer < data.layers && (corner.head ?? 0) < data.heads) return between(this.at, corner, data.heads);
    return [this.at, ...this.also.filter((node) => node.layer < data.layers && (node.head ?? 0) < data.heads && !sameNode(node, this.at))];
  });
  heads = $derived.by(() => this.data?.heads ?? 0);
  acts = $derived.by(() => acted(this.session.edits, this.data?.heads ?? 0));
  /** The token to which attention tints: the chosen one, else where the likelier answer stands, else the first. */
  attended = $derived.by(() => {
    const { to } = this.view.current.map;
    if (to !== null && to < this.tokens.length) return to;
    const answer = this.session.state?.metric?.positive.text;
    return Math.max(0, this.tokens.slice(0, this.data?.pos).lastIndexOf(answer ?? ""));
  });
  attend(to: number): void {
    this.view.current.map.to = to;
  }
  /** What answers for the tint, where that is a job's. */
  measured: Measured | null = $derived.by(() => (this.tintBy === "direct" || this.tintBy === "attention" ? null : this.tintBy === "ablation" ? this.ablation : this.tintBy === "weights" ? this.weights : this.scores));
  tint: Tint | null = $derived.by(() => {
    const { data, measured } = this;
    if (!data) return null;
    if (this.tintBy === "attention") return { heads: attentionTo(data, this.attended), mlp: null };
    if (!measured) return { heads: data.effects, mlp: data.mlp };
    const view = heatMap(measured.views, this.tintBy);
    if (!view || measured.stale) return { heads: new Float32Array(data.layers * data.heads).fill(NaN), mlp: null };
    const heads = Float32Array.from({ length: data.layers * data.heads }, (_, i) => valueOf(view, Math.floor(i / data.heads), i % data.heads));
    return { heads, mlp: this.tintBy === "weights" ? Float32Array.from({ length: data.layers }, (_, layer) => valueOf(view, layer, data.heads)) : null };
  });
  /** Of direct effects, which bars and arrows show whatever the colour is of. */
  effects = $derived.by(() => {
    const of = (data: MapData | null) => data && { heads: data.effects, mlp: data.mlp };
    return tintScale(of(this.streams.mode === "delta" ? this.data : (this.shown?.a ?? null)));
  });
  scale = $derived.by(() => (this.tintBy !== "direct" ? tintScale(this.tint) : this.effects));
  unit = $derived.by(() => (this.tintBy === "direct" || this.tintBy === "ablation" ? "logits" : this.tintBy === "weights" ? "%" : "share"));
  /** Why the picture is not whole, or not of what is asked. */
  unfinished = $derived.by(() => {
    if (this.stale) return "this is still the picture before, and the next is on its way";
    return this.measured ? this.measured.unfinished : "";
  });

  constructor(
    private session: Session,
    private streams: Streams,
    private view: ViewStore,
  ) {
    this.ablation = new Measured(session, "ablation-sweep", () => {
      const { prompt, metric } = session.state ?? {};
      if (!prompt || !metric) return null;
      return {
        prompts: { kind: "typed", texts: [prompt.text], bos: prompt.bos, ids: prompt.by_ids ? [prompt.tokens.map(({ id }) => id)] : null },
        metric: { kind: "logit_diff", positive: metric.positive.text, negative: metric.negative.text },
        site: "z", to: "zero", relative: true,
      };
    });
    this.scores = new Measured(session, "head-scores", () => ({}));
    this.open = new OpenLayer(session, view);
    this.weights = new Measured(session, "weight-difference", () => (session.state?.other?.phase === "ready" ? { other: session.state.other.name } : null));
  }

  private key(): string {
    const { a, b } = this.session;
    return [a?.id, b?.id, this.pair?.positive, this.pair?.negative, this.session.model?.hash].join("|");
  }

  /** Call from an effect: the map follows the runs on screen. */
  follow(): void {
    const { a, b } = this.session;
    const { pair } = this;
    const key = this.key();
    if (!a || !pair || key === this.wanted) return;
    this.wanted = key;
    [this.since, this.stopped] = [performance.now(), false];
    const keyOf = (run: Run) => `${run.id}|${pair.positive} ${pair.negative}`;
    const ask = (run: Run) => this.once(keyOf(run), () => this.load(run, pair, keyOf(run)));
    for (const old of [...this.asking.keys()]) if (old !== keyOf(a) && !(b && old === keyOf(b))) this.leave(old);
    let wrong = "";
    const second = b && b.id !== a.id ? ask(b).catch((error: unknown) => ((wrong = words(error)), null)) : null; // A is shown whatever B refuses
    const end = (shown: Shown | null, error: string) => {
      if (this.wanted === key && !this.stopped) [this.shown, this.error, this.since] = [shown, error, null];
    };
    Promise.all([ask(a), second]).then(([first, other]) => end({ key, a: first, b: other }, wrong), (error: unknown) => end(null, words(error)));
  }

  private async load(run: Run, pair: { positive: number; negative: number }, key: string): Promise<MapData> {
    const left = new AbortController();
    this.asking.set(key, left);
    try {
      return readMap(await this.session.connector.query("map", { run: run.id, ...pair }, left.signal), run.id);
    } finally {
      if (this.asking.get(key) === left) this.asking.delete(key);
    }
  }

  /** Nobody looks at that map any more. */
  private leave(key: string): void {
    this.asking.get(key)?.abort();
    this.asking.delete(key);
    this.cache.delete(`${this.session.model?.hash}|${key}`);
  }

  /** Waits no longer, and lets the model go. */
  stop(): void {
    for (const key of [...this.asking.keys()]) this.leave(key);
    [this.since, this.stopped] = [null, true];
    void this.session.connector.query("map_stop").catch(() => {}); // an answer that does not come changes nothing
  }

  /** Tries once more what failed. */
  retry(): void {
    [this.wanted, this.error] = ["", ""];
    this.follow();
  }

  /** Call from an effect: the open layer in full. */
  followLayer(): (() => void) | undefined {
    const { pair, at, shown } = this;
    const run = this.streams.mode === "base" || !shown?.b ? shown?.a.run : shown.b.run;
    if (!run || !pair || !shown || shown.key !== this.key()) return; // of a run that is about to go, nothing more is asked
    return this.open.follow({ run, layer: at.layer, ...pair }, shown.a.pos, this.tokens.length, (key, load) => this.once(key, load));
  }

  /** Call from an effect: the lens at each layer, once the map is there. */
  followLens(): void {
    const { shown } = this;
    const run = this.streams.mode === "base" || !shown?.b ? shown?.a.run : shown.b.run;
    if (!run || run === this.wantedLens) return;
    this.wantedLens = run;
    this.once(`${run}|lens`, () => this.session.connector.query("lens_rows", { run })).then(
      ({ top }) => this.wantedLens === run && (this.lens = top),
      () => this.wantedLens === run && (this.lens = []), // a run no longer held: the column stays empty
    );
  }

  /** extend: the rectangle's other corner. */
  select(node: Node, extend = false): void {
    const sight = this.view.current.map;
    this.also = [];
    if (extend) [sight.node, sight.corner] = [this.at, node];
    else [sight.node, sight.corner] = [node, null];
  }

  /** One more part beside the selected one, or one less. */
  toggle(node: Node): void {
    if (sameNode(node, this.at)) return;
    const before = this.selected.filter((one) => !sameNode(one, this.at));
    this.view.current.map.corner = null;
    this.also = before.some((one) => sameNode(one, node)) ? before.filter((one) => !sameNode(one, node)) : [...before, node];
  }

  /** Cells larger or smaller by a step; 0: as they were. */
  zoomBy(steps: number): void {
    const at = ZOOMS.indexOf(this.zoom);
    this.zoom = steps === 0 ? 1 : ZOOMS[Math.max(0, Math.min(ZOOMS.length - 1, at + steps))];
  }

  retryLayer(): void {
    this.open.retry();
    this.followLayer();
  }

  /** rows up, columns to the right: the MLP stands beyond the last head. */
  move(rows: number, columns: number, extend = false): void {
    const { data } = this;
    if (!data) return;
    const from = extend ? (this.view.current.map.corner ?? this.at) : this.at;
    const column = Math.max(0, Math.min(data.mlp ? data.heads : data.heads - 1, (from.head ?? data.heads) + columns));
    const layer = Math.max(0, Math.min(data.layers - 1, from.layer + rows));
    this.select({ layer, head: column === data.heads ? null : column }, extend);
  }

  has(act: Act): boolean {
    return done(this.session.edits as Edit[], act, this.selected);
  }

  /** Puts the edit on what is selected, or takes it off. */
  act(act: Act): void {
    if (!this.data) return;
    if (act === "isolate" && this.selected.every(({ head }) => head === null)) return this.session.notify("Heads are isolated among the heads of their layer; an MLP has none beside it.");
    void this.session.send("set_edits", { edits: toggled(this.session.edits.map(bare), act, this.selected, this.data.heads) });
  }

  strengthen(up: boolean): void {
    if (!this.data) return;
    void this.session.send("set_edits", { edits: scaled(this.session.edits.map(bare), this.selected, up ? STEP : -STEP, this.data.heads) });
  }

  /** The selected head's pattern in full, as a picture; null where there is none to show. */
  pattern: PatternView | null = $derived.by(() => {
    const { at, layer, tokens } = this;
    if (at.head === null || !layer?.pattern || layer.side > MOST_SHOWN || layer.side !== tokens.length) return null;
    const from = at.head * layer.side ** 2;
    const weights = tokens.map((_, q) => Array.from(layer.pattern!.subarray(from + q * layer.side, from + (q + 1) * layer.side)));
    return { kind: "pattern", weights, tokens, title: `pattern.${at.layer} head ${at.head}`, note: "" };
  });

  private once<T>(key: string, load: () => Promise<T>): Promise<T> {
    const held = `${this.session.model?.hash}|${key}`;
    const known = this.cache.get(held) as Promise<T> | undefined;
    if (known) return known;
    const loading = load();
    this.cache.set(held, loading);
    loading.catch(() => this.cache.get(held) === loading && this.cache.delete(held));
    for (const old of [...this.cache.keys()].slice(0, -MOST_HELD)) this.cache.delete(old);
    return loading;
  }
}

/** The head that adds, or takes away, most: where one begins to look. */
function strongest(data: MapData | null): Node {
  if (!data) return { layer: 0, head: 0 };
  const best = data.effects.reduce((at, value, i, all) => (Math.abs(value) > Math.abs(all[at]) ? i : at), 0);
  return { layer: Math.floor(best / data.heads), head: best % data.heads };
}

/** The picture of layers by heads among what a method made: of head scores, the one that is asked for. */
export function heatMap(views: PlainView[] | null, by: string): HeatMapView | null {
  const all = (views ?? []).flatMap(function flat(view): HeatMapView[] {
    if (view.kind === "grid") return (view.views as PlainView[]).flatMap(flat);
    return view.kind === "heat_map" ? [view] : [];
  });
  if (by === "weights") return all.find(({ title }) => title === "By head and MLP") ?? null;
  return by === "ablation" ? (all[0] ?? null) : (all.find(({ title }) => title === `score ${by}`) ?? null);
}

export function valueOf({ values, rows }: HeatMapView, layer: number, head: number): number {
  const row = rows.indexOf(String(layer));
  return values[row]?.[head] ?? NaN;
}
