import { words } from "../connect/connector";
import type { Covariance, Job, ProbeChoices, ProbeData, ProbeDetail, ProbeInfo, ProbeReading, ProbeRecipe, Run, ShownEdit } from "../connect/wire";
import { aimOf, axisClass, editOf, isProbeEdit, landing, margin, METHOD, readTable, signature, sureOf, towards, type Aim, type Method } from "../lib/probe";
import type { ManifestStore, TaskSchema } from "./manifest.svelte";
import { bare, type Session } from "./session.svelte";
import { ProbeStudy } from "./study.svelte";

/** What is asked for in the form. label, position: "" for the task's own. */
export interface Form {
  /** A task; "" for a file of the reader's own; null for the usual one. */
  source: string | null;
  n: number;
  seed: number;
  prefixes: boolean;
  kind: string;
  layer: number;
  position: string;
  label: string;
}

/** Kinds of site that a probe is offered; the model may lack some. */
const KINDS = ["resid_pre", "resid_mid", "attn_out", "mlp_out"];
/** Over half way up is where SmolLM2's order is both readable and used. */
const USUAL_DEPTH = 0.6;
const USUAL_TASK = "ioi";
const PAUSE = 250;
const MOST_CLASSES = 12;

/** The Probe tab: what to fit, the probe that is shown, and where its target is. */
export class ProbeStore {
  form: Form = $state({ source: null, n: 120, seed: 0, prefixes: false, kind: "resid_mid", layer: -1, position: "", label: "" });
  file: { name: string; text: string } | null = $state.raw(null);
  choices: ProbeChoices | null = $state.raw(null);
  /** Why the data cannot be read. */
  refused = $state("");
  /** What a fit would take, in seconds; or why there can be none. */
  cost: number | null = $state(null);
  declined = $state("");
  detail: ProbeDetail | null = $state.raw(null);
  private fetched: { probe: string; reading: ProbeReading } | null = $state.raw(null);
  error = $state("");
  /** Tokens chosen by hand, by prompt and named position. */
  private placed: Record<string, number> = $state({});
  private placeKey = $derived.by(() => {
    const prompt = this.session.state?.prompt;
    return JSON.stringify([prompt?.text, prompt?.bos, this.shown?.position]);
  });
  method: Method = $state("lrqp");
  covariance: Covariance = $state("total");
  /** What the slider is at while it is held. */
  private dragged: number | null = $state(null);
  private chosen = $state("");
  /** Fits asked for from here: a newer one stops the others. */
  private mine: string[] = [];
  private wantedData = "";
  private wantedCost = "";
  private wantedDetail = "";
  private wantedReading = "";

