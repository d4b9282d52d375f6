import { family, nearest, placeOf } from "../lib/dictionaries";
import { cost, emptyForm, fitArgs, isRefused, remaining, sitesFor, USUAL_N, type FitForm, type TextForm } from "../lib/fit";
import type { Kind } from "../connect/wire";
import type { Mixing } from "./mixing.svelte";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

/** Fitting dictionaries from the page: the form, how far the fit is, and what it brings. */
export class Fitting {
  form: FitForm = $state(emptyForm());
  /** Why the form cannot be sent. */
  refused = $state("");
  private began = 0;
  private before: Set<string> | null = null;

  fit = $derived.by(() => this.session.state?.fit ?? null);
  busy = $derived(!!this.fit && !this.fit.error);
  cost = $derived.by(() => (this.session.model ? cost(this.form, this.session.model) : ""));
  sites = $derived.by(() => (this.session.model ? sitesFor(this.form.method, this.session.model) : []));
  site = $derived.by(() => this.sites.find(({ name }) => name === this.form.site) ?? null);
  left = $derived.by(() => (this.fit && this.began ? remaining(this.fit.progress, (performance.now() - this.began) / 1000) : ""));

  constructor(
    private session: Session,
    private view: ViewStore,
    private mixing: Mixing,
  ) {}

  choose(method: Kind): void {
    const form = this.form;
    form.method = method;
    form.n = USUAL_N[method] ?? form.n;
    if (!this.sites.some(({ name }) => name === form.site)) {
      form.site = method === "nmf" ? "mlp_post" : "resid_post";
      form.layer = Number(this.mixing.dictionary?.site.split(".")[1] ?? 0);
    }
    this.refused = "";
  }

  /** Reads a text file here; what goes to the server is its text. */
  async open(which: "text" | "second", file: File): Promise<void> {
    if (!/\.(txt|jsonl)$/i.test(file.name)) {
      this.refused = `${file.name} is neither .txt (paragraphs) nor .jsonl (a "text" on each line)`;
      return;
    }
    const text: TextForm = this.form[which];
    text.file = { name: file.name, text: await file.text() };
    text.kind = "file";
    this.refused = "";
  }

  async start(): Promise<void> {
    const model = this.session.model;
    if (!model) return;
    const args = fitArgs($state.snapshot(this.form) as FitForm, model);
    this.refused = isRefused(args) ? `${args.why}.` : "";
    if (isRefused(args)) return;
    this.before = new Set(model.dictionaries.map(({ id }) => id));
    this.began = performance.now();
    if (!(await this.session.accepted("fit", { ...args }))) this.before = null;
  }

  cancel(): void {
    this.before = null;
    void this.session.send("cancel_fit");
  }

  forget(id: string): void {
    void this.session.send("forget_dictionary", { id });
  }

  /** Call from an effect: what was fitted from here is looked at once it is there. */
  follow(): void {
    const { before, fit } = this;
    const found = this.session.model?.dictionaries ?? [];
    if (!before || this.busy) return;
    if (fit?.error) {
      this.before = null;
      return;
    }
    const fresh = found.filter(({ id }) => !before.has(id));
    if (!fresh.length) return;
    this.before = null;
    const next = nearest(fresh, family(fresh[0]), this.mixing.dictionary) ?? fresh[0];
    this.mixing.choose(next.id);
    if (fresh.length === 1) this.view.pickComponent(0);
    this.session.notify(fresh.length === 1 ? `Fitted: ${placeOf(next)}` : `Fitted at ${fresh.length} places`);
  }
}
