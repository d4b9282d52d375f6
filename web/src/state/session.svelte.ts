import { words, type Connection, type Connector, type IntentAnswers, type Intents } from "../connect/connector";
import type { Edit, Job, ModelInfo, Run, ShownEdit, State } from "../connect/wire";
import { Notices, type Notice } from "./notices.svelte";

const OTHERS_LINK = "A link was opened on another page of this session, and its prompt and edits are here now. Undo (u) brings back those before.";

/** A mirror of the server's session; everything that changes it is an intent. */
export class Session {
  state = $state.raw<State | null>(null);
  /** The number of the last news heard of the session. */
  heard = $state(0);
  /** Intents that are on their way. */
  asking = $state(0);
  connection = $state.raw<Connection>({ phase: "connecting" });
  readonly notices = new Notices();

  model: ModelInfo | null = $derived(this.state?.model ?? null);
  edits: ShownEdit[] = $derived(this.state?.edits ?? []);
  runs: Run[] = $derived(this.state?.runs ?? []);
  a: Run | null = $derived(this.run(this.state?.current.a));
  b: Run | null = $derived(this.run(this.state?.current.b));
  busy = $derived(this.state?.status.phase === "running" || this.state?.status.phase === "loading");
  /** The run looked at: B, or A where there is no B. */
  looked: Run | null = $derived(this.b ?? this.a);
  /** What is on screen answers an earlier question. */
  behind = $derived(!!this.looked && this.looked.version < (this.state?.version ?? 0));

  /** Another session answers now, whose runs have the names of those on screen: nothing that is held is of it. */
  replaced = $state(false);

  /** A link is being opened here. */
  private opening = false;
  private awaited = new Set<() => void>();

  constructor(readonly connector: Connector) {}

  start(): () => void {
    return this.connector.subscribe({
      state: (state, seq = 0) => {
        if (this.state && this.state.session !== state.session) this.replaced = true;
        if (this.replaced) return;
        const told = this.state?.notices ?? [];
        if (this.state && state.links.opened > this.state.links.opened && !this.opening) this.notify(OTHERS_LINK, "lasting");
        [this.state, this.heard] = [state, seq];
        for (const look of [...this.awaited]) look();
        for (const text of state.notices) if (!told.includes(text)) this.notify(text, "lasting");
      },
      connection: (connection) => (this.connection = connection),
    });
  }

  /** Until a job has ended, or its line is put away; null then. The news of a job may come after its number. grown: there is more to read of it. */
  ended(id: string, signal: AbortSignal, grown: () => void = () => {}): Promise<Job | null> {
    return new Promise((resolve, reject) => {
      let [seen, revision] = [false, 0];
      const stop = () => (this.awaited.delete(look), signal.removeEventListener("abort", left));
      const left = () => (stop(), reject(signal.reason));
      const look = () => {
        const job = this.state?.jobs?.find((other) => other.id === id) ?? null;
        const under = job?.phase === "waiting" || job?.phase === "running";
        if (under && job.revision > revision) ((revision = job.revision), grown());
        if (under || (!job && !seen)) seen ||= under;
        else (stop(), resolve(job));
      };
      this.awaited.add(look);
      signal.addEventListener("abort", left);
      if (signal.aborted) left();
      else look();
    });
  }

  /** Stops a job that nobody waits for any more; it may have ended. */
  drop(job: string): void {
    if (job) this.intent("cancel", { job }).catch(() => {});
  }

  private run(id: string | null | undefined): Run | null {
    return this.runs.find((run) => run.id === id) ?? null;
  }

  notify(text: string, kind?: Notice["kind"], action?: Notice["action"]): void {
    this.notices.notify(text, kind, action);
  }

  /** Sends an intent; a refusal is thrown. */
  async intent<N extends keyof Intents>(name: N, args?: Intents[N]): Promise<IntentAnswers[N]> {
    this.asking += 1;
    try {
      return await this.connector.intent(name, args);
    } finally {
      this.asking -= 1;
    }
  }

  /** Sends an intent; a refusal is shown in the server's words and answers undefined. */
  async send<N extends keyof Intents>(intent: N, args?: Intents[N]): Promise<IntentAnswers[N] | undefined> {
    try {
      return await this.intent(intent, args);
    } catch (error) {
      this.notify(words(error), "error");
      return undefined;
    }
  }

  /** The same, answering whether it was accepted. */
  async accepted<N extends keyof Intents>(intent: N, args: Intents[N]): Promise<boolean> {
    return this.intent(intent, args).then(
      () => true,
      (error: unknown) => {
        this.notify(words(error), "error");
        return false;
      },
    );
  }

  /** Answers whether the prompt was accepted. */
  async setPrompt(text: string, bos: boolean | null = null): Promise<boolean> {
    mark("residscope:prompt-sent");
    const accepted = await this.accepted("set_prompt", bos === null ? { text } : { text, bos });
    if (accepted) this.notices.clearErrors();
    return accepted;
  }

  /** Opens what a link carries, as one step of the history. */
  async open(link: Intents["open_link"]): Promise<IntentAnswers["open_link"] | undefined> {
    this.opening = true;
    const opened = await this.send("open_link", link);
    this.opening = false;
    return opened;
  }

  setEdits(edits: ShownEdit[]): Promise<unknown> {
    return this.send("set_edits", { edits: edits.map(bare) });
  }

  changeEdit(id: string, change: (edit: ShownEdit) => ShownEdit): Promise<unknown> {
    return this.setEdits(this.edits.map((edit) => (edit.id === id ? change(edit) : edit)));
  }

  removeEdit(id: string): Promise<unknown> {
    return this.setEdits(this.edits.filter((edit) => edit.id !== id));
  }

  moveEdit(from: number, to: number): Promise<unknown> {
    const edit = this.edits[from];
    if (!edit || to < 0 || to >= this.edits.length || to === from) return Promise.resolve();
    return this.setEdits(this.edits.toSpliced(from, 1).toSpliced(to, 0, edit));
  }
}

/** The edit without what the server adds for showing it. */
export function bare(edit: ShownEdit): Edit {
  const { label: _label, glyph: _glyph, beside: _beside, slider: _slider, at: _at, delta: _delta, inert: _inert, error: _error, ...rest } = edit;
  return rest as Edit;
}

const MOST_MARKS = 500;

/** A time a benchmark may read; old ones go so that a long session does not gather them. */
export function mark(name: string, detail?: unknown): void {
  if (performance.getEntriesByName(name).length > MOST_MARKS) performance.clearMarks(name);
  performance.mark(name, { detail });
}