  kinds = $derived.by(() => {
    const sites = new Map(this.session.model?.sites.map((site) => [site.name, site.absent]));
    return KINDS.filter((kind) => !sites.size || sites.get(kind) === null);
  });
  layer = $derived.by(() => {
    const layers = this.session.model?.n_layers ?? 1;
    return this.form.layer < 0 ? Math.round(USUAL_DEPTH * layers) : Math.min(this.form.layer, layers - 1);
  });
  kind = $derived(this.kinds.includes(this.form.kind) ? this.form.kind : (this.kinds[0] ?? "resid_pre"));
  tasks: TaskSchema[] = $derived.by(() => this.manifest.tasks);
  source = $derived.by(() => this.form.source ?? (this.tasks.find(({ id }) => id === USUAL_TASK) ?? this.tasks[0])?.id ?? "");
  /** The task that is chosen; null for a file. */
  task: TaskSchema | null = $derived.by(() => this.tasks.find(({ id }) => id === this.source) ?? null);
  label = $derived.by(() => this.form.label || (this.task?.label ?? ""));
  position = $derived.by(() => this.form.position || (this.task?.position ?? ""));
  data: ProbeData | null = $derived.by(() => {
    const { task, form, file } = this;
    if (task) return { kind: "task", task: task.id, n: form.n, seed: form.seed, prefixes: task.prefixes && form.prefixes };
    return this.source === "" && file ? { kind: "file", ...file } : null;
  });
  recipe: ProbeRecipe | null = $derived.by(() =>
    this.data && this.label && this.position
      ? { data: this.data, site: `${this.kind}.${this.layer}`, position: this.position, label: this.label }
      : null,
  );
  probes: ProbeInfo[] = $derived.by(() => (this.session.state?.probes ?? []).filter(({ mapped }) => mapped !== "none"));
  private jobs: Job[] = $derived.by(() => (this.session.state?.jobs ?? []).filter(({ method }) => method === METHOD));
  /** The fit under way, or what went wrong last. */
  job: Job | null = $derived.by(() => {
    const last = this.jobs.at(-1);
    const wrong = last?.phase === "failed" || (last?.phase === "done" && last.note) ? last : null;
    return this.jobs.find(({ phase }) => phase === "running") ?? this.jobs.find(({ phase }) => phase === "waiting") ?? wrong ?? null;
  });
  /** The live prompt's own unedited run: A may be another. */
  base: Run | null = $derived.by(() => {
    const { runs, state } = this.session;
    const own = runs.filter((run) => !run.edits && run.prompt === state?.prompt?.text);
    return own.find((run) => run.version === state?.version) ?? own.at(-1) ?? null;
  });
  shown: ProbeInfo | null = $derived(this.probes.find((probe) => probe.name === this.chosen) ?? this.probes.at(-1) ?? null);
  /** What it reads here: not of the prompt, the token or the probe before. */
  reading: ProbeReading | null = $derived.by(() => {
    const { probe, reading } = this.fetched ?? {};
    if (!reading || probe !== this.shown?.name || reading.run !== this.base?.id) return null;
    return reading.pos === (this.pos ?? reading.place) ? reading : null;
  });
  /** Where the probe's position stands here, if a person has said it. */
  pos: number | null = $derived.by(() => this.placed[this.placeKey] ?? null);
  /** Where it stands in this prompt by the probe's own data; null where the prompt is none of them, undefined until that is known. */
  place: number | null | undefined = $derived.by(() => {
    const { probe, reading } = this.fetched ?? {};
    return reading && probe === this.shown?.name && reading.run === this.base?.id ? reading.place : undefined;
  });
  /** The form asks for something else than what is shown. */
  stale = $derived.by(() => !!this.shown && !!this.recipe && signature(this.recipe) !== signature(this.shown));
  /** The edits on the stack that are made from it. */
  private own: ShownEdit[] = $derived.by(() => this.session.edits.filter((edit) => isProbeEdit(edit) && edit.probe === this.shown?.name));
  /** The one at the token that is read. */
  edit = $derived.by(() => this.own.findLast(({ pos }) => !!this.reading && [pos].flat().includes(this.reading.pos)) ?? null);
  /** One that acts elsewhere: at another token, or at one of another prompt. */
  stray = $derived.by(() => (this.edit ? null : (this.own.at(-1) ?? null)));
  /** It is on the stack, acts at this token and is switched on: what is said of an edit is said of this one. */
  acts = $derived.by(() => !!this.edit?.enabled && !this.edit.error);
  /** How many edits act beside it. */
  beside = $derived.by(() => this.session.edits.filter(({ id, enabled }) => enabled && id !== this.edit?.id).length);
  /** What the edit on the stack asks for; without one, the other class than the prompt reads as. */
  private settled: Aim = $derived.by(() => {
    const classes = this.shown?.classes ?? [];
    const reads = this.reading ? this.reading.log_prob.indexOf(Math.max(...this.reading.log_prob)) : 0;
    const to = classes[reads === 0 ? 1 : 0] ?? "";
    const other: Aim = { method: this.method, covariance: this.covariance, to, target: (axisClass(classes, to) === to ? 1 : -1) * sureOf(classes, to, this.reading) };
    return this.edit && isProbeEdit(this.edit) ? aimOf(this.edit, classes, this.reading, other) : other;
  });
  aim: Aim = $derived.by(() => {
    const { shown, reading } = this;
    if (this.dragged === null || !shown || !reading) return this.settled;
    const to = this.settled.to === "neutral" ? shown.classes[0] : this.settled.to;
    const aim = { ...this.settled, to, target: this.dragged };
    return { ...aim, to: towards(shown.classes, this.now ?? 0, aim) };
  });
  /** The class whose log-odds the histogram shows. */
  of = $derived(this.shown ? axisClass(this.shown.classes, this.aim.to) : "");
  now: number | null = $derived.by(() =>
    this.shown && this.reading ? margin(this.reading.log_prob, this.shown.classes.indexOf(axisClass(this.shown.classes, this.settled.to))) : null,
  );
  landing = $derived.by(() => (this.shown && this.reading ? landing(this.reading, this.shown.classes, this.aim) : null));

