import { words } from "../connect/connector";
import { lacking, sent, type MethodSchema, type Values } from "../lib/forms";
import { initial, type ManifestStore } from "./manifest.svelte";
import type { Session } from "./session.svelte";

/** A method being asked for: which, its form, its price, and the job that it becomes. */
export class Call {
  /** The method whose form is open. */
  chosen = $state("");
  /** What each form holds, by method. */
  forms: Record<string, Values> = $state({});
  cost: number | null = $state(null);
  refused = $state("");
  private priced = "";

  /** The methods there are to choose among. */
  methods: MethodSchema[] = $derived.by(() => this.among(this.manifest.methods));
  schema: MethodSchema | null = $derived.by(() => this.methods.find(({ id }) => id === (this.chosen || this.usual())) ?? this.methods[0] ?? null);
  values: Values | null = $derived.by(() => (this.schema ? (this.forms[this.schema.id] ?? null) : null));
  missing = $derived.by(() => (this.schema && this.values ? lacking(this.schema, this.values, this.session.model) : ""));

  constructor(
    protected session: Session,
    protected manifest: ManifestStore,
  ) {}

  protected among(methods: MethodSchema[]): MethodSchema[] {
    return methods;
  }

  /** The method whose form is open until another is chosen. */
  protected usual(): string {
    return "";
  }

  /** Call from an effect: a form begins with what its method takes unless said. */
  begin(): void {
    const { schema } = this;
    if (schema && !this.forms[schema.id]) this.forms[schema.id] = initial(schema);
  }

  choose(id: string): void {
    this.chosen = id;
    this.refused = "";
  }

  protected args(): Values {
    return this.schema && this.values ? sent(this.schema, $state.snapshot(this.values), this.session.model) : {};
  }

  /** Call from an effect: what the form would take, once it rests. */
  followCost(): (() => void) | undefined {
    const { schema, missing } = this;
    const key = JSON.stringify([schema?.id, this.values, this.session.state?.prompt?.text, this.session.model?.hash]);
    if (!schema || missing || key === this.priced) return;
    const timer = setTimeout(() => {
      this.priced = key;
      this.session.connector.query("cost", { method: schema.id, args: this.args() }).then(
        ({ seconds }) => this.priced === key && ([this.cost, this.refused] = [seconds, ""]),
        (error: unknown) => this.priced === key && ([this.cost, this.refused] = [null, words(error)]),
      );
    }, 350);
    return () => clearTimeout(timer);
  }

  /** Asks for it; the job's id, or nothing where it was refused. */
  protected async ask(): Promise<string | undefined> {
    if (!this.schema || this.missing) return;
    const answer = await this.session.send("start", { method: this.schema.id, args: this.args() });
    return answer?.job;
  }
}
