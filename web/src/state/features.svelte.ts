import { words } from "../connect/connector";
import type { Entry } from "../connect/library";
import type { ActiveIn, AtlasInfo, ExportCost, FeatureDetail, FeatureList, FeatureOn, FeatureRow } from "../connect/wire";
import { download } from "../root/host";
import type { PlainView } from "../views/kinds/plain";
import { addressOf, atlasOf, besides, directionOf, isSaved, readAddress, removal, sameEdit, type Address } from "../lib/features";
import type { JobStore } from "./jobs.svelte";
import type { LibraryStore } from "./library.svelte";
import { initial, type ManifestStore } from "./manifest.svelte";
import type { Mixing } from "./mixing.svelte";
import { bare, type Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

export type By = "token" | "text" | "like";
export type Order = "highest" | "density" | "index";
const PAGE = 100;
const PAUSE = 300;
const STRONGEST = 12;
const OWN_JOBS = ["atlas", "features-html", "name-features"];

function grouped(features: { index: number; entry: Entry }[]): Map<number, Entry[]> {
  const found = new Map<number, Entry[]>();
  for (const { index, entry } of features) found.set(index, [...(found.get(index) ?? []), entry]);
  return found;
}

/** The Features tab: an atlas, a list of its features, and the page of one of them. */
export class FeaturesStore {
  atlases: AtlasInfo[] | null = $state.raw(null);
  private chosen = $state("");
  /** An atlas of the same features from another text, beside it. */
  second = $state("");
  /** Which list is shown: all features, or those of the live prompt. */
  listed: "all" | "prompt" = $state("all");
  by: By = $state("token");
  sought = $state("");
  order: Order = $state("highest");
  descending = $state(true);
  list: FeatureList | null = $state.raw(null);
  rows: FeatureRow[] = $state.raw([]);
  active: ActiveIn | null = $state.raw(null);
  detail: FeatureDetail | null = $state.raw(null);
  /** Its examples with what taking it out does, once that is measured. */
  effects: { of: string; examples: PlainView } | null = $state.raw(null);
  beside: FeatureDetail | null = $state.raw(null);
  on: FeatureOn | null = $state.raw(null);
  /** What the library has of the atlas' dictionary, by the feature's number; the best described first. */
  saved: ReadonlyMap<number, Entry[]> = $state.raw(new Map());
  exportCost: ExportCost | null = $state.raw(null);
  pricing = $state(false);
  /** The job that writes the pages of a layer, which this page waits for. */
  exporting = $state("");
  /** The one that has written them. */
  exported: { of: string; job: string } | null = $state.raw(null);
  errors = $state({ atlases: "", list: "", detail: "", effects: "", beside: "", on: "", active: "", saved: "" });
  private wanted = { atlases: "", list: "", detail: "", effects: "", beside: "", on: "", active: "", saved: "" };
  /** A page's own name: of its questions about effects only the latest is answered. */
  private readonly asker = Math.random().toString(36).slice(2);

  /** What the address on screen names. */
  address: Address | null = $derived.by(() => readAddress(this.view.current.feature));
  atlas: AtlasInfo | null = $derived.by(() => {
    const all = this.atlases ?? [];
    const named = this.address ? atlasOf(all, this.address, this.chosen) : null;
    return named ?? all.find(({ name }) => name === this.chosen) ?? (this.address ? null : (all.find(({ missing }) => missing === null) ?? all[0] ?? null));
  });
  index: number | null = $derived.by(() => (this.atlas && this.address?.place === this.atlas.address ? this.address.index : null));
  /** Why what the address names cannot be shown. */
  astray = $derived.by(() => {
    const { address, view, atlases } = this;
    if (!view.current.feature || !atlases || (address && this.index !== null)) return "";
    if (!address) return `“${view.current.feature}” is no address of a feature: those are sae/MODEL/SITE/INDEX and neuron/MODEL/LAYER/INDEX.`;
    const model = this.session.model?.name;
    if (model && address.model !== model) return `${view.current.feature} is of the model ${address.model}; here is ${model}. Load that model, and gather an atlas of the dictionary there.`;
    return `No atlas here is of ${address.place}. Gather one: then its feature ${address.index} is shown here.`;
  });
  others: AtlasInfo[] = $derived.by(() => (this.atlas && this.atlases ? besides(this.atlases, this.atlas) : []));
  secondAtlas: AtlasInfo | null = $derived.by(() => this.others.find(({ name }) => name === this.second) ?? null);
  /** Atlases under way, or that failed. */
  jobs = $derived.by(() => this.calls.jobs.filter(({ method, phase }) => OWN_JOBS.includes(method) && phase !== "done"));
  shown: FeatureDetail | null = $derived.by(() => (this.detail && this.detail.atlas === this.atlas?.name && this.detail.index === this.index ? this.detail : null));
  measured: PlainView | null = $derived.by(() => (this.shown && this.effects?.of === this.key(this.shown.atlas, this.shown.index) ? this.effects.examples : null));
  searching = $derived.by(() => this.sought.trim() !== "" || (this.by === "token" && this.sought !== ""));
  removal = $derived.by(() => (this.shown ? removal(this.shown) : null));
  removed = $derived.by(() => {
    const { removal: edit } = this;
    return edit ? (this.session.edits.find((one) => sameEdit(bare(one), edit)) ?? null) : null;
  });
  direction = $derived.by(() => (this.shown ? directionOf(this.shown) : null));

  constructor(
    private session: Session,
    private view: ViewStore,
    private manifest: ManifestStore,
    private calls: JobStore,
    private mixing: Mixing,
    private library: () => LibraryStore,
  ) {}

  private key(atlas: string, index: number): string {
    return `${this.session.model?.hash}|${atlas}|${index}`;
  }

  /** Asks once for each key; a later answer of an earlier key is put away. */
  private ask<T>(part: keyof FeaturesStore["wanted"], key: string, question: () => Promise<T>, take: (answer: T) => void): void {
    if (key === this.wanted[part]) return;
    this.wanted[part] = key;
    this.errors[part] = "";
    if (!key) return;
    question().then(
      (answer) => this.wanted[part] === key && take(answer),
      (error: unknown) => this.wanted[part] === key && (this.errors[part] = words(error)),
    );
  }

  retry(part: keyof FeaturesStore["wanted"]): void {
    this.wanted[part] = "";
    this.errors[part] = "";
    this.retries++;
  }
  /** Read by what follows, so that it asks again. */
  retries = $state(0);

  /** Call from an effect: the atlases of the shelf. */
  followAtlases(): void {
    const { session, retries } = this;
    const shelf = (session.state?.items?.items ?? []).filter(({ kind }) => kind === "report:atlas").map(({ name }) => name);
    const key = session.model ? JSON.stringify([session.model.hash, shelf, session.model.dictionaries.map(({ hash }) => hash), retries]) : "";
    this.ask("atlases", key, () => session.connector.query("atlases"), ({ atlases }) => (this.atlases = atlases));
  }

  /** Call from an effect: the list, once what is typed rests. */
  followList(): (() => void) | undefined {
    const { atlas, order, descending, by, sought, searching, retries, listed } = this;
    const key = atlas && listed === "all" ? JSON.stringify([atlas.name, atlas.hash, atlas.tokens, searching ? [by, sought] : [order, descending], retries]) : "";
    if (!atlas || !key || key === this.wanted.list) return;
    const ask = () =>
      this.ask("list", key, () => this.query(0), (list) => ([this.list, this.rows] = [list, list.rows]));
    if (!searching) return void ask();
    const timer = setTimeout(ask, PAUSE);
    return () => clearTimeout(timer);
  }

  private query(first: number): Promise<FeatureList> {
    const { atlas, order, descending, by, sought, searching } = this;
    const search = !searching ? { order, descending } : by === "like" ? { like: Number(sought.trim()) || 0 } : { [by]: sought };
    return this.session.connector.query("features", { atlas: atlas!.name, first, count: PAGE, ...search });
  }

  async more(): Promise<void> {
    const key = this.wanted.list;
    try {
      const list = await this.query(this.rows.length);
      if (key === this.wanted.list) this.rows = [...this.rows, ...list.rows];
    } catch (error) {
      this.session.notify(words(error), "error");
    }
  }

  /** Call from an effect: the page of the chosen feature; then what taking it out does. */
  followDetail(): void {
    const { atlas, index, session, retries } = this;
    const key = atlas && index !== null && atlas.missing === null ? `${this.key(atlas.name, index)}|${retries}` : "";
    this.ask("detail", key, () => session.connector.query("feature", { atlas: atlas!.name, index: index! }), (detail) => (this.detail = detail));
  }

  /** Call from an effect: what taking it out does, once its page is there. */
  followEffects(): void {
    const { shown, session, retries } = this;
    const key = shown ? this.key(shown.atlas, shown.index) : "";
    if (key && this.effects?.of === key) return;
    this.ask("effects", key && `${key}|${retries}`, () => session.connector.query("feature_effects", { atlas: shown!.atlas, index: shown!.index, asker: this.asker }), ({ examples }) => (this.effects = { of: key, examples }));
  }

  /** Nobody looks any more. */
  leave(): void {
    if (!this.wanted.effects || this.measured) return;
    this.wanted.effects = "";
    void this.session.connector.query("feature_effects_left", { asker: this.asker }).catch(() => {}); // an answer that does not come changes nothing
  }

  /** Call from an effect: the same feature in the text beside it. */
  followBeside(): void {
    const { secondAtlas, index, session, retries } = this;
    const key = secondAtlas && index !== null ? `${this.key(secondAtlas.name, index)}|${retries}` : "";
    if (!key) this.beside = null;
    this.ask("beside", key, () => session.connector.query("feature", { atlas: secondAtlas!.name, index: index! }), (detail) => (this.beside = detail));
  }

  /** Call from an effect: the feature on the run that is looked at. */
  followOn(): void {
    const { shown, session, retries } = this;
    const run = session.looked?.id;
    const key = shown && run ? `${this.key(shown.atlas, shown.index)}|${run}|${retries}` : "";
    this.ask("on", key, () => session.connector.query("feature_on", { atlas: shown!.atlas, index: shown!.index, run: run! }), (on) => (this.on = on));
  }

  /** Call from an effect: the strongest features of the run that is looked at, at the token that is selected. */
  followActive(pos: number): void {
    const { atlas, session, listed, retries } = this;
    const run = session.looked;
    const key = atlas && run && listed === "prompt" ? `${session.model?.hash}|${atlas.name}|${run.id}|${pos}|${retries}` : "";
    this.ask("active", key, () => session.connector.query("features_on", { run: run!.id, atlases: [atlas!.name], pos, k: STRONGEST }), ({ atlases }) => (this.active = atlases[0]));
  }

  /** Call from an effect: what people have saved of this dictionary, again whenever somebody changes the library. */
  followSaved(): void {
    const { atlas, session, retries } = this;
    const changes = session.state?.library;
    const key = atlas?.hash && typeof changes === "number" ? `${session.model?.hash}|${atlas.hash}|${changes}|${retries}` : "";
    if (!key) this.saved = new Map();
    this.ask("saved", key, () => session.connector.query("library_features", { dictionary: atlas!.hash }), ({ features }) => (this.saved = grouped(features)));
  }

  /** What a feature is called: in the library, else in the session. */
  called(index: number, name: string | null): string | null {
    return this.saved.get(index)?.[0].name ?? name;
  }

  /** The feature into the library, under a name. */
  async keep(name: string): Promise<void> {
    const { direction } = this;
    const library = this.library();
    if (direction) await library.change(() => library.do("library_save", { direction, name: name.trim() }));
  }

  /** What all pages of the atlas take as HTML. */
  async price(): Promise<void> {
    const { atlas, session } = this;
    if (!atlas) return;
    this.pricing = true;
    try {
      const cost = await session.connector.query("features_cost", { atlas: atlas.name });
      if (this.atlas?.name === atlas.name) this.exportCost = cost;
    } catch (error) {
      session.notify(words(error), "error");
    } finally {
      this.pricing = false;
    }
  }

  forgetCost(): void {
    this.exportCost = null;
  }

  /** The file of pages, where no address gives it. */
  async fetchPages(job: string): Promise<void> {
    const { connector } = this.session;
    await connector.file?.(job, ".zip").then(
      (file) => download(file.data, file.name),
      (error: unknown) => this.session.notify(words(error), "error"),
    );
  }

  /** All pages of the atlas, by a job; the file comes once it is done. */
  async exportLayer(): Promise<void> {
    const { atlas, session } = this;
    this.exportCost = null;
    const begun = atlas && (await session.send("export_features", { atlas: atlas.name }));
    if (!begun) return;
    this.exporting = begun.job;
    try {
      const job = await session.ended(begun.job, new AbortController().signal);
      if (job?.phase === "done") this.exported = { of: atlas.name, job: begun.job };
    } catch (error) {
      session.notify(words(error), "error");
    } finally {
      this.exporting = "";
    }
  }

  /** The form of the method that names features by a service, with this atlas and the feature on screen. */
  async name(): Promise<void> {
    await this.manifest.load();
    const schema = this.manifest.methods.find(({ id }) => id === "name-features");
    const { atlas, index } = this;
    if (!schema || !atlas) return this.session.notify("There is no method “name-features” here.", "error");
    this.calls.forms[schema.id] = { ...initial(schema), atlas: atlas.name, dictionary: atlas.dictionary, features: index === null ? null : [index] };
    this.calls.choose(schema.id);
    this.view.current.tab = "methods";
  }

  choose(name: string): void {
    const atlas = this.atlases?.find((one) => one.name === name);
    const { index } = this;
    this.exportCost = null;
    [this.chosen, this.second] = [name, this.second === name ? "" : this.second];
    if (atlas && this.atlas?.name !== name) this.view.current.feature = index !== null && index < atlas.count && atlas.hash === this.atlas?.hash ? addressOf(atlas, index) : "";
  }

  show(index: number): void {
    if (this.atlas) this.view.current.feature = addressOf(this.atlas, index);
  }

  /** Those whose writing is like this one's. */
  like(index: number): void {
    [this.listed, this.by, this.sought] = ["all", "like", String(index)];
  }

  /** Puts the edit that takes it out on the stack, or takes it off again. */
  async remove(): Promise<void> {
    const { removal: edit, removed } = this;
    if (removed) await this.session.removeEdit(removed.id);
    else if (edit) await this.session.send("add_edit", { edit });
  }

  /** The form of the method that gathers an atlas, with a dictionary chosen. */
  async gather(dictionary: string | null = this.likely()): Promise<void> {
    await this.manifest.load();
    const schema = this.manifest.methods.find(({ id }) => id === "atlas");
    if (!schema) return this.session.notify("There is no method “atlas” here.", "error");
    this.calls.forms[schema.id] = { ...initial(schema), dictionary };
    this.calls.choose(schema.id);
    this.view.current.tab = "methods";
  }

  /** The dictionary that an atlas is most likely wanted of: the latest encoder, else the one on screen. */
  private likely(): string | null {
    const encoders = (this.session.model?.dictionaries ?? []).filter(({ linear }) => !linear);
    const shown = this.mixing.dictionary?.id ?? null;
    return encoders.at(-1)?.id ?? (shown && !isSaved(shown) ? shown : null);
  }
}
