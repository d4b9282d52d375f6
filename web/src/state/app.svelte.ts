import { getContext, setContext, untrack } from "svelte";
import { words, type Connector } from "../connect/connector";
import type { Run } from "../connect/wire";
import { besideName } from "../lib/models";
import { apart, plain, visible } from "../lib/tokens";
import { steering } from "../lib/edits";
import { family, layerRead, nearest, placeOf } from "../lib/dictionaries";
import { oneHot, savedName, savedSource } from "../lib/mix";
import { placeWords, runWords, siteWords, type Told } from "../lib/sentence";
import type { Host } from "../root/host";
import type { Root, Theme } from "../root/root.svelte";
import { Acts } from "./acts.svelte";
import { Compare } from "./compare.svelte";
import { Described } from "./described.svelte";
import { DirectionStore } from "./directions.svelte";
import { FeaturesStore } from "./features.svelte";
import { Fitting } from "./fitting.svelte";
import { GenerationStore } from "./generation.svelte";
import { GlossaryStore } from "./glossary.svelte";
import { GraphStore } from "./graph.svelte";
import { HeadsStore } from "./heads.svelte";
import { JobStore } from "./jobs.svelte";
import { LensStore } from "./lens.svelte";
import { LibraryStore } from "./library.svelte";
import { ManifestStore } from "./manifest.svelte";
import { MapStore } from "./map.svelte";
import { Mixing } from "./mixing.svelte";
import { PatchStore } from "./patch.svelte";
import { Paths } from "./paths.svelte";
import { ProbeStore } from "./probe.svelte";
import { PromptStore } from "./prompts.svelte";
import { Session } from "./session.svelte";
import { Streams } from "./streams.svelte";
import { ViewStore, type Cell } from "./view.svelte";
import { WeightsStore } from "./weights.svelte";

const KEY = Symbol("residscope");
const WELCOMED = "residscope.welcomed";

/** Everything a part of the frame may need, in one place. */
export class App {
  readonly host: Host;
  readonly theme: Theme;
  readonly session: Session;
  readonly view: ViewStore;
  readonly mixing: Mixing;
  readonly compare: Compare;
  readonly fitting: Fitting;
  readonly streams: Streams;
  readonly directions: DirectionStore;
  readonly described: Described;
  readonly generation: GenerationStore;
  readonly map: MapStore;
  readonly lens: LensStore;
  readonly patch: PatchStore;
  readonly heads: HeadsStore;
  readonly weights: WeightsStore;
  readonly acts: Acts;
  readonly paths: Paths;
  readonly probe: ProbeStore;
  readonly features: FeaturesStore;
  readonly graph: GraphStore;
  readonly prompts: PromptStore;
  readonly library: LibraryStore;
  readonly manifest: ManifestStore;
  readonly glossary: GlossaryStore;
  readonly jobs: JobStore;
  /** The saved direction that is on screen by itself. */
  shownSaved = $derived.by(() => {
    const ref = this.directions.ref;
    return ref?.kind === "saved" ? ref.name : "";
  });
  private wantedSaved = $state.raw({ name: "", linked: false });
  palette = $state(false);
  /** The sliders are shown, or put away, by hand; null: while they are in use. */
  mixOpen: boolean | null = $state(null);
  /** Help is open, at a word or at none. */
  help: string | null = $state(null);
  /** The step of the tour that is shown; null: none. */
  tour: number | null = $state(null);
  /** The three lines for newcomers are shown until they are put away, here for good. */
  welcome = $state(false);
  code = $state("");
  /** The table of the prompt's tokens is open. */
  tokens = $state(false);
  pickedEdit = $state("");
  /** The side column that is open where there is no room for both. */
  opened: "" | "rail" | "inspector" = $state("");
  /** The edit the strength keys turn: the picked one, else the last. */
  edit = $derived.by(() => {
    const { edits } = this.session;
    return edits.find((edit) => edit.id === this.pickedEdit) ?? edits.at(-1) ?? null;
  });
  /** Opens the form of an edit; the card of edits sets it. */
  addEdit: (kind: string, values?: Record<string, unknown>) => void = () => {};
  /** Opens the prompt's editor; the page sets it. */
  editPrompt: () => void = () => {};
  /** Opens the companion's editor; where it stands sets it. */
  writeCompanion: () => void = () => {};
  private wanted = $state.raw<{ layer: number; pos: number } | null>(null);
  private selecting = 0;
  private seenSelection = "";
  private seenEdited: boolean | null = null;

