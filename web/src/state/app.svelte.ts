import { getContext, setContext, untrack } from "svelte";
import type { Connector } from "../connect/connector";
import type { Run } from "../connect/wire";
import { visible } from "../lib/format";
import { rowSite } from "../lib/stream";
import { DirectionStore } from "./directions.svelte";
import { ProbeStore } from "./probe.svelte";
import { PromptStore } from "./prompts.svelte";
import { Session } from "./session.svelte";
import { Streams } from "./streams.svelte";
import { ViewStore, type Cell } from "./view.svelte";

const KEY = Symbol("residscope");

/** Everything a part of the frame may need, in one place. */
export class App {
  readonly session: Session;
  readonly view: ViewStore;
  readonly streams: Streams;
  readonly directions: DirectionStore;
  readonly probe: ProbeStore;
  readonly prompts: PromptStore;
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
  /** Opens the prompt's editor; the page sets it. */
  editPrompt: () => void = () => {};
  private wanted = $state.raw<{ layer: number; pos: number } | null>(null);
  private selecting = 0;
  private seenSelection = "";

  /** The locked cell as the grid counts: row 0 is `embed`. */
  selected: Cell = $derived.by(() => {
    const data = this.streams.data;
    const at = this.view.current.selection ?? this.session.state?.selection ?? { layer: 0, pos: 0 };
    const [rows, cols] = [data?.rows ?? 1, data?.cols ?? 1];
    return { row: Math.min(Math.max(at.layer + 1, 0), rows - 1), col: Math.min(Math.max(at.pos, 0), cols - 1) };
  });
  pointed: Cell = $derived.by(() => this.view.hover ?? this.selected);
  site = $derived(rowSite(this.selected.row));

  answers = $derived.by(() => {
    const metric = this.session.state?.metric;
    return metric ? `${plain(metric.positive.text)} − ${plain(metric.negative.text)}` : "";
  });
  directionName = $derived.by(() => {
    if (this.view.current.direction === "logit") return this.answers;
    return this.view.component === null ? "Mix" : `PC ${this.view.component}`;
  });

  /** What A and B are called: A may be any run of the history. */
  names = $derived.by(() => {
    const { a, b, state } = this.session;
    const name = (run: Run | null, edited: string) =>
      run?.edits ? edited : !run || run.prompt === state?.prompt?.text ? "baseline" : "other prompt";
    return { a: name(a, a?.label ?? ""), b: name(b, "edited") };
  });

  constructor(connector: Connector, hash: string) {
    this.session = new Session(connector);
    this.view = new ViewStore(hash);
    this.wanted = this.view.current.selection;
    this.streams = new Streams(this.session, this.view);
    this.directions = new DirectionStore(this.session, this.view, this.streams);
    this.probe = new ProbeStore(this.session, () => this.selected.col);
    this.prompts = new PromptStore(this.session, this.view, this.streams, () => this.selected.row);
  }

  /** Call from an effect: the cell the address asks for, once its picture is there. */
  followWanted(): void {
    const wanted = this.wanted;
    if (!wanted || this.view.shared || !this.streams.shown || this.streams.stale) return;
    this.wanted = null;
    untrack(() => this.select(wanted.layer + 1, wanted.pos));
  }

  select(row: number, col: number): void {
    const data = this.streams.data;
    if (!data) return;
    const clamp = (x: number, end: number) => Math.min(Math.max(x, 0), end - 1);
    const [layer, pos] = [clamp(row, data.rows) - 1, clamp(col, data.cols)];
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

  async python(): Promise<void> {
    const direction = this.directions.ref;
    const value = (await this.session.send("python", direction ? { direction } : {})) as { code?: string } | undefined;
    if (value?.code) this.code = value.code;
  }
}

/** A token without the space before it, for short names. */
export const plain = (text: string): string => visible(text.trim() || text);

export const provide = (app: App): App => setContext(KEY, app);
export const useApp = (): App => getContext<App>(KEY);
