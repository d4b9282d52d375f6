import { words } from "../connect/connector";
import type { EditSchema, Values } from "../lib/forms";
import type { Session } from "./session.svelte";

interface Task {
  id: string;
  title: string;
  about: string;
}

interface Manifest {
  edits: EditSchema[];
  tasks: Task[];
}

/** What Python declares: every kind of edit, every task. Asked once. */
export class ManifestStore {
  edits: EditSchema[] = $state.raw([]);
  tasks: Task[] = $state.raw([]);
  error = $state("");

  constructor(private session: Session) {}

  async load(): Promise<void> {
    try {
      const manifest = await this.session.connector.query<Manifest>("manifest");
      this.edits = manifest.edits;
      this.tasks = manifest.tasks;
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
