import { untrack } from "svelte";
import { words, WireError, type IntentAnswers, type Intents, type Queries, type QueryAnswers } from "../connect/connector";
import type { Description, Entry, SavedRef, Undoable } from "../connect/library";
import type { DirectionRef } from "../connect/wire";
import { isolated } from "../lib/format";
import { baseAddress } from "../root/host";
import { BlindStore } from "./blind.svelte";
import { OneStore } from "./one.svelte";
import type { Session } from "./session.svelte";

export interface Filter {
  text: string;
  user: string;
  mine: boolean;
  everyModel: boolean;
  site: string;
  votes: number | null;
  sort: "newest" | "votes";
}

export const usual = (): Filter => ({ text: "", user: "", mine: false, everyModel: false, site: "", votes: null, sort: "newest" });

/** Those of the library among all intents, or queries. */
type Of<Asked> = Extract<keyof Asked, `library_${string}`>;

/** What people saved, named and said: searched, read, changed; and who one is among them. */
export class LibraryStore {
  opened = $state(false);
  me: string | null = $state(null);
  /** The name is being asked for. */
  naming = $state(false);
  filter: Filter = $state(usual());
  found: Entry[] = $state.raw([]);
  after: string | null = $state(null);
  /** A search is on its way. */
  searching = $state(false);
  searched = $state(false);
  failed = $state("");
  /** What the save form is about to save. */
  saving: { ref: DirectionRef; name: string; description: string; error: string; busy: boolean } | null = $state(null);
  importing: { name: string; error: string }[] = $state([]);
  /** The one that is read. */
  readonly one: OneStore;
  readonly blind: BlindStore;
  /** What waits for a name. */
  private resume: ((named: boolean) => void) | null = null;
  private number = 0;
  private known = false;
  private changes = 0;
  private linked: string;

  filtered = $derived(JSON.stringify(this.filter) !== JSON.stringify(usual()));

  constructor(
    readonly session: Session,
    /** Shows a direction of the live session on screen; one that came by link, unless the link says how already. */
    private look: (ref: SavedRef, linked: boolean) => void,
    query: string = "",
    private base: string = baseAddress(),
  ) {
    this.linked = new URLSearchParams(query).get("direction") ?? "";
    this.one = new OneStore(this);
    this.blind = new BlindStore(this);
  }

  ask<N extends Of<Queries>>(query: N, args?: Queries[N]): Promise<QueryAnswers[N]> {
    return this.session.connector.query(query, args);
  }

  do<N extends Of<Intents>>(intent: N, args?: Intents[N]): Promise<IntentAnswers[N]> {
    return this.session.intent(intent, args);
  }

  toggle(): void {
    this.opened = !this.opened;
    if (this.opened) void this.refresh();
  }

  async refresh(): Promise<void> {
    if (!this.known) await this.whoAmI();
    await Promise.all([this.search(), this.one.id ? this.one.read(this.one.id) : null]);
  }

  // ── who one is ────────────────────────────────────────────────────────────────────────────────────────────

  private async whoAmI(): Promise<void> {
    await this.ask("library_me").then(
      ({ name }) => ([this.me, this.known] = [name, true]),
      () => {}, // the search says why nothing answers
    );
  }

  /** Answers why the name was refused, or nothing. */
  async signIn(name: string): Promise<string> {
    try {
      this.me = (await this.do("library_sign_in", { name })).name;
    } catch (error) {
      return words(error);
    }
    [this.naming, this.known] = [false, true];
    if (this.one.id) await this.one.read(this.one.id); // one's own votes
    if (this.filter.mine) await this.search();
    this.settle(true);
    return "";
  }

  cancelNaming(): void {
    this.naming = false;
    this.settle(false);
  }

  private settle(named: boolean): void {
    const resume = this.resume;
    this.resume = null;
    resume?.(named);
  }

  /** Does what needs a name, asking for one first; a refusal is told in the server's words and answers undefined. */
  async change<T>(action: () => Promise<T>): Promise<T | undefined> {
    if (!this.known) await this.whoAmI();
    if (!this.me) return this.later(action);
    try {
      return await action();
    } catch (error) {
      if (error instanceof WireError && error.name === "NoUser") {
        this.me = null;
        return this.later(action);
      }
      this.session.notify(words(error), "error");
      return undefined;
    }
  }

  /** Waits for a name; undefined where none is given. */
  private later<T>(action: () => Promise<T>): Promise<T | undefined> {
    this.settle(false);
    [this.opened, this.naming] = [true, true];
    return new Promise((done) => (this.resume = (named) => done(named ? this.change(action) : undefined)));
  }

  // ── finding ───────────────────────────────────────────────────────────────────────────────────────────────

