import { getContext, setContext, untrack } from "svelte";
import type { Connector } from "../connect/connector";
import type { Run } from "../connect/wire";
import { apart, visible } from "../lib/tokens";
import { placeOf } from "../lib/dictionaries";
import type { Host } from "../root/host";
import type { Root, Theme } from "../root/root.svelte";
import { Compare } from "./compare.svelte";
import { DirectionStore } from "./directions.svelte";
import { Fitting } from "./fitting.svelte";
import { JobStore } from "./jobs.svelte";
import { LibraryStore } from "./library.svelte";
import { ManifestStore } from "./manifest.svelte";
import { Mixing } from "./mixing.svelte";
import { ProbeStore } from "./probe.svelte";
import { PromptStore } from "./prompts.svelte";
import { Session } from "./session.svelte";
import { Streams } from "./streams.svelte";
import { ViewStore, type Cell } from "./view.svelte";

const KEY = Symbol("residscope");

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
  readonly probe: ProbeStore;
  readonly prompts: PromptStore;
  readonly library: LibraryStore;
  readonly manifest: ManifestStore;
  readonly jobs: JobStore;
  /** The saved direction that is on screen by itself. */
  shownSaved = $derived.by(() => {
    const ref = this.directions.ref;
    return ref?.kind === "saved" ? ref.name : "";
  });
  private wantedSaved = $state("");
  palette = $state(false);
  code = $state("");
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
  private wanted = $state.raw<{ layer: number; pos: number } | null>(null);
  private selecting = 0;
  private seenSelection = "";

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
    const { a, b, state } = this.session;
    const name = (run: Run | null, edited: string) =>
      run?.edits ? edited : !run || run.prompt === state?.prompt?.text ? "baseline" : "other prompt";
    return { a: name(a, a?.label ?? ""), b: name(b, "edited") };
  });

  constructor(connector: Connector, { host, theme }: Root) {
    [this.host, this.theme] = [host, theme];
    this.session = new Session(connector);
    this.manifest = new ManifestStore(this.session);
    this.jobs = new JobStore(this.session, this.manifest);
    this.view = new ViewStore(host.hash);
    this.wanted = this.view.current.selection;
    this.mixing = new Mixing(this.session, this.view);
    this.compare = new Compare(this.mixing);
    this.fitting = new Fitting(this.session, this.manifest, this.view, this.mixing);
    this.streams = new Streams(this.session, this.view, this.mixing);
    this.directions = new DirectionStore(this.session, this.view, this.streams, this.mixing);
    this.probe = new ProbeStore(this.session, this.manifest, () => this.selected.col);
    this.prompts = new PromptStore(this.session, this.view, this.streams, this.mixing, () => this.selected.row);
    this.library = new LibraryStore(this.session, ({ name }, linked) => (linked && this.mixing.asksFor(name) ? undefined : this.showSaved(name)), host.query, host.base);
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
    const [layer, pos] = [clamp(row, rows) + first, clamp(col, cols)];
    this.view.current.selection = { layer, pos };
    this.selecting++;
    void this.session.send("select", { layer, pos }).finally(() => this.selecting--);
  }

  /** Call from an effect: the session's cell counts again once it changes for another reason than our own asking. */
  followSelection(): void {
    const at = this.session.state?.selection;
    const key = at ? `${at.layer}.${at.pos}` : "";
    if (key === this.seenSelection) return;
    if (this.seenSelection && !this.selecting) this.view.current.selection = null;
    this.seenSelection = key;
  }

  /** Back to the last position. */
  unlock(): void {
    this.view.hover = null;
    this.select(this.selected.row, (this.streams.data?.cols ?? 1) - 1);
  }

  /** A saved direction onto the screen, as soon as the session has it. */
  showSaved(name: string): void {
    this.wantedSaved = name;
  }

  /** Call from an effect. */
  followSaved(): void {
    const name = this.wantedSaved;
    if (!name || !this.session.state?.directions.some((held) => held.name === name)) return;
    this.wantedSaved = "";
    untrack(() => {
      this.view.current.tab = "stream";
      this.mixing.showSaved(name);
    });
  }

  /** The lines of Python that give the cells on screen. */
  async python(): Promise<void> {
    const direction = this.view.current.direction === "mix" ? this.mixing.picture : this.directions.ref;
    const { unit, mode, sites } = this.streams;
    const prompts = this.view.current.tab === "prompts" ? this.prompts.shown : null;
    const screen = prompts ? { unit, prompts, rows: [this.site] } : { unit, mode, rows: [...sites] };
    const value = await this.session.send("python", direction && this.streams.shown ? { direction, ...screen } : {});
    if (value?.code) this.code = value.code;
  }
}

/** A token without the space before it, for short names. */
export const plain = (text: string): string => visible(text.replace(/^ (?=\S)/, ""));

export const provide = (app: App): App => setContext(KEY, app);
export const useApp = (): App => getContext<App>(KEY);
