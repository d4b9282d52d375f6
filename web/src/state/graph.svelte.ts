import { words } from "../connect/connector";
import type { GraphEdgeRun, GraphFound, GraphNode, GraphNodeDetail, GraphProposals, GraphShown } from "../connect/wire";
import { ALL, asked, chosenAt, FIRST_EDGES, intervention, itemOf, membersOf, weightAt, placeOf, type Chosen, type Thresholds } from "../lib/graph";
import { sameEdit } from "../lib/features";
import type { JobStore } from "./jobs.svelte";
import { bare, type Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

export const METHOD = "causal-graph";

/** The Graph tab: a causal graph of the shelf as its thresholds leave it, what is chosen in it, and what is done with that. */
export class GraphStore {
  shown: GraphShown | null = $state.raw(null);
  thresholds: Thresholds = $state({ ...ALL });
  chosen: Chosen = $state.raw(null);
  /** A node that was looked for: the picture may not have it. */
  private sought: GraphNode | null = $state.raw(null);
  /** Ids of the picture's nodes that are taken together. */
  set: string[] = $state([]);
  node: GraphNodeDetail | null = $state.raw(null);
  edge: GraphEdgeRun | null = $state.raw(null);
  proposals: GraphProposals | null = $state.raw(null);
  found: GraphFound | null = $state.raw(null);
  errors = $state({ shown: "", node: "", edge: "", proposals: "", found: "" });
  /** A question is under way. */
  waiting = $state({ shown: false, edge: false, proposals: false });
  table = $state(false);
  full = $state(false);
  zoom = $state(1);
  /** Read by what follows, so that it asks again. */
  private retries = $state(0);
  private wanted = { shown: "", node: "", edge: "" };
  private under = false;
  /** A graph whose thresholds have been chosen, by hand or as it was opened. */
  private opened = "";
  private asking = new AbortController();
  /** A page's own name: of its questions that run the model only the latest is answered. */
  private readonly asker = Math.random().toString(36).slice(2);

  graphs = $derived.by(() => (this.session.state?.items?.items ?? []).filter(({ kind }) => kind === "report:graph"));
  item = $derived.by(() => {
    const { graph } = this.view.current;
    return (graph ? this.graphs.find(({ name }) => name === graph) : this.graphs.at(-1)) ?? null;
  });
  astray = $derived.by(() => (this.view.current.graph && this.session.model && !this.item ? `There is no graph “${this.view.current.graph}” on the shelf.` : ""));
  jobs = $derived.by(() => this.calls.jobs.filter(({ method, phase }) => method === METHOD && phase !== "done"));
  /** The live prompt is the graph's. */
  here = $derived.by(() => {
    const [tokens, prompt] = [this.session.state?.prompt?.tokens, this.shown?.prompt];
    return !!tokens && !!prompt && tokens.length === prompt.length && tokens.every(({ text }, i) => text === prompt[i]);
  });
  stale = $derived.by(() => !!this.shown && this.shown.item !== this.item?.name);
  at = $derived.by(() => (this.shown ? itemOf(this.shown, this.chosen) : null));
  outlined = $derived.by(() => (this.shown ? this.set.flatMap((id) => itemOf(this.shown!, { node: id }) ?? []) : []));
  drawn: GraphNode | null = $derived.by(() => {
    const { shown, chosen } = this;
    if (!shown || !chosen || !("node" in chosen)) return null;
    return shown.nodes.find(({ id }) => id === chosen.node) ?? (this.sought?.id === chosen.node ? this.sought : null);
  });
  /** The nodes that an act is of: the set, else what is chosen. */
  acted: string[] = $derived.by(() => (this.set.length ? this.set : this.drawn ? [this.drawn.id] : []));
  members: string[] = $derived.by(() => (this.shown ? membersOf(this.shown, this.acted) : []));
  does = $derived.by(() => (this.shown ? intervention(this.shown, this.members, this.here) : { edits: [], left: [] }));
  /** The edits of the stack that take them out already. */
  done = $derived.by(() => this.does.edits.map((edit) => this.session.edits.find((one) => sameEdit(bare(one), edit))));

  constructor(
    private session: Session,
    private view: ViewStore,
    private calls: JobStore,
  ) {}

  private get key(): string {
    const { item, session } = this;
    return item && session.model ? JSON.stringify([session.model.hash, item.name, item.made, item.changes, session.model.dictionaries.map(({ hash }) => hash)]) : "";
  }

  /** Call from an effect: the graph as the thresholds leave it. One question at a time, and the latest of those that came meanwhile. */
  follow(): void {
    const { item, key, retries } = this;
    const thresholds = $state.snapshot(this.thresholds);
    if (!item) {
      [this.shown, this.chosen, this.set, this.wanted.shown] = [null, null, [], ""];
      return;
    }
    if (this.opened !== item.name) return this.open(item.name);
    const wanted = JSON.stringify([key, thresholds, retries]);
    if (wanted === this.wanted.shown) return;
    this.wanted.shown = wanted;
    if (!this.under) void this.ask();
  }

  private async ask(): Promise<void> {
    const { item } = this;
    const wanted = this.wanted.shown;
    if (!item || !wanted) return;
    this.under = this.waiting.shown = true;
    try {
      const shown = await this.session.connector.query("graph", { item: item.name, ...asked($state.snapshot(this.thresholds)) });
      if (this.item?.name === shown.item) this.take(shown);
    } catch (error) {
      if (wanted === this.wanted.shown) this.errors.shown = words(error);
    }
    this.under = this.waiting.shown = false;
    if (wanted !== this.wanted.shown) void this.ask();
  }

  private take(shown: GraphShown): void {
    [this.shown, this.errors.shown] = [shown, ""];
    const there = new Set(shown.nodes.map(({ id }) => id));
    if (this.set.some((id) => !there.has(id))) this.set = this.set.filter((id) => there.has(id));
    if (this.proposals && this.proposals.item !== shown.item) this.proposals = null;
    if (this.found && this.found.item !== shown.item) [this.found, this.sought] = [null, null];
  }

  /** Another graph: of a large one its strongest edges. */
  private open(name: string): void {
    this.opened = name;
    [this.chosen, this.set, this.node, this.edge, this.proposals, this.zoom] = [null, [], null, null, null, 1];
    this.thresholds = { ...ALL, perLevel: FIRST_EDGES };
  }

  retry(): void {
    this.errors = { shown: "", node: "", edge: "", proposals: "", found: "" };
    this.wanted = { shown: "", node: "", edge: "" };
    this.retries++;
  }

  /** Call from an effect: what is known of the node that is chosen. */
  followNode(): void {
    const { drawn, item, key, retries } = this;
    const one = drawn && !drawn.group && drawn.members.length === 1 ? drawn.members[0] : null;
    const wanted = one && item ? JSON.stringify([key, one, retries]) : "";
    if (wanted === this.wanted.node) return;
    this.wanted.node = wanted;
    if (!one || !item) return void (this.node = null);
    this.session.connector.query("graph_node", { item: item.name, node: one }).then(
      (node) => this.wanted.node === wanted && ([this.node, this.errors.node] = [node, ""]),
      (error: unknown) => this.wanted.node === wanted && (this.errors.node = words(error)),
    );
  }

  /** Call from an effect: the edge that is chosen, run again. */
  followEdge(): void {
    const { chosen, item, retries, session, shown } = this;
    const edge = chosen && "source" in chosen && shown?.item === item?.name ? chosen : null;
    const wanted = edge && item ? JSON.stringify([session.model?.hash, item.name, item.made, session.model?.dictionaries.map(({ hash }) => hash), edge, retries]) : "";
    if (wanted === this.wanted.edge) return;
    this.leave();
    this.wanted.edge = wanted;
    if (!edge || !item) return void (this.edge = null);
    [this.edge, this.errors.edge, this.waiting.edge] = [null, "", true];
    this.asking = new AbortController();
    session.connector.query("graph_edge", { item: item.name, source: edge.source, target: edge.target, asker: this.asker }, this.asking.signal).then(
      (run) => this.wanted.edge === wanted && ([this.edge, this.waiting.edge] = [run, false]),
      (error: unknown) => this.wanted.edge === wanted && ([this.errors.edge, this.waiting.edge] = [words(error), false]),
    );
  }

  /** Nobody looks any more. */
  leave(): void {
    this.wanted.edge = "";
    if (!this.waiting.edge) return;
    this.waiting.edge = false;
    this.asking.abort();
    void this.session.connector.query("graph_left", { asker: this.asker }).catch(() => {}); // an answer that does not come changes nothing
  }

  choose(name: string): void {
    this.view.current.graph = name;
  }

  pick(item: number, also: boolean): void {
    const { shown } = this;
    const chosen = shown && chosenAt(shown, item);
    if (!chosen) return;
    if (also && "node" in chosen) this.toggle(chosen.node);
    else this.chosen = chosen;
  }
  toggle(id: string): void {
    this.set = this.set.includes(id) ? this.set.filter((one) => one !== id) : [...this.set, id];
  }
  clear(): void {
    if (this.chosen) this.chosen = null;
    else this.set = [];
  }

  get weightPlace(): number {
    return this.shown ? placeOf(this.thresholds.least, this.shown.range) : 0;
  }
  set weightPlace(place: number) {
    if (this.shown) this.thresholds.least = weightAt(place, this.shown.range);
  }

  async name(node: string, name: string): Promise<void> {
    if (this.item) await this.session.accepted("name_node", { item: this.item.name, node, name });
  }
  async group(name: string, nodes = this.members): Promise<boolean> {
    if (!this.item || !(await this.session.accepted("group_nodes", { item: this.item.name, nodes, name }))) return false;
    this.set = [];
    this.chosen = null;
    if (this.proposals) this.proposals = { ...this.proposals, groups: this.proposals.groups.filter((one) => one.nodes.join() !== nodes.join()) };
    return true;
  }
  async renameGroup(name: string, to: string): Promise<void> {
    if (this.item && to && to !== name) await this.session.accepted("rename_group", { item: this.item.name, name, to });
    this.chosen = null;
  }
  async ungroup(name: string): Promise<void> {
    if (this.item) await this.session.accepted("ungroup_nodes", { item: this.item.name, name });
    this.chosen = null;
  }
  async undo(): Promise<void> {
    if (this.item) await this.session.accepted("undo_graph", { item: this.item.name });
  }

  /** Nodes by id, name or token, whatever the thresholds leave. */
  async find(text: string): Promise<void> {
    if (!this.item) return;
    try {
      [this.found, this.errors.found] = [await this.session.connector.query("graph_find", { item: this.item.name, text }), ""];
    } catch (error) {
      [this.found, this.errors.found] = [null, words(error)];
    }
  }
  show(id: string): void {
    this.sought = this.found?.nodes.find((node) => node.id === id) ?? null;
    if (this.sought) this.chosen = { node: id };
  }

  async propose(least: number): Promise<void> {
    if (!this.item) return;
    [this.waiting.proposals, this.errors.proposals] = [true, ""];
    try {
      this.proposals = await this.session.connector.query("graph_proposals", { item: this.item.name, least });
    } catch (error) {
      this.errors.proposals = words(error);
    }
    this.waiting.proposals = false;
  }

  /** Puts the edits that take them out on the stack, in one step; or takes them off again. */
  async intervene(): Promise<void> {
    const { session, does, done } = this;
    const there = done.flatMap((edit) => edit?.id ?? []);
    if (there.length === does.edits.length) await session.setEdits(session.edits.filter(({ id }) => !there.includes(id)));
    else await session.send("set_edits", { edits: [...session.edits.map(bare), ...does.edits.filter((_, i) => !done[i])] });
  }

  async usePrompt(): Promise<void> {
    if (this.shown?.ids) await this.session.accepted("set_tokens", { ids: this.shown.ids });
  }

  /** The form of the method that draws one. */
  async form(): Promise<void> {
    if (await this.calls.open(METHOD)) this.view.current.tab = "methods";
  }
}
