import { words } from "../connect/connector";
import type { PromptsAnswer, TextRef } from "../connect/wire";
import { BUILT_IN, emptyText, isRefused, textRef, type TextForm } from "../lib/texts";
import { mixField, Turns, type Part } from "../lib/mix";
import { pageScale, placeOf, ranked, readNorm, readPage, readRow, readSink, type Page, type RowCoefs } from "../lib/prompts";
import { readLogits, type Logits } from "../lib/stream";
import type { Mixing } from "./mixing.svelte";
import type { Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { ViewStore } from "./view.svelte";

const MOST_OWN = 6;
const MOST_ROWS = 24;
/** Nobody types a seed so fast as to want each keystroke's page. */
const PAUSE = 250;

export interface PromptForm {
  text: TextForm;
  n: number;
  length: number;
  seed: number;
}

/** One row of the stream over all tokens of a page: in every dictionary in play, or as logit differences. */
interface Row {
  key: string;
  coefs: Map<string, RowCoefs>;
  logits: Logits | null;
  norm: Float32Array;
  sink: Uint8Array;
}

/** The page of random prompts beside one's own, and the row of the stream it is coloured by. */
export class PromptStore {
  form: PromptForm = $state({ text: emptyText(), n: 20, length: 40, seed: 0 });
  page: Page | null = $state.raw(null);
  row: Row | null = $state.raw(null);
  /** Where the prompts on screen were drawn from. */
  from = $state("");
  error = $state("");
  /** Since when random prompts are awaited; 0 while none are. */
  waiting = $state(0);
  /** Token numbers in the page. */
  hover: number | null = $state.raw(null);
  active = $state(0);
  private wanted = "";
  private wantedRow = "";
  private stop = new AbortController();
  private cache = new Map<string, Promise<unknown>>();
  private turns = new Turns();
  private kept: Float32Array | null = null;

  /** The latest texts of one's own, newest first, then the saved ones. */
  own: string[] = $derived.by(() => {
    const { runs, state } = this.session;
    const texts = [...runs.toReversed().map((run) => run.prompt), ...(state?.saved ?? []).filter((s) => s.tokens > 0).map((s) => s.text)];
    return [...new Set(texts)].slice(0, MOST_OWN);
  });
  /** The text the form names, or why it cannot be had. */
  made = $derived.by(() => textRef(this.form.text));
  tokens = $derived.by(() => this.page?.starts.at(-1) ?? 0);
  private current = $derived.by(() => !!this.row && this.row.norm.length === this.tokens);
  zero = $derived.by(() => this.view.current.direction === "mix" && this.mixing.zero && !!this.page);
  values: Float32Array | null = $derived.by(() => (this.row && this.current ? this.valuesOf(this.row) : null));
  autoScale = $derived.by(() => (this.values && this.page ? pageScale(this.values, this.page.starts) : 1));
  scale = $derived.by(() => this.view.current.locks[this.streams.unit] ?? this.autoScale);
  sink = $derived(this.current ? this.row!.sink : null);
  order = $derived.by(() => (this.values ? ranked(this.values) : new Int32Array()));
  pointed = $derived.by(() => this.hover ?? Math.min(this.active, Math.max(0, this.tokens - 1)));
  /** The colours are of another row or direction than the one chosen. */
  stale = $derived.by(() => !!this.row && this.row.key !== this.rowKey());

  constructor(
    private session: Session,
    private view: ViewStore,
    private streams: Streams,
    private mixing: Mixing,
    private at: () => number,
  ) {}

  /** Call from an effect while the tab is shown: keeps the page in step with the form and one's own prompts. */
  follow(): (() => void) | void {
    const model = this.session.model;
    const { n, length, seed } = this.form;
    const [text, own] = [this.made, this.own];
    if (!model || isRefused(text) || ![n, length, seed].every(Number.isInteger)) return;
    const drawing = JSON.stringify([model.hash, text, n, length, seed]);
    const key = `${drawing}|${JSON.stringify(own)}`;
    if (key === this.wanted) return;
    const timer = setTimeout(() => void this.ask(key, { text, n, length, seed, own }), this.page ? PAUSE : 0);
    return () => clearTimeout(timer);
  }

  /** What the form's text is called. */
  get source(): string {
    const { kind, builtin, file, hub } = this.form.text;
    if (kind === "builtin") return BUILT_IN.find(([name]) => name === builtin)?.[1] ?? builtin;
    return kind === "hub" ? hub.trim() : kind === "file" ? (file?.name ?? "") : "the typed text";
  }

  /** One's own prompts come at once, for their runs are there; then those drawn from the text. */
  private async ask(key: string, args: { text: TextRef; n: number; length: number; seed: number; own: string[] }): Promise<void> {
    this.stop.abort();
    const stop = (this.stop = new AbortController());
    this.wanted = key;
    this.waiting = Date.now();
    this.error = "";
    const source = this.source;
    try {
      if (!this.page && args.own.length) await this.post({ ...args, n: 0 }, stop.signal);
      await this.post(args, stop.signal);
      if (this.stop === stop) this.from = source;
    } catch (error) {
      if (!stop.signal.aborted) this.error = words(error);
    }
    if (this.stop === stop) this.waiting = 0;
  }

  private async post(args: object, signal: AbortSignal): Promise<void> {
    const page = readPage(await this.session.connector.json<PromptsAnswer>("api/prompts", args, signal));
    if (signal.aborted) return;
    this.page = page;
    this.hover = null;
  }

  cancel(): void {
    this.stop.abort();
    this.waiting = 0;
    this.error = "Stopped. Ask again with other settings, or for new ones.";
  }

  retry(): void {
    [this.wanted, this.wantedRow, this.error] = ["", "", ""];
    this.form = { ...this.form }; // asks again
  }

  again(): void {
    [this.wanted, this.error] = ["", ""];
    this.form.seed = Number.isInteger(this.form.seed) ? this.form.seed + 1 : 0;
  }

  private valuesOf({ coefs, logits, norm }: Row): Float32Array | null {
    if (this.view.current.direction === "logit") return (this.streams.unit === "logit-centred" ? logits?.centred : logits?.raw) ?? null;
    if (this.mixing.zero) return (this.kept = null);
    if (!this.mixing.ready || this.mixing.terms.some(({ source }) => !coefs.has(source))) return this.kept?.length === norm.length ? this.kept : null;
    const parts: Part[] = [];
    for (const [source, { k, coef, offset, sigma }] of coefs) {
      const weights = this.mixing.shares(source);
      if (weights.length === k) parts.push({ k, coef, offset, sigma, weights });
    }
    const unit = this.streams.unit;
    const centre = unit === "centred" || unit === "standardised" || unit === "folded-centred";
    this.kept = mixField(parts, { rows: 1, cols: norm.length, centre, norm: unit === "cos" ? norm : null }, this.turns.next(norm.length));
    return this.kept;
  }

  /** What the row on screen is made of: addresses, by dictionary; one alone for the logit difference. */
  private parts(): string[] {
    const metric = this.session.state?.metric;
    if (!this.page || this.at() < 0) return [];
    const here = `api/prompts/${this.page.id}`;
    if (this.view.current.direction === "logit") return metric ? [`${here}/logits?positive=${metric.positive.id}&negative=${metric.negative.id}&row=${this.at()}`] : [];
    return this.mixing.play.map((source) => `${here}/coef?dictionary=${encodeURIComponent(source)}&row=${this.at()}`);
  }
  private rowKey(): string {
    return this.parts().join(" ");
  }

  /** Call from an effect: keeps the coordinates in step with page, row and direction; weights need nothing. */
  followRow(): void {
    const [paths, play] = [this.parts(), this.mixing.play];
    const key = paths.join(" ");
    if (key === this.wantedRow || this.view.dragging) return;
    this.wantedRow = key;
    if (!key) {
      this.row = null;
      return;
    }
    this.load(key, paths, this.view.current.direction === "logit" ? [] : play).then(
      (row) => this.wantedRow === key && (this.row = row),
      (error: unknown) => this.wantedRow === key && ([this.error, this.row] = [words(error), null]),
    );
  }

  private async load(key: string, paths: string[], sources: string[]): Promise<Row> {
    const { connector } = this.session;
    if (!sources.length) {
      const { logits, norm, sink } = await this.once(paths[0], async () => {
        const file = await connector.tensors(paths[0]);
        return { logits: readLogits(file), norm: readNorm(file), sink: readSink(file) };
      });
      return { key, coefs: new Map(), logits, norm, sink };
    }
    const found = await Promise.all(paths.map((path) => this.once(path, async () => readRow(await connector.tensors(path)))));
    const { norm, sink } = found[0];
    return { key, coefs: new Map(found.map((coefs, i) => [sources[i], coefs])), logits: null, norm, sink };
  }

  private once<T>(key: string, load: () => Promise<T>): Promise<T> {
    const known = this.cache.get(key) as Promise<T> | undefined;
    if (known) return known;
    const loading = load();
    this.cache.set(key, loading);
    loading.catch(() => this.cache.delete(key));
    for (const old of [...this.cache.keys()].slice(0, -MOST_ROWS)) this.cache.delete(old);
    return loading;
  }

  /** Makes a prompt of the page the live one, with a token of it selected. */
  async open(token: number): Promise<void> {
    if (!this.page) return;
    const { prompt, pos } = placeOf(this.page, token);
    if (!(await this.session.setPrompt(this.page.prompts[prompt].text))) return;
    const layer = this.at() + this.streams.first;
    this.view.current.selection = { layer, pos };
    await this.session.send("select", { layer, pos });
    this.view.current.tab = "stream";
  }
}
