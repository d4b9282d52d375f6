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
  error = $state("");

  constructor(private session: Session) {}

  async load(): Promise<void> {
    try {
      const manifest = await this.session.connector.query("manifest");
      this.edits = manifest.edits as EditSchema[]; // what fields say of themselves is theirs: forms read what they know of it
      this.methods = (manifest.methods ?? []) as MethodSchema[];
      this.tasks = manifest.tasks ?? [];
      this.broken = manifest.broken ?? {};
    } catch (error) {
      this.error = words(error);
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
