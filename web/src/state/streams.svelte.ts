import { words } from "../connect/connector";
import type { DictionaryInfo, Run } from "../connect/wire";
import type { ValueUnit } from "../lib/format";
import { mixField, unitWeights } from "../lib/mix";
import { robustScale } from "../lib/scale";
import { NO_COEF, readCoef, readLogits, readStream, type Field, type Logits, type StreamData } from "../lib/stream";
import type { Mode } from "./hash";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

/** One run as the page holds it. */
interface Held {
  run: Run;
  data: StreamData;
  logits: Logits | null;
}

interface Shown {
  key: string;
  a: Held;
  b: Held | null;
}

const MOST_HELD = 36;
/** Three quarters up: late enough for components to have to do with the next token. */
const USUAL_DEPTH = 0.77;

/** The components of the stream's own sites: what the page can choose from. */
export const ofTheStream = (dictionaries: DictionaryInfo[]): DictionaryInfo[] =>
  dictionaries.filter((d) => d.kind === "pca" && d.head === null && !d.id.includes("#") && /^(embed|resid_)/.test(d.site));

function usualSite(dictionaries: DictionaryInfo[], layers: number): string {
  const far = (d: DictionaryInfo) => Math.abs(Number(d.site.split(".")[1]) - Math.round(USUAL_DEPTH * layers));
  return dictionaries.toSorted((x, y) => far(x) - far(y))[0]?.site ?? "";
}

/** Fetches the runs on screen and turns them into what the views draw. */
export class Streams {
  shown: Shown | null = $state.raw(null);
  error = $state("");
  /** The picture whose pixels are on the screen; what is less urgent waits for it. */
  painted = $state("");
  private cache = new Map<string, Promise<unknown>>();
  private wanted = "";

  site = $derived.by(() => {
    const model = this.session.model;
    const chosen = this.view.current.site;
    if (!model) return "";
    const known = ofTheStream(model.dictionaries);
    return known.some((d) => d.site === chosen) ? chosen : usualSite(known, model.n_layers);
  });
  /** The id of the dictionary on screen. */
  dictionary = $derived.by(() => ofTheStream(this.session.model?.dictionaries ?? []).find((d) => d.site === this.site)?.id ?? "");
  /** The data-set mean is known, so the logit difference can be centred. */
  hasMean = $derived.by(() => !!this.session.model?.dictionaries.some((d) => d.kind === "pca"));
  unit: ValueUnit = $derived.by(() => {
    const { direction, unit, logits } = this.view.current;
    if (direction !== "logit") return unit;
    return logits === "centred" && this.hasMean ? "logit-centred" : "logit";
  });
  weights = $derived.by(() => (this.shown ? unitWeights(this.view.current.weights, this.shown.a.data.k) : null));
  private valuesA = $derived(this.values(this.shown?.a ?? null));
  private valuesB = $derived(this.values(this.shown?.b ?? null));
  /** Runs of different lengths have no difference. */
  comparable = $derived(!!this.shown?.b && this.shown.b.data.cols === this.shown.a.data.cols);
  mode: Mode = $derived.by(() => {
    const { mode } = this.view.current;
    return this.shown?.b && (mode === "edit" || this.comparable) ? mode : "base";
  });
  fieldValues = $derived(this.pick(this.mode));
  otherValues = $derived(this.mode === "delta" || !this.comparable ? null : this.pick(this.mode === "base" ? "edit" : "base"));
  /** Baseline and edited share one scale, so that flipping between them compares. */
  autoScale = $derived.by(() => {
    const values = this.mode === "delta" ? this.fieldValues : this.valuesA;
    return values && this.shown ? robustScale(values, this.shown.a.data.cols) : 1;
  });
  scale = $derived.by(() => this.view.current.locks[this.unit] ?? this.autoScale);
  private held = $derived(this.mode === "edit" ? (this.shown?.b ?? null) : (this.shown?.a ?? null));
  data = $derived(this.held?.data ?? null);
  tokens: string[] = $derived.by(() => {
    const known = this.held?.run.tokens?.map((token) => token.text);
    return known ?? Array.from({ length: this.data?.cols ?? 0 }, () => "");
  });
  field: Field | null = $derived.by(() => {
    if (!this.data || !this.fieldValues) return null;
    const { rows, cols, sink } = this.data;
    return { rows, cols, values: this.fieldValues, scale: this.scale, sink };
  });
  stale = $derived.by(() => !!this.shown && (this.session.behind || this.shown.key !== this.key()));
  /** Nothing more urgent than the picture is on its way. */
  settled = $derived.by(() => !this.session.a || !!this.error || (!this.session.behind && this.painted === this.key()));

  constructor(
    private session: Session,
    private view: ViewStore,
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
    return a && b && a.length === b.length ? b.map((value, i) => value - a[i]) : null;
  }

  private values(held: Held | null): Float32Array | null {
    if (!held) return null;
    if (this.view.current.direction === "logit")
      return (this.unit === "logit-centred" ? held.logits?.centred : held.logits?.raw) ?? null;
    return this.weights && mixField(held.data, this.weights, this.view.current.unit);
  }

  private key(): string {
    const { a, b, state } = this.session;
    const metric = state?.metric;
    return [a?.id, b?.id, this.dictionary, metric?.positive.id, metric?.negative.id].join("|");
  }

  /** Call from an effect: keeps what is shown in step with the session. */
  follow(): void {
    const { a, b, state } = this.session;
    const [key, metric] = [this.key(), state?.metric ?? null];
    if (!a) {
      this.wanted = "";
      if (state && !state.current.a && state.status.phase !== "running") this.shown = null;
      return;
    }
    if (key === this.wanted) return;
    this.wanted = key;
    const answers = metric && `positive=${metric.positive.id}&negative=${metric.negative.id}`;
    void Promise.all([this.hold(a, answers), b && b.id !== a.id ? this.hold(b, answers) : null]).then(
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

  private async hold(run: Run, answers: string | null): Promise<Held> {
    const id = encodeURIComponent(run.id);
    const [connector, site, dictionary] = [this.session.connector, this.site, this.dictionary];
    const stream = this.once(`${run.id}|stream`, async () => readStream(await connector.tensors(`api/runs/${id}/stream`), run.id));
    const coef = dictionary
      ? this.once(`${run.id}|coef|${dictionary}`, async () =>
          readCoef(await connector.tensors(`api/runs/${id}/coef?dictionary=${encodeURIComponent(dictionary)}`)),
        )
      : NO_COEF;
    const logits = answers
      ? this.once(`${run.id}|${answers}|${this.hasMean}`, async () =>
          readLogits(await connector.tensors(`api/runs/${id}/logits?${answers}`)),
        )
      : null;
    return { run, data: { ...(await stream), ...(await coef), site }, logits: await logits };
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