  /** The locked cell as the grid counts: row 0 is `embed`. */
  selected: Cell = $derived.by(() => {
    const at = this.view.current.selection ?? this.session.state?.selection ?? { layer: 0, pos: 0 };
    const { rows, cols, first } = this.streams;
    return { row: Math.min(Math.max(at.layer - first, 0), rows - 1), col: Math.min(Math.max(at.pos, 0), cols - 1) };
  });
  pointed: Cell = $derived.by(() => this.view.hover ?? this.selected);
  site = $derived.by(() => this.streams.sites[this.selected.row] ?? "embed");
  /** Where an edit of the selected cell acts, beside its site. */
  head = $derived.by(() => (this.streams.head === null ? {} : { head: this.streams.head }));

  answers = $derived.by(() => {
    const metric = this.session.state?.metric;
    if (!metric) return "";
    const [positive, negative] = [metric.positive.text, metric.negative.text];
    const name = plain(positive) === plain(negative) ? visible : plain; // "Mary" and " Mary" are two
    return `${apart(name(positive))} − ${apart(name(negative))}`;
  });
  directionName = $derived.by(() => {
    if (this.view.current.direction === "logit") return this.answers;
    const { dictionary, terms } = this.mixing;
    const alone = terms.length === 1 && terms[0].weight > 0 ? terms[0] : null;
    return alone ? this.directions.label(alone.source, alone.index) : dictionary ? "Mix" : "";
  });
  /** The same with its place. */
  directionTitle = $derived.by(() => {
    const sources = [...new Set(this.mixing.terms.map(({ source }) => source))];
    const info = sources.length === 1 ? this.mixing.info(sources[0]) : null;
    if (this.view.current.direction === "logit") return `logit ${this.answers}`;
    return info ? `${this.directionName} of ${placeOf(info)}` : this.directionName;
  });

  /** What A and B are called: A may be any run of the history. */
  names = $derived.by(() => {
    const { a, b, model, state } = this.session;
    if (a?.model || b?.model) { // two models: each run by its own
      const own = model?.name ?? "";
      const called = (run: Run | null) => besideName(run?.model ?? own, run?.model ? own : (state?.other?.name ?? ""));
      const more = (run: Run | null) => (run?.prompt !== state?.prompt?.text && run ? ", other prompt" : run?.edits ? ", edited" : "");
      return { a: called(a) + more(a), b: called(b) + more(b) };
    }
    const name = (run: Run | null, edited: string) =>
      run?.edits ? edited : !run || run.prompt === state?.prompt?.text ? "baseline" : "other prompt";
    return { a: name(a, a?.label ?? ""), b: name(b, "edited") };
  });

  /** What the sentence above a picture says of it. */
  told: Told = $derived.by(() => {
    const { mixing, streams } = this;
    const { dictionary, terms } = mixing;
    const called = ({ source, index, weight }: (typeof terms)[number]) => ({ label: savedName(source) === null ? this.directions.label(source, index) : `“${savedName(source)!}”`, weight });
    const infos = terms.length ? terms.flatMap(({ source }) => mixing.info(source) ?? []) : dictionary ? [dictionary] : [];
    return {
      direction: this.view.current.direction, answers: this.answers, terms: terms.map(called), places: infos.map(placeWords), absent: mixing.absent, zero: mixing.zero,
      row: siteWords(this.site) + (streams.head === null ? "" : ` head ${streams.head}`), unit: streams.unit,
      run: runWords(streams.mode, this.names, !!streams.shown?.b), compared: !!streams.shown?.b,
    };
  });