  /** The target is held, or on its way to the session. */
  moving = $derived(this.dragged !== null);

  /** What is asked for where no edit says it. */
  asked: Aim = $derived.by(() => ({ ...this.settled, method: this.method, covariance: this.covariance }));
  readonly study: ProbeStudy;

  constructor(
    private session: Session,
    private manifest: ManifestStore,
  ) {
    this.study = new ProbeStudy(session, this);
  }

  /** Call from an effect: which labels and positions the form's data has. */
  followData(): void {
    const data = this.data;
    const key = this.session.model ? `${this.session.model.hash}|${JSON.stringify(data)}` : "";
    if (key === this.wantedData) return;
    this.wantedData = key;
    if (!data || !key) {
      [this.choices, this.refused] = [null, ""];
      return;
    }
    setTimeout(() => {
      if (this.wantedData !== key) return;
      this.session.connector.query("read_data", { data: $state.snapshot(data) }).then(
        (choices) => this.wantedData === key && this.choose(choices),
        (error: unknown) => {
          if (this.wantedData === key) [this.choices, this.refused] = [null, words(error)];
        },
      );
    }, PAUSE);
  }

  /** A label and a position that this data has: what was chosen, the task's own, or the first that a probe can be fitted to. */
  private choose(choices: ProbeChoices): void {
    [this.choices, this.refused] = [choices, ""];
    const labels = choices.labels.map(({ name }) => name);
    const positions = choices.positions.map(({ name }) => name);
    if (!labels.includes(this.label)) {
      const fit = choices.labels.find(({ classes }) => classes > 1 && classes <= MOST_CLASSES);
      this.form.label = [this.task?.label, fit?.name, labels[0]].find((name) => name && labels.includes(name)) ?? "";
    }
    if (!positions.includes(this.position)) {
      const whole = choices.positions.find(({ lacking }) => !lacking);
      this.form.position = [this.task?.position, whole?.name].find((name) => name && positions.includes(name)) ?? "";
    }
  }

  /** Other prompts: their own label and position, unless they have those that are chosen. */
  choosePrompts(source: string): void {
    this.form.source = source;
    [this.form.label, this.form.position] = ["", ""];
  }

  /** Call from an effect: what the fit that is asked for would take. */
  followCost(): (() => void) | undefined {
    const { recipe, choices } = this;
    const key = recipe && choices && this.session.model ? `${this.session.model.hash}|${JSON.stringify(recipe)}` : "";
    if (key === this.wantedCost) return;
    if (!recipe || !key) {
      [this.wantedCost, this.cost, this.declined] = ["", null, ""];
      return;
    }
    const timer = setTimeout(() => {
      this.wantedCost = key;
      this.session.connector.query("cost", { method: METHOD, args: $state.snapshot(recipe) }).then(
        ({ seconds }) => this.wantedCost === key && ([this.cost, this.declined] = [seconds, ""]),
        (error: unknown) => this.wantedCost === key && ([this.cost, this.declined] = [null, words(error)]),
      );
    }, PAUSE);
    return () => clearTimeout(timer);
  }

