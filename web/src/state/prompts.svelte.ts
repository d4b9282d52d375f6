import { words, WireError, type Intents, type Queries, type QueryAnswers } from "../connect/connector";
import type { TextRef } from "../connect/wire";
import { BUILT_IN, emptyText, isRefused, textRef, type TextForm } from "../lib/texts";
import { mixField, Turns, type Part } from "../lib/mix";
import { pageScale, placeOf, ranked, readNorm, readPage, readRow, readSink, type Page, type RowCoefs } from "../lib/prompts";
import { readLogits, type Logits } from "../lib/stream";
import { isCentred } from "../lib/dictionaries";
import type { Mixing } from "./mixing.svelte";
import type { Asked } from "./products.svelte";
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

/** A query and its arguments. */
type Ask = ["prompts_coef", Queries["prompts_coef"]] | ["prompts_logits", Queries["prompts_logits"]];
const keyOf = ([name, args]: Ask): string => `${name} ${JSON.stringify(args)}`;

/** The page of random prompts beside one's own, and the row of the stream it is coloured by. */
export class PromptStore {
  form: PromptForm = $state({ text: emptyText(), n: 20, length: 40, seed: 0 });
  page: Page | null = $state.raw(null);
  row: Row | null = $state.raw(null);
  /** Where the prompts on screen were drawn from. */
  from = $state("");
  /** The drawing that those on screen are of; null where there are one's own alone. */
  private drawing: Intents["draw_prompts"] | null = null;
  error = $state("");
  /** Since when random prompts are awaited; 0 while none are. */
  waiting = $state(0);
  /** Those on screen are of what was asked last. */
  private begun = $state(false);
  /** Token numbers in the page. */
  hover: number | null = $state.raw(null);
  active = $state(0);
  private wanted = "";
  private wantedRow = "";
  private reads = 0;
  private stop = new AbortController();
  /** The job that draws. */
  job = $state("");
  /** What is said of it while it waits for others, or runs. */
  stage = $derived.by(() => {
    const job = this.session.state?.jobs?.find(({ id }) => id === this.job);
    return !job ? "" : job.phase === "waiting" ? "Waiting for the job before it" : job.stage;
  });
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
  autoScale = $derived.by(() => (this.values && this.page ? pageScale(this.values, this.page.starts, this.sink) : 1));
  scale = $derived.by(() => this.view.current.locks[this.streams.unit] ?? this.autoScale);
  sink = $derived(this.current ? this.row!.sink : null);
  order = $derived.by(() => (this.values ? ranked(this.values) : new Int32Array()));
  pointed = $derived.by(() => this.hover ?? Math.min(this.active, Math.max(0, this.tokens - 1)));
  /** The colours are of another row or direction than the one chosen. */
  stale = $derived.by(() => !!this.row && this.row.key !== this.rowKey());

  /** Why the picture is not whole, or not of what is asked; empty where it is. */
  unfinished = $derived.by(() => {
    if (this.waiting && !this.begun) return "these are still the prompts before, and others are on their way";
    if (this.waiting) return `${this.page?.prompts.filter(({ own }) => !own).length ?? 0} of ${this.form.n} prompts are drawn so far`;
    const { row } = this;
    const mixed = this.view.current.direction !== "logit" && !this.zero;
    return this.stale || (row && mixed && !this.covered(row)) ? "its colours are still of what was chosen before" : "";
  });
  /** What the colours are on, in words. */
  on = $derived.by(() => (!this.page ? "prompts" : this.page.prompts.length === 1 ? "this prompt" : `these ${this.page.prompts.length} prompts`));

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

  /** One's own prompts come at once, for their runs are there; then those that a job draws from the text. */
  private async ask(key: string, { own, ...drawing }: { text: TextRef; n: number; length: number; seed: number; own: string[] }): Promise<void> {
    this.leave();
    const stop = (this.stop = new AbortController());
    this.wanted = key;
    this.waiting = Date.now();
    this.begun = false;
    this.error = "";
    const source = this.source;
    try {
      if (!this.page && own.length) await this.read({ own }, null, stop.signal);
      const some = (job: string) => void this.read({ own, drawn: job }, drawing, stop.signal, source).catch(() => {}); // the whole says what is wrong
      const drawn = drawing.n > 0 ? await this.draw(drawing, stop.signal, some) : null;
      await this.read({ own, drawn }, drawn ? drawing : null, stop.signal, source);
    } catch (error) {
      if (!stop.signal.aborted) this.error = words(error);
    }
    if (this.stop === stop) this.waiting = 0;
  }

  /** The job that has drawn them, once it has; `some`: a few of them can be read. */
  private async draw(drawing: Intents["draw_prompts"], signal: AbortSignal, some: (job: string) => void): Promise<string> {
    const { job, ready } = await this.session.intent("draw_prompts", drawing);
    if (ready) return job;
    if (signal.aborted) this.session.drop(job);
    else this.job = job;
    const ended = await this.session.ended(job, signal, () => some(job));
    if (this.job === job) this.job = "";
    if (ended?.error) throw new WireError(ended.error);
    return job;
  }

