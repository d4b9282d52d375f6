import { words } from "../connect/connector";
import type { Run } from "../connect/wire";
import { isCentred, isEncoder, unitOf } from "../lib/dictionaries";
import type { StreamUnit } from "../lib/format";
import { mixField, Turns, type Part } from "../lib/mix";
import { robustScale, rowScales } from "../lib/scale";
import { readCoefs, readLogits, readStream, rowSite, scaleAt, wholeColumns, type Coefs, type Field, type Logits, type StreamData } from "../lib/stream";
import type { Mode } from "./hash";
import type { Mixing } from "./mixing.svelte";
import { askedKey, type Asked } from "./products.svelte";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

/** One run as the page holds it: its stream, and its coordinates in every dictionary in play. */
interface Held {
  run: Run;
  data: StreamData;
  coefs: Map<string, Coefs>;
  logits: Logits | null;
}

interface Shown {
  key: string;
  a: Held;
  b: Held | null;
}

/** What the picture's cells are: the stream's rows, or one site's in every layer. */
interface Ground {
  rows: number;
  cols: number;
  norm: Float32Array | null;
  sink: Uint8Array;
  sites: readonly string[];
  own: boolean;
}

const MOST_HELD = 48;
/** Tabs that show the next tokens of all positions: no other tab's pictures wait for them. */
const NEXTS: ReadonlySet<string> = new Set(["stream", "lens"]);

/** Fetches the runs on screen and turns them into what the views draw. */
export class Streams {
  shown: Shown | null = $state.raw(null);
  error = $state("");
  /** The picture whose pixels are on the screen; what is less urgent waits for it. */
  painted = $state("");
  private cache = new Map<string, Promise<unknown>>();
  private wanted = "";
  private filling = "";
  private completing = new Set<string>();
  private turns = { a: new Turns(), b: new Turns(), delta: new Turns() };
  private kept: { a: Float32Array | null; b: Float32Array | null; grounds: { a: Ground; b: Ground | null } | null } = { a: null, b: null, grounds: null };