  /** Call from an effect: the pictures of the probe that is shown. */
  followDetail(): void {
    const { shown } = this;
    const key = shown ? `${this.session.model?.hash}|${shown.name}|${shown.revision}` : "";
    if (key === this.wantedDetail) return;
    this.wantedDetail = key;
    if (!shown) {
      [this.detail, this.fetched] = [null, null];
      return;
    }
    this.session.connector.query("probe", { name: shown.name }).then(
      (detail) => this.wantedDetail === key && ([this.detail, this.error] = [detail, ""]),
      (error: unknown) => this.wantedDetail === key && (this.error = words(error)),
    );
  }

  /** Call from an effect: what it reads in the unedited prompt. */
  followReading(): void {
    const { shown, base: a } = this;
    const key = shown && a ? `${shown.name}|${a.id}|${this.pos}` : "";
    if (!key || key === this.wantedReading || !shown || !a) return;
    this.wantedReading = key;
    const asked = { name: shown.name, run: a.id, pos: this.pos ?? 0, named: this.pos === null };
    this.session.connector.query("probe_reading", asked).then(
      (reading) => this.wantedReading === key && ([this.fetched, this.error] = [{ probe: shown.name, reading }, ""]),
      (error: unknown) => this.wantedReading === key && ([this.fetched, this.error] = [null, words(error)]),
    );
  }

  async fit(): Promise<void> {
    if (this.recipe) await this.start($state.snapshot(this.recipe) as ProbeRecipe);
  }

  /** The same label of the same prompts read elsewhere: the form asks for that then. */
  async fitAt(site: string, position: string): Promise<void> {
    const { shown } = this;
    if (!shown) return;
    const data = await this.dataOf(shown);
    if (!data) return this.session.notify("The prompts of that probe are not known any more: choose them, and press Fit.", "error");
    const [kind, layer] = site.split(".");
    if (data.kind === "task") Object.assign(this.form, { source: data.task, n: data.n, seed: data.seed, prefixes: data.prefixes });
    if (data.kind === "file") [this.form.source, this.file] = ["", { name: data.name, text: data.text ?? "" }];
    Object.assign(this.form, { kind, layer: Number(layer ?? 0), position, label: shown.label });
    await this.start({ data, site, position, label: shown.label });
  }

  /** The prompts of a probe, a file with its text. */
  private async dataOf({ data, item }: ProbeInfo): Promise<ProbeData | null> {
    if (data?.kind !== "file") return data;
    if (!item) return this.file?.name === data.name ? { kind: "file", ...this.file } : null;
    const kept = await this.session.connector.query("item", { name: item }).catch(() => null);
    return (kept?.args.data as ProbeData | undefined) ?? null;
  }

  private async start(recipe: ProbeRecipe): Promise<void> {
    const there = await this.there(recipe);
    if (there) return this.show(there.name);
    for (const { id, phase } of this.jobs)
      if (this.mine.includes(id) && (phase === "running" || phase === "waiting")) await this.session.send("cancel", { job: id });
    const started = await this.session.send("start", { method: METHOD, args: recipe });
    if (!started) return;
    this.mine = [...this.mine, started.job];
    this.show("");
  }

  /** The probe of this recipe that is mapped already, a file's text compared too. */
  private async there(recipe: ProbeRecipe): Promise<ProbeInfo | null> {
    for (const probe of this.probes) {
      if (probe.mapped !== "whole" || !probe.item || signature(probe) !== signature(recipe)) continue;
      if (recipe.data.kind === "task") return probe;
      const data = await this.dataOf(probe);
      if (data?.kind === "file" && recipe.data.kind === "file" && data.text === recipe.data.text) return probe;
    }
    return null;
  }

