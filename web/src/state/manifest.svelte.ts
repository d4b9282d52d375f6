import { words } from "../connect/connector";
import type { TaskForm } from "../connect/wire";
import type { EditSchema, MethodSchema, Values } from "../lib/forms";
import type { Session } from "./session.svelte";

export type TaskSchema = TaskForm;

/** What Python declares: every kind of edit, every method, the tasks. Asked once. */
export class ManifestStore {
  edits: EditSchema[] = $state.raw([]);
  methods: MethodSchema[] = $state.raw([]);
  tasks: TaskSchema[] = $state.raw([]);
  /** Plugins that could not be imported, and why. */
  broken: Record<string, string> = $state.raw({});
  /** The glossary's word for each thing that shows terms, as `method:pca`. */
  words: Record<string, string> = $state.raw({});
  error = $state("");

  private asking: Promise<void> | null = null;

  constructor(private session: Session) {}

  /** Until it is here, however often it is asked for. */
  load(): Promise<void> {
    return (this.asking ??= this.ask());
  }

  private async ask(): Promise<void> {
    try {
      const manifest = await this.session.connector.query("manifest");
      this.edits = manifest.edits as EditSchema[]; // what fields say of themselves is theirs: forms read what they know of it
      this.methods = (manifest.methods ?? []) as MethodSchema[];
      this.tasks = manifest.tasks ?? [];
      this.broken = manifest.broken ?? {};
      this.words = manifest.words ?? {};
    } catch (error) {
      [this.asking, this.error] = [null, words(error)];
    }
  }

  edit(kind: string): EditSchema | null {
    return this.edits.find(({ id }) => id === kind) ?? null;
  }
}

/** The values a form begins with. */
export function initial(schema: { properties: EditSchema["properties"] }): Values {
  return Object.fromEntries(Object.entries(schema.properties).map(([name, property]) => [name, property.default ?? null]));
}