  /** The place of the chosen dictionary. */
  site = $derived.by(() => this.mixing.dictionary?.place ?? "");
  /** Which data-set means are known changes what is subtracted. */
  private means = $derived.by(() => (this.session.model?.dictionaries ?? []).filter((info) => info.kind === "pca" && !isEncoder(info)).map(({ id }) => id).join());
  /** The data-set mean is known, so the logit difference can be centred. */
  hasMean = $derived.by(() => !!this.session.model?.dictionaries.some((info) => info.kind === "pca" && !isEncoder(info) && info.head === null && /^(embed|resid_)/.test(info.site)));
  /** Everything the direction is made of is there; until then the picture before it stays. */
  private ready = $derived.by(() => {
    if (this.view.current.direction === "logit") return true;
    const { mixing } = this;
    const first = mixing.dictionary?.id ?? "";
    const needed = [...(mixing.asked.some(({ source }) => source === first) ? [first] : []), ...mixing.terms.map(({ source }) => source)];
    return mixing.ready && needed.every((source) => mixing.covers(source, this.shown?.a.coefs.get(source)));
  });
  private grounds = $derived.by(() => {
    const { shown } = this;
    if (!shown) return null;
    if (this.ready || !this.kept.grounds) this.kept.grounds = { a: this.groundOf(shown.a), b: shown.b && this.groundOf(shown.b) };
    return this.kept.grounds;
  });
  private ground = $derived(this.grounds?.a ?? null);
  /** Why there is no cosine, or no centring, of the direction on screen; empty where there is. */
  lacksNorm = $derived.by(() => (this.ground && !this.ground.norm ? `The lengths at ${this.site} are not known here` : ""));
  lacksMean = $derived.by(() => {
    const all = this.shown ? [...this.shown.a.coefs] : [];
    const parts = all.filter(([source]) => !isEncoder(this.mixing.info(source) ?? {})).map(([, coefs]) => coefs); // which have no mean
    return parts.length && !parts.some(({ offset }) => offset.some(Number.isFinite)) ? "No data-set mean is known here: fit PCA at this place first" : "";
  });
  unit: StreamUnit = $derived.by(() => {
    const { direction, logits } = this.view.current;
    if (direction === "logit") return logits === "centred" && this.hasMean ? "logit-centred" : "logit";
    const unit = this.mixing.unit === "cos" && this.lacksNorm ? unitOf("own", this.mixing.units) : this.mixing.unit;
    return this.lacksMean && (unit === "centred" || unit === "standardised") ? "raw" : unit === "folded-centred" && this.lacksMean ? "folded" : unit === "mixed" && this.lacksMean ? "mixed-raw" : unit;
  });
  private valuesA = $derived(this.values("a"));
  private valuesB = $derived(this.values("b"));
  /** Runs of different lengths have no difference. */
  comparable = $derived(!!this.shown?.b && this.shown.b.data.cols === this.shown.a.data.cols);
  mode: Mode = $derived.by(() => {
    const { mode } = this.view.current;
    return this.shown?.b && (mode === "edit" || this.comparable) ? mode : "base";
  });
  fieldValues = $derived(this.pick(this.mode));
  otherValues = $derived(this.mode === "delta" || !this.comparable ? null : this.pick(this.mode === "base" ? "edit" : "base"));
  /** Baseline and edited share one scale, so that flipping between them compares. */
  private scaled = $derived.by(() => (this.mode === "delta" ? this.fieldValues : this.valuesA));
  private locked = $derived.by(() => this.view.current.locks[this.unit] as number | undefined);
  private autoScale = $derived.by(() => (this.scaled && this.ground ? robustScale(this.scaled, this.ground.cols, this.ground.sink) : 1));
  scale = $derived.by(() => this.locked ?? this.autoScale);
  /** Each row has its own scale, for vectors grow with depth; not of what is compared between rows: logits, cosines, activations, differences. */
  perRow = $derived.by(() => {
    const { scaling } = this.view.current;
    const grows = ["centred", "standardised", "raw"].includes(this.unit) && this.mode !== "delta";
    return this.locked === undefined && (scaling === "auto" ? grows : scaling === "row");
  });
  private byRow = $derived.by(() => (this.perRow && this.scaled && this.ground ? rowScales(this.scaled, this.ground.cols, this.ground.sink, this.autoScale) : null));
  scaleAt(row: number): number {
    return scaleAt({ scale: this.scale, byRow: this.byRow }, row);
  }
  /** The run whose tokens are shown, and what its cells are. */
  private held = $derived(this.mode === "edit" ? (this.shown?.b ?? null) : (this.shown?.a ?? null));
  private heldGround = $derived((this.mode === "edit" ? this.grounds?.b : this.grounds?.a) ?? null);
  data = $derived(this.held?.data ?? null);
  tokens: string[] = $derived.by(() => {
    const known = this.held?.run.tokens?.map((token) => token.text);
    return known ?? Array.from({ length: this.data?.cols ?? 0 }, () => "");
  });
  ids: number[] = $derived.by(() => this.held?.run.tokens?.map((token) => token.id) ?? []);
  field: Field | null = $derived.by(() => {
    if (!this.heldGround || !this.fieldValues) return null;
    const { rows, cols, sink, sites, own } = this.heldGround;
    return { rows, cols, values: this.fieldValues, scale: this.scale, byRow: this.byRow, sink, sites: own ? sites : undefined };
  });
  rows = $derived.by(() => this.ground?.rows ?? 1);
  cols = $derived.by(() => this.data?.cols ?? 1);
  /** The length of the vector a cell reads; NaN where it is not known. */
  normAt(cell: number): number {
    return this.heldGround?.norm?.[cell] ?? NaN;
  }
  /** The sites of the picture's rows. */
  sites: readonly string[] = $derived.by(() => this.ground?.sites ?? []);
  /** The layer of its first row: -1 is `embed`. */
  first = $derived.by(() => (this.ground?.own ? 0 : -1));
  /** Whose vectors its rows are, where they are one head's. */
  head = $derived.by(() => (this.ground?.own ? (this.mixing.dictionary?.head ?? null) : null));
  stale = $derived.by(() => !!this.shown && (this.session.behind || this.shown.key !== this.key()));
  /** Why the picture is not whole, or not of what is asked; empty where it is. */
  unfinished = $derived.by(() => {
    if (this.stale) return "this is still the picture before, and the next is on its way";
    if (!this.ready) return "the coordinates along this direction are still being read";
    return this.data?.whole === false ? "the next tokens of this prompt are still being read" : "";
  });
  /** Nothing more urgent than the picture is on its way. */
  settled = $derived.by(() => !this.session.a || !!this.error || (!this.session.behind && this.painted === this.key()));