  /** A page, unless a later one has been asked for meanwhile; `drawing`, `from`: what its prompts are drawn as, and from. */
  private async read(args: { own: string[]; drawn?: string | null }, drawing: Intents["draw_prompts"] | null, signal: AbortSignal, from = this.from): Promise<void> {
    const number = ++this.reads;
    const page = readPage(await this.session.connector.query("prompts", args, signal));
    if (signal.aborted || number !== this.reads) return;
    const grown = !!this.page?.prompts.every(({ text }, i) => page.prompts[i]?.text === text); // what is pointed at stands where it stood
    [this.page, this.drawing, this.from, this.begun] = [page, drawing, from, true];
    if (!grown) this.hover = null;
  }

  /** The prompts on screen, for the lines of Python that give their numbers. */
  get shown(): NonNullable<Intents["python"]["prompts"]> | null {
    if (!this.page) return null;
    const own = this.page.prompts.filter((prompt) => prompt.own).map(({ text }) => text);
    return { own, drawn: this.drawing && { kind: "drawn", ...this.drawing } };
  }

  /** Stops what is under way. */
  private leave(): void {
    this.stop.abort();
    this.session.drop(this.job);
    this.job = "";
  }

  cancel(): void {
    this.leave();
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

  /** Everything the direction is made of is there. */
  private covered({ coefs }: Row): boolean {
    return this.mixing.ready && this.mixing.terms.every(({ source }) => this.mixing.covers(source, coefs.get(source)));
  }

  private valuesOf(row: Row): Float32Array | null {
    const { coefs, logits, norm } = row;
    if (this.view.current.direction === "logit") return (this.streams.unit === "logit-centred" ? logits?.centred : logits?.raw) ?? null;
    if (this.mixing.zero) return (this.kept = null);
    if (!this.covered(row)) return this.kept?.length === norm.length ? this.kept : null;
    const parts: Part[] = [];
    for (const [source, { k, indices, coef, offset, sigma }] of coefs) {
      const weights = this.mixing.shares(source, indices);
      if (weights.length === k) parts.push({ k, coef, offset, sigma, weights });
    }
    const unit = this.streams.unit;
    this.kept = mixField(parts, { rows: 1, cols: norm.length, centre: isCentred(unit), norm: unit === "cos" ? norm : null }, this.turns.next(norm.length));
    return this.kept;
  }

  /** What the row on screen is made of: queries, by dictionary; one alone for the logit difference. */
  private parts(): Ask[] {
    const metric = this.session.state?.metric;
    if (!this.page || this.at() < 0) return [];
    const here = { page: this.page.id, row: this.at() };
    if (this.view.current.direction !== "logit") return this.mixing.asked.map(({ source, indices }) => ["prompts_coef", { ...here, dictionary: source, ...(indices ? { indices: [...indices] } : {}) }]);
    return metric ? [["prompts_logits", { ...here, positive: metric.positive.id, negative: metric.negative.id }]] : [];
  }
  private rowKey(): string {
    return this.parts().map(keyOf).join(" ");
  }

  /** Call from an effect: keeps the coordinates in step with page, row and direction; weights need nothing. */
  followRow(): void {
    const [parts, asked] = [this.parts(), this.mixing.asked];
    const key = parts.map(keyOf).join(" ");
    if (key === this.wantedRow || this.view.dragging) return;
    this.wantedRow = key;
    if (!key) {
      this.row = null;
      return;
    }
    this.load(key, parts, this.view.current.direction === "logit" ? [] : asked).then(
      (row) => this.wantedRow === key && (this.row = row),
      (error: unknown) => this.wantedRow === key && ([this.error, this.row] = [words(error), null]),
    );
  }

  private async load(key: string, parts: Ask[], asked: readonly Asked[]): Promise<Row> {
    const ask = <N extends Ask[0], T>(name: N, args: Queries[N], read: (file: QueryAnswers[N]) => T) =>
      this.once(keyOf([name, args] as Ask), async () => read(await this.session.connector.query(name, args)));
    const [first] = parts;
    if (first[0] === "prompts_logits") {
      const { logits, norm, sink } = await ask(...first, (file) => ({ logits: readLogits(file), norm: readNorm(file), sink: readSink(file) }));
      return { key, coefs: new Map(), logits, norm, sink };
    }
    const found = await Promise.all(parts.flatMap((part, i) => (part[0] === "prompts_coef" ? [ask(...part, (file) => readRow(file, asked[i].indices))] : [])));
    const { norm, sink } = found[0];
    return { key, coefs: new Map(found.map((coefs, i) => [asked[i].source, coefs])), logits: null, norm, sink };
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