  /** The first page anew; `more` adds the next. */
  async search(more = false): Promise<void> {
    const number = ++this.number;
    this.searching = true;
    try {
      const page = await this.ask("library_search", this.query(more ? this.after : null));
      if (number !== this.number) return;
      this.found = more ? [...this.found, ...page.entries.filter(({ id }) => !this.found.some((entry) => entry.id === id))] : page.entries;
      [this.after, this.failed, this.searched] = [page.after, "", true];
    } catch (error) {
      if (number === this.number) this.failed = words(error);
    } finally {
      if (number === this.number) this.searching = false;
    }
  }

  private query(after: string | null): Queries["library_search"] {
    const { text, user, mine, everyModel, site, votes, sort } = this.filter;
    const who = mine ? (this.me ?? "") : user.trim();
    return {
      sort,
      ...(text.trim() && { text: text.trim() }),
      ...(who && { user: who }),
      ...(!everyModel && this.session.model && { here: true }),
      ...(site.trim() && { site: site.trim() }),
      ...(votes !== null && Number.isFinite(votes) && { min_votes: Math.round(votes) }),
      ...(after && { after }),
    };
  }

  /** Call from an effect: what others change shows at once, while the drawer is open. */
  followChanges(): void {
    const changes = this.session.state?.library ?? 0;
    if (this.changes === changes) return;
    this.changes = changes;
    untrack(() => this.opened && !this.blind.active && void this.refresh());
  }

  /** One direction in the open drawer. */
  show(id: string): void {
    this.blind.leave();
    this.saving = null;
    this.opened = true;
    void this.refresh().then(() => this.one.read(id));
  }

  /** A blind test of a description, in the drawer. */
  async test(description: Description): Promise<void> {
    this.saving = null;
    this.opened = true;
    await this.blind.begin(description);
  }

  /** All that one person has saved, of every model. */
  showPerson(name: string): void {
    this.filter = { ...usual(), user: name, everyModel: true };
    this.one.back();
  }

  // ── directions ────────────────────────────────────────────────────────────────────────────────────────────

  /** Opens the form that saves a direction of the live session; `name` is what it is called on screen. */
  save(ref: DirectionRef, name = "", description = ""): void {
    this.blind.leave();
    this.saving = { ref, name, description, error: "", busy: false };
    this.opened = true;
    if (!this.known) void this.whoAmI();
  }

  async submit(): Promise<void> {
    const form = this.saving;
    if (!form || form.busy) return;
    const { ref, name, description } = form;
    await this.change(async () => {
      form.busy = true;
      try {
        const body = { direction: ref, name, ...(description.trim() ? { description } : {}) };
        const entry = await this.do("library_save", body);
        if (this.saving === form) this.saving = null;
        this.session.notify("Saved to the library");
        await Promise.all([this.one.read(entry.id), this.search()]);
      } catch (error) {
        if (error instanceof WireError && error.name === "NoUser") throw error;
        form.error = words(error);
      } finally {
        form.busy = false;
      }
    });
  }

  /** Into the live session and onto the screen; answers why not, or nothing. */
  async open(id: string, linked = false): Promise<string> {
    try {
      this.look(await this.do("library_open", { id }), linked);
      return "";
    } catch (error) {
      return words(error);
    }
  }

  /** Call from an effect: the direction that the address names, once there is a model to open it in. */
  followLink(): void {
    const id = this.linked;
    if (!id || !this.session.model) return;
    this.linked = "";
    this.opened = true;
    void this.refresh().then(() => this.one.read(id));
    void this.open(id, true).then((problem) => problem && this.session.notify(problem, "error"));
  }

  link(id: string): string {
    return new URL(`./?direction=${encodeURIComponent(id)}`, this.base).href;
  }

  /** Takes in exported files; each error in its own words, beside the file's name. */
  async take(files: Iterable<File>): Promise<void> {
    this.importing = [];
    const all = [...files];
    await this.change(async () => {
      let last: IntentAnswers["library_import"] | null = null;
      for (const file of all) {
        try {
          last = await this.do("library_import", { data: file });
        } catch (error) {
          if (error instanceof WireError && error.name === "NoUser") throw error;
          this.importing = [...this.importing, { name: file.name, error: words(error) }];
        }
      }
      if (!last) return;
      this.session.notify(last.new ? "Taken into the library" : `That was here already: ${isolated(last.entry.owner)} saved it`);
      await Promise.all([this.search(), this.one.read(last.entry.id)]);
    });
  }

  /** Tells what was deleted, with the way back. */
  undoable(text: string, { event }: Undoable, again: () => Promise<void>): void {
    const undo = async () => {
      if (await this.change(() => this.do("library_undo", { event }))) await Promise.all([again(), this.search()]);
    };
    this.session.notify(text, "lasting", { label: "Undo", run: () => void undo() });
  }
}
