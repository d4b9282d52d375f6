import { words } from "../connect/connector";
import type { EditSchema, MethodSchema, Values } from "../lib/forms";
import type { Session } from "./session.svelte";

export interface TaskSchema {
  id: string;
  title: string;
  about: string;
  /** Of its own, those that a form begins with; "" for none in particular. */
  label: string;
  position: string;
  /** Whether sentences may come before each prompt. */
  prefixes: boolean;
}

interface Manifest {
  edits: EditSchema[];
  methods: MethodSchema[];
  tasks: TaskSchema[];
  broken: Record<string, string>;
}

/** What Python declares: every kind of edit, every method, the tasks. Asked once. */
export class ManifestStore {
  edits: EditSchema[] = $state.raw([]);
  methods: MethodSchema[] = $state.raw([]);
  tasks: Manifest["tasks"] = $state.raw([]);
  /** Plugins that could not be imported, and why. */
  broken: Record<string, string> = $state.raw({});
  error = $state("");

  constructor(private session: Session) {}

  async load(): Promise<void> {
    try {
      const manifest = await this.session.connector.query<Manifest>("manifest");
      this.edits = manifest.edits;
      this.methods = manifest.methods ?? [];
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