  constructor(
    private session: Session,
    private view: ViewStore,
    private mixing: Mixing,
  ) {}

  valueAt(mode: Mode, row: number, col: number): number {
    const values = this.pick(mode);
    const cols = this.shown?.a.data.cols ?? 0;
    return values && row >= 0 ? values[row * cols + col] : NaN;
  }

  private pick(mode: Mode): Float32Array | null {
    if (mode === "base") return this.valuesA;
    if (mode === "edit") return this.valuesB;
    const [a, b] = [this.valuesA, this.valuesB];
    if (!a || !b || a.length !== b.length) return null;
    const out = this.turns.delta.next(a.length);
    for (let i = 0; i < a.length; i++) out[i] = b[i] - a[i];
    return out;
  }

  private groundOf({ data, coefs }: Held): Ground {
    const sources = [this.mixing.dictionary?.id ?? "", ...this.mixing.terms.map(({ source }) => source)];
    const first = this.view.current.direction === "mix" ? sources.flatMap((source) => coefs.get(source) ?? [])[0] : undefined;
    if (first && first.sites[0] !== rowSite(0)) {
      const { rows, cols, sink, sites } = first;
      return { rows, cols, norm: null, sink: wholeColumns(sink, cols), sites, own: true };
    }
    const { rows, cols, norm, sink } = data;
    return { rows, cols, norm, sink: wholeColumns(sink, cols), sites: Array.from({ length: rows }, (_, row) => rowSite(row)), own: false };
  }

  private values(which: "a" | "b"): Float32Array | null {
    const held = this.shown?.[which];
    if (!held) return null;
    if (this.view.current.direction === "logit")
      return (this.kept[which] = (this.unit === "logit-centred" ? held.logits?.centred : held.logits?.raw) ?? null);
    if (this.mixing.zero) return null;
    if (!this.ready) return this.kept[which];
    const parts: Part[] = [];
    for (const [source, coefs] of held.coefs) {
      const weights = this.mixing.shares(source, coefs.indices);
      if (weights.length === coefs.k) parts.push({ k: coefs.k, coef: coefs.coef, offset: coefs.offset, sigma: coefs.sigma, weights });
    }
    const { rows, cols, norm } = this.grounds![which]!;
    const unit = this.unit;
    this.kept[which] = mixField(parts, { rows, cols, centre: isCentred(unit), norm: unit === "cos" ? norm : null }, this.turns[which].next(rows * cols));
    return this.kept[which];
  }

  private key(): string {
    const { a, b, state } = this.session;
    const metric = state?.metric;
    return [a?.id, b?.id, this.mixing.askedKey, this.means, metric?.positive.id, metric?.negative.id].join("|");
  }

  /** Call from an effect: keeps what is shown in step with the session. */
  follow(): void {
    const { a, b, state } = this.session;
    const [key, metric] = [this.key(), state?.metric ?? null];
    const [shown, painted] = [this.shown, this.painted]; // read here, so that the effect comes back for `fill`
    if (!a) {
      this.wanted = "";
      if (state && !state.current.a && state.status.phase !== "running") this.shown = null;
      return;
    }
    if (key === this.wanted) return this.fill(key, shown, painted);
    this.wanted = key;
    const answers = metric && { positive: metric.positive.id, negative: metric.negative.id };
    // a logit difference needs no coordinates: they follow once it is painted
    const asked = answers && this.view.current.direction === "logit" ? [] : this.mixing.asked;
    void Promise.all([this.hold(a, answers, asked), b && b.id !== a.id ? this.hold(b, answers, asked) : null]).then(
      ([heldA, heldB]) => {
        if (this.wanted !== key) return;
        this.shown = { key, a: heldA, b: heldB };
        this.error = "";
        requestAnimationFrame(() => setTimeout(() => (this.painted = key)));
      },
      (error: unknown) => {
        if (this.wanted !== key) return;
        this.wanted = "";
        this.error = words(error);
      },
    );
  }