  /** Stops what is under way, or is done with what went wrong. */
  async cancel(): Promise<void> {
    if (this.job) await this.session.send("cancel", { job: this.job.id });
  }

  show(name: string): void {
    this.chosen = name;
    this.dragged = null;
  }

  async openFile(file: File): Promise<void> {
    try {
      this.file = { name: file.name, text: readTable(file.name, new Uint8Array(await file.arrayBuffer())) };
      this.choosePrompts("");
    } catch (error) {
      [this.file, this.refused, this.choices] = [null, words(error), null];
    }
  }

  /** Says which token of the live prompt is the probe's position; null: its own data do. */
  setPlace(pos: number | null): void {
    if (pos === null || pos === this.place) delete this.placed[this.placeKey];
    else this.placed[this.placeKey] = pos;
    this.dragged = null;
  }

  /** The edit that acts elsewhere, here. */
  async moveHere(): Promise<void> {
    const { stray, reading } = this;
    if (!stray || !reading) return;
    await this.session.changeEdit(stray.id, (edit) => ({ ...edit, pos: [reading.pos] }));
  }

  /** Moves the target: nothing is asked of the server. */
  drag(target: number): void {
    this.dragged = target;
  }

  /** Puts the edit that is aimed at on the stack, or changes the one that is there. */
  async apply(change: Partial<Aim> = {}): Promise<void> {
    const { shown, reading } = this;
    if (!shown || !reading) return;
    const aim = { ...this.aim, ...change };
    [this.method, this.covariance] = [aim.method, aim.covariance];
    const made = editOf(shown, reading, aim);
    if (!made) {
      this.session.notify(`No dose along the normal of ${aim.to} brings the probe there: its step leads away. Choose LRQP, which can.`, "error");
    } else if (this.edit) {
      const { id, enabled } = this.edit;
      await this.session.send("set_edits", { edits: this.session.edits.map((edit) => (edit.id === id ? { ...made, id, enabled } : bare(edit))) });
    } else {
      await this.session.send("add_edit", { edit: made });
    }
    this.dragged = null;
  }

  /** The target that makes the probe as sure of a class as it is of what it reads, and at least e^10. */
  sureOf(to: string): { target: number } {
    const classes = this.shown?.classes ?? [];
    return { target: (axisClass(classes, to) === to ? 1 : -1) * sureOf(classes, to, this.reading) };
  }

  /** Another way to the same target; an edit on the stack follows. */
  async chooseMethod(method: Method): Promise<void> {
    this.method = method;
    const to = method === "constant_dose" && this.aim.to === "neutral" ? (this.shown?.classes[0] ?? "") : this.aim.to;
    if (this.edit) await this.apply({ method, to });
  }

  async chooseCovariance(covariance: Covariance): Promise<void> {
    this.covariance = covariance;
    if (this.edit) await this.apply({ covariance });
  }

  async remove(): Promise<void> {
    if (this.edit) await this.session.removeEdit(this.edit.id);
  }

  /** Opens one of its own prompts, by its number in its data. */
  async open(row: number): Promise<void> {
    if (!this.shown) return;
    try {
      await this.use(await this.session.connector.query("probe_prompt", { name: this.shown.name, row }));
    } catch (error) {
      this.session.notify(words(error), "error");
    }
  }

  /** Makes one of its own prompts the live one, with that prompt's answers. */
  async use(example: ProbeDetail["examples"][number]): Promise<void> {
    for (const key of Object.keys(this.placed)) if (JSON.parse(key)[0] === example.text) delete this.placed[key];
    const rest = this.session.edits.filter((edit) => !this.own.includes(edit));
    if (rest.length !== this.session.edits.length) await this.session.setEdits(rest);
    if (!(await this.session.setPrompt(example.text)) || !example.answers) return;
    const [positive, negative] = example.answers;
    await this.session.send("set_metric", { positive, negative });
  }
}