  constructor(connector: Connector, { host, theme }: Root) {
    [this.host, this.theme] = [host, theme];
    this.welcome = host.remembers && host.stored(WELCOMED) === null;
    this.session = new Session(connector);
    this.manifest = new ManifestStore(this.session);
    this.glossary = new GlossaryStore(this.session);
    this.jobs = new JobStore(this.session, this.manifest);
    this.view = new ViewStore(host.hash);
    this.wanted = this.view.current.selection;
    this.mixing = new Mixing(this.session, this.view);
    this.compare = new Compare(this.mixing);
    this.fitting = new Fitting(this.session, this.manifest, this.view, this.mixing);
    this.streams = new Streams(this.session, this.view, this.mixing);
    this.directions = new DirectionStore(this.session, this.view, this.streams, this.mixing);
    this.described = new Described(this.session, this.view, this.streams, this.directions);
    this.generation = new GenerationStore(this.session, this.view);
    this.map = new MapStore(this.session, this.streams, this.view);
    this.lens = new LensStore(this.session, this.streams, this.view, (layer, pos) => this.selectAt(layer, pos));
    this.patch = new PatchStore(this.session, this.view, (layer, pos) => this.selectAt(layer, pos));
    this.heads = new HeadsStore(this.session, this.streams, this.map, this.view);
    this.weights = new WeightsStore(this.session, this.map);
    this.acts = new Acts(this.session, this.map, this.streams, () => this.selected, () => this.writeCompanion(), () => this.along());
    this.paths = new Paths(this.session, this.map, () => this.acts.needCompanion());
    this.probe = new ProbeStore(this.session, this.manifest);
    this.features = new FeaturesStore(this.session, this.view, this.manifest, this.jobs, this.mixing, () => this.library);
    this.graph = new GraphStore(this.session, this.view, this.jobs);
    this.prompts = new PromptStore(this.session, this.view, this.streams, this.mixing, () => this.selected.row);
    this.library = new LibraryStore(this.session, ({ name }, linked) => (linked && this.mixing.asksFor(name) ? undefined : this.showSaved(name, linked)), host.query, host.base);
  }

  welcomed(): void {
    this.welcome = false;
    this.host.store(WELCOMED, "yes");
  }

  /** The direction on screen, to steer along. */
  private along() {
    const direction = this.directions.ref;
    if (!direction) return null;
    const widths = this.view.current.direction === "logit" ? [] : this.mixing.terms.flatMap(({ source }) => this.mixing.info(source)?.width ?? []);
    return { direction, label: this.directionName, width: widths[0] ?? null, strength: steering(this.directions.reading?.sd ?? null) };
  }

  toggleHelp(): void {
    this.help = this.help === null ? "" : null;
  }

  /** To where an address leads. */
  travel(hash: string): void {
    this.view.open(hash);
    this.wanted = this.view.current.selection;
  }

  /** Call from an effect: the cell the address asks for, once its picture is there. */
  followWanted(): void {
    const wanted = this.wanted;
    if (!wanted || this.view.shared || !this.streams.shown || this.streams.stale) return;
    this.wanted = null;
    untrack(() => this.select(wanted.layer - this.streams.first, wanted.pos));
  }

  select(row: number, col: number): void {
    const { rows, cols, first, data } = this.streams;
    if (!data) return;
    const clamp = (x: number, end: number) => Math.min(Math.max(x, 0), end - 1);
    this.selectAt(clamp(row, rows) + first, clamp(col, cols));
  }

  private selectAt(layer: number, pos: number): void {
    this.view.current.selection = { layer, pos };
    this.selecting++;
    void this.session.send("select", { layer, pos }).finally(() => this.selecting--);
  }

