import { words } from "../connect/connector";
import { floats } from "../connect/safetensors";
import { lookers, measureOf, patternOf, type Found, type Pattern } from "../lib/heads";
import type { HeadsSight } from "../lib/headsSight";
import { attentionTo, readMap, tintScale, type Node, type Tint } from "../lib/map";
import type { CurveView } from "../views/kinds/plain";
import { heatMap, valueOf, type MapStore } from "./map.svelte";
import { Measured } from "./measured.svelte";
import type { Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { ViewStore } from "./view.svelte";

const PAUSE = 60;
const MOST_HELD = 8;
const MOST_FOUND = 10;

interface Shown extends Pattern {
  key: string;
}

/** How the heads are looked at: all of them by two measures, and the patterns of those that are picked. */
export class HeadsStore {
  hovered: number | null = $state(null);
  pattern: Shown | null = $state.raw(null);
  error = $state("");
  private sought: { key: string; looks: Float32Array; keys: number } | null = $state.raw(null);
  soughtError = $state("");
  private cache = new Map<string, Promise<Float32Array>>();
  private wanted = "";
  private wantedOf = ""; // the runs of it: the pause is for a hand that picks
  private wantedFrom = "";
  readonly mlps: Measured;
  readonly copying: Measured;

  private get sight(): HeadsSight {
    return this.view.current.heads;
  }
  get by(): string[] {
    return this.sight.by;
  }
  set by(by: string[]) {
    this.sight.by = by;
  }
  get scatter(): boolean {
    return this.sight.scatter;
  }
  set scatter(scatter: boolean) {
    this.sight.scatter = scatter;
  }
  get how(): HeadsSight["how"] {
    return this.sight.how;
  }
  set how(how: HeadsSight["how"]) {
    this.sight.how = how;
  }
  get over(): HeadsSight["over"] {
    return this.sight.over;
  }
  set over(over: HeadsSight["over"]) {
    this.sight.over = over;
  }
  get weighted(): boolean {
    return this.sight.weighted;
  }
  set weighted(weighted: boolean) {
    this.sight.weighted = weighted;
  }
  get way(): HeadsSight["way"] {
    return this.sight.way;
  }
  set way(way: HeadsSight["way"]) {
    this.sight.way = way;
  }
  get locked(): number | null {
    return this.sight.locked;
  }
  set locked(locked: number | null) {
    this.sight.locked = locked;
  }
  get from(): number | null {
    return this.sight.from;
  }
  set from(from: number | null) {
    this.sight.from = from;
  }
  get to(): number | null {
    return this.sight.to;
  }
  set to(to: number | null) {
    this.sight.to = to;
  }

  /** The selected head, then those beside it; an MLP has no pattern. */
  picked: Node[] = $derived.by(() => this.map.selected.filter(({ head }) => head !== null));
  private runs = $derived.by(() => {
    const { a, b } = this.session;
    if (!a) return [];
    return this.streams.mode === "base" || !b || b.id === a.id ? [a.id] : this.streams.mode === "edit" ? [b.id] : [b.id, a.id];
  });
  /** The one whose pattern is drawn; of a difference, of two, none. */
  run = $derived.by(() => (this.runs.length === 1 ? this.runs[0] : null));
  private key = $derived.by(() => [this.session.model?.hash, this.runs.join(" less "), this.picked.map(({ layer, head }) => `${layer}.${head}`).join(" "), this.picked.length > 1 ? this.over : "", this.weighted].join("|"));
  /** What is drawn is of other heads, or another run, than what is asked. */
  behind = $derived.by(() => !!this.pattern && this.pattern.key !== this.key);
  /** The pattern that is asked for is drawn, or there is none to wait for: what takes the whole model may begin. */
  ready = $derived.by(() => !this.picked.length || !!this.error || (!!this.pattern && !this.behind));
  unit = $derived.by(() => (this.weighted ? "|A v W_O|" : "attention"));
  /** The token whose attention is told: the pointed, else the locked, else where the answer is read. */
  token = $derived.by(() => Math.min(this.hovered ?? this.locked ?? this.map.data?.pos ?? Infinity, Math.max(0, this.map.tokens.length - 1)));
  wide = $derived.by(() => this.map.data?.heads ?? 0);

  seekFrom = $derived.by(() => Math.min(this.from ?? this.map.data?.pos ?? 0, Math.max(0, this.map.tokens.length - 1)));
  seekTo = $derived.by(() => Math.min(this.to ?? this.map.attended, this.seekFrom));
  found: Found[] | null = $derived.by(() => {
    const { data } = this.map;
    const own = data?.looks && this.seekFrom === data.pos ? { looks: data.looks, keys: data.looks.length / (data.layers * data.heads) } : this.sought?.key === this.seekKey() ? this.sought : null;
    return own && own.looks.length ? lookers(own.looks, own.keys, this.wide, this.seekTo, MOST_FOUND) : null;
  });

  constructor(
    private session: Session,
    private streams: Streams,
    private map: MapStore,
    private view: ViewStore,
  ) {
    this.mlps = new Measured(session, "ablation-sweep", () => {
      const { prompt, metric } = session.state ?? {};
      if (!prompt || !metric || !map.data?.mlp) return null;
      return {
        prompts: { kind: "typed", texts: [prompt.text], bos: prompt.bos, ids: prompt.by_ids ? [prompt.tokens.map(({ id }) => id)] : null },
        metric: { kind: "logit_diff", positive: metric.positive.text, negative: metric.negative.text },
        site: "mlp_out", to: "zero", relative: true,
      };
    });
    this.copying = new Measured(session, "copying-scores", () => ({}));
  }

  /** The jobs that answer a measure: none where the run itself does. */
  jobs(measure: string): Measured[] {
    if (measure === "direct" || measure === "attention") return [];
    if (measure === "ablation") return this.map.data?.mlp ? [this.map.ablation, this.mlps] : [this.map.ablation];
    return [measure === "copying" ? this.copying : this.map.scores];
  }

  /** Every head's value, and every MLP's where it has one; null where it is still to be asked for. */
  values(measure: string): Tint | null {
    const { data } = this.map;
    if (!data) return null;
    if (measure === "direct") return { heads: data.effects, mlp: data.mlp };
    if (measure === "attention") return data.looks && { heads: attentionTo(data, this.map.attended), mlp: null };
    const [own] = this.jobs(measure);
    const view = own.stale ? null : measure === "copying" || measure === "ablation" ? heatMap(own.views, "ablation") : heatMap(own.views, measure);
    if (!view) return null;
    const heads = Float32Array.from({ length: data.layers * data.heads }, (_, i) => valueOf(view, Math.floor(i / data.heads), i % data.heads));
    return { heads, mlp: measure === "ablation" && data.mlp ? this.ablatedMLPs(data.layers) : null };
  }

  private ablatedMLPs(layers: number): Float32Array {
    const view = this.mlps.stale ? undefined : (this.mlps.views?.[0] as CurveView | undefined);
    return Float32Array.from({ length: layers }, (_, layer) => view?.lines[0]?.y[view.x.findIndex((x) => Number(x) === layer)] ?? NaN);
  }

  /** The full colour: of logits, one for both pictures. */
  scale(measure: string): number {
    const unit = measureOf(measure).unit;
    return tintScale(...this.by.filter((one) => (unit === "logits" ? measureOf(one).unit === unit : one === measure)).map((one) => this.values(one)));
  }

  /** also: beside what is picked already, or no longer. */
  pick(node: Node, also: boolean): void {
    if (!also) this.map.select(node);
    else this.map.toggle(node);
  }

  /** Call from an effect: the pattern of what is picked. */
  follow(): (() => void) | undefined {
    const { key, runs, picked, over, weighted } = this;
    if (!runs.length || !picked.length || this.session.behind || key === this.wanted) return;
    const heads = picked.map(({ layer, head }) => [layer, head!] as [number, number]);
    const ask = (): void => {
      [this.wanted, this.wantedOf] = [key, runs.join()];
      Promise.all(runs.map((run) => this.once(run, { run, heads, over, weighted }))).then(
        ([values, less]) => {
          if (this.wanted !== key) return;
          const signed = !!less && less.length === values.length;
          const shown = signed ? values.map((value, i) => value - less[i]) : values;
          [this.pattern, this.error] = [{ key, ...patternOf(shown, Math.round(Math.sqrt(shown.length)), { weighted, signed }) }, ""];
        },
        (error: unknown) => this.wanted === key && ([this.pattern, this.error] = [null, words(error)]),
      );
    };
    if (!this.pattern || this.wantedOf !== runs.join()) {
      ask();
      return;
    }
    const timer = setTimeout(ask, PAUSE);
    return () => clearTimeout(timer);
  }

  private once(run: string, args: { run: string; heads: [number, number][]; over: "mean" | "max"; weighted: boolean }): Promise<Float32Array> {
    const key = `${this.session.model?.hash}|${run}|${JSON.stringify(args)}`;
    const known = this.cache.get(key);
    if (known) return known;
    const loading = this.session.connector.query("attention", args).then((file) => floats(file, "pattern").data);
    this.cache.set(key, loading);
    loading.catch(() => this.cache.delete(key));
    for (const old of [...this.cache.keys()].slice(0, -MOST_HELD)) this.cache.delete(old);
    return loading;
  }

  private seekKey(): string {
    const { shown } = this.map;
    return [this.runs[0], this.seekFrom, shown?.key].join("|");
  }

  /** Call from an effect: where heads look from the position that is sought from; from the answer's, the map has it. */
  followFound(): void {
    const metric = this.session.state?.metric;
    const [run] = this.runs;
    const key = this.seekKey();
    if (!metric || !run || this.map.stale || this.seekFrom === this.map.data?.pos || key === this.wantedFrom) return;
    this.wantedFrom = key;
    this.session.connector.query("map", { run, positive: metric.positive.id, negative: metric.negative.id, pos: this.seekFrom }).then(
      (file) => {
        const { looks, layers, heads } = readMap(file, run);
        if (this.wantedFrom === key) [this.sought, this.soughtError] = [{ key, looks: looks ?? new Float32Array(), keys: (looks?.length ?? 0) / (layers * heads) }, ""];
      },
      (error: unknown) => this.wantedFrom === key && ([this.sought, this.soughtError] = [null, words(error)]),
    );
  }

  retry(): void {
    [this.wanted, this.wantedFrom, this.error, this.soughtError] = ["", "", "", ""];
    this.follow();
    this.followFound();
  }
}