  /** The coordinates that the picture could do without, now that it is painted or is of something else. */
  private fill(key: string, shown: Shown | null, painted: string): void {
    if (shown?.key !== key) return;
    if (painted === key && NEXTS.has(this.view.current.tab)) this.complete(key, shown);
    if (this.filling === key) return;
    if (this.mixing.asked.every(({ source }) => shown.a.coefs.has(source))) return;
    if (painted !== key && this.view.current.direction === "logit") return;
    this.filling = key;
    const whole = async (held: Held | null) => held && this.coefs(held.run, this.mixing.asked);
    void Promise.all([whole(shown.a), whole(shown.b)]).then(
      ([coefsA, coefsB]) => this.change(key, (held, b) => ({ ...held, coefs: (b ? coefsB : coefsA) ?? held.coefs })),
      (error: unknown) => this.wanted === key && (this.error = words(error)),
    ).finally(() => (this.filling = ""));
  }

  /** The next tokens of all positions, which of a long prompt follow its picture. */
  private complete(key: string, shown: Shown): void {
    for (const { run, data } of [shown.a, shown.b].flatMap((held) => held ?? [])) {
      if (data.whole || this.completing.has(run.id)) continue;
      this.completing.add(run.id);
      this.once(`${run.id}|whole`, async () => readStream(await this.session.connector.query("stream", { run: run.id }), run.id)).then(
        (whole) => this.change(key, (held) => (held.run.id === run.id ? { ...held, data: whole } : held)),
        (error: unknown) => this.wanted === key && (this.error = words(error)),
      ).finally(() => this.completing.delete(run.id));
    }
  }

  /** What is shown, with more in it, where it is still of the same. */
  private change(key: string, more: (held: Held, b: boolean) => Held): void {
    const { shown } = this;
    if (shown?.key === key && this.wanted === key) this.shown = { key, a: more(shown.a, false), b: shown.b && more(shown.b, true) };
  }

  private async coefs(run: Run, asked: readonly Asked[]): Promise<Map<string, Coefs>> {
    const all = asked.map(async (one) => {
      const { source, indices } = one;
      const some = indices ? { indices: [...indices] } : {};
      const ask = async () => readCoefs(await this.session.connector.query("coef", { run: run.id, dictionary: source, ...some }), indices);
      return [source, await this.once(`${run.id}|${askedKey(one)}|${this.means}`, ask)] as const;
    });
    return new Map(await Promise.all(all));
  }

  private async hold(run: Run, answers: { positive: number; negative: number } | null, asked: readonly Asked[]): Promise<Held> {
    const connector = this.session.connector;
    const stream = this.once(`${run.id}|`, async () => readStream(await connector.query("stream", { run: run.id, next: "last" }), run.id));
    const coefs = this.coefs(run, asked);
    const logits = answers
      ? this.once(`${run.id}|${answers.positive} ${answers.negative}|${this.means}`, async () =>
          readLogits(await connector.query("logits", { run: run.id, ...answers })),
        )
      : null;
    return { run, data: await stream, coefs: await coefs, logits: await logits };
  }

  private once<T>(key: string, load: () => Promise<T>): Promise<T> {
    const known = this.cache.get(key) as Promise<T> | undefined;
    if (known) return known;
    const loading = load();
    this.cache.set(key, loading);
    loading.catch(() => this.cache.delete(key));
    for (const old of [...this.cache.keys()].slice(0, -MOST_HELD)) this.cache.delete(old);
    return loading;
  }
}