  /** A place is chosen: its direction is on screen, read in its own row. Of a mix, or of the answers, its first component is. */
  choosePlace(id: string): void {
    const { mixing } = this;
    const current = this.view.current;
    if (!mixing.info(id)) return;
    const several = current.direction === "mix" && mixing.terms.length > 1;
    const mix = { dictionary: mixing.dictionary?.id ?? "", weights: { ...current.weights }, terms: { ...current.terms }, also: [...current.also] };
    const index = mixing.component ?? (several ? 0 : (oneHot(current.weights) ?? 0));
    Object.assign(current, { direction: "mix", weights: { [index]: 1 }, terms: {} });
    mixing.choose(id);
    if (several) this.session.notify(`The mix was put away: one direction of ${mixing.dictionary?.place ?? ""} is shown.`, "lasting", { label: "Bring it back", run: () => Object.assign(current, mix) });
    this.readOwnRow();
  }
  /** A layer's own directions, of the kind that is chosen, or else of any; without any, its row. */
  chooseLayer(layer: number): void {
    const { choices, dictionary } = this.mixing;
    const there = choices.filter(({ site, head }) => head === null && site === `resid_post.${layer}`);
    const found = there.find((info) => dictionary && family(info) === family(dictionary)) ?? there[0];
    if (found) this.choosePlace(found.id);
    else if (this.streams.data) this.selectAt(layer, this.selected.col);
  }
  /** The nearest place of another kind. */
  chooseKind(family: string): void {
    const found = nearest(this.mixing.choices, family, this.mixing.dictionary);
    if (found) this.choosePlace(found.id);
  }
  /** One component of the chosen dictionary; coming from the answers, in its own row. */
  showComponent(index: number): void {
    const before = this.view.current.direction;
    this.mixing.show(index);
    if (before === "logit" && this.view.current.direction === "mix") this.readOwnRow();
  }
  /** One direction of any dictionary here, a saved one too, onto the stream, read in its own row. */
  showDirection(dictionary: string, index: number): void {
    this.view.current.tab = "stream";
    const saved = savedName(dictionary);
    if (saved !== null) this.mixing.showSaved(saved);
    else {
      Object.assign(this.view.current, { direction: "mix", weights: {}, terms: {} });
      this.mixing.choose(dictionary);
      this.mixing.show(index);
    }
    this.readOwnRow(this.mixing.info(dictionary) ?? this.mixing.dictionary);
  }
  private readOwnRow(info = this.mixing.dictionary): void {
    const model = this.session.model;
    if (info && model && this.streams.data) this.selectAt(layerRead(info, model.n_layers), this.selected.col);
  }

  /** Call from an effect: the session's cell counts again once it changes for another reason than our own asking. */
  followSelection(): void {
    const at = this.session.state?.selection;
    const key = at ? `${at.layer}.${at.pos}` : "";
    if (key === this.seenSelection) return;
    if (this.seenSelection && !this.selecting) this.view.current.selection = null;
    this.seenSelection = key;
  }

  /** Call from an effect: the first edit of a stack is looked at as soon as it has run. */
  followEdits(): void {
    const { state, runs } = this.session;
    if (!state) return;
    const edited = !!runs.find(({ id }) => id === state.current.b)?.edits;
    if (edited && this.seenEdited === false) untrack(() => this.view.current.mode === "base" && (this.view.current.mode = "edit"));
    this.seenEdited = edited;
  }

  /** Back to the last position. */
  unlock(): void {
    this.view.hover = null;
    this.select(this.selected.row, (this.streams.data?.cols ?? 1) - 1);
  }

  /** A saved direction onto the screen, as soon as the session has it. */
  showSaved(name: string, linked = false): void {
    this.wantedSaved = { name, linked };
  }

  /** Call from an effect. */
  followSaved(): void {
    const { name, linked } = this.wantedSaved;
    if (!name || !this.session.state?.directions.some((held) => held.name === name)) return;
    this.wantedSaved = { name: "", linked: false };
    untrack(() => {
      this.view.current.tab = "stream";
      this.mixing.showSaved(name);
      if (!linked) this.readOwnRow(this.mixing.info(savedSource(name))); // a link says itself which row is read
    });
  }

  /** The lines of Python that give the cells on screen. */
  async python(): Promise<void> {
    if (this.view.current.tab === "patch" && this.patch.field) {
      this.code = await this.patch.measured.python().catch((error: unknown) => (this.session.notify(words(error), "error"), ""));
      return;
    }
    if (this.view.current.tab === "lens") {
      const { show, token, through } = this.view.current.lens;
      const lines = await this.session.send("python", { lens: { show, token, through }, mode: this.streams.mode });
      if (lines?.code) this.code = lines.code;
      return;
    }
    const direction = this.view.current.direction === "mix" ? this.mixing.picture : this.directions.ref;
    const { unit, mode, sites } = this.streams;
    const prompts = this.view.current.tab === "prompts" ? this.prompts.shown : null;
    const screen = prompts ? { unit, prompts, rows: [this.site] } : { unit, mode, rows: [...sites] };
    const value = await this.session.send("python", direction && this.streams.shown ? { direction, ...screen } : {});
    if (value?.code) this.code = value.code;
  }
}

export { plain };

export const provide = (app: App): App => setContext(KEY, app);
export const useApp = (): App => getContext<App>(KEY);
