import type { Edit, NamedStack } from "../connect/wire";
import { words } from "../connect/connector";
import { download } from "../root/host";
import type { App } from "./app.svelte";
import { copyLink } from "./share";

/** Stacks of edits under names: saved by the session, put back as one step. */
export class Stacks {
  all: NamedStack[] = $derived.by(() => this.app.session.state?.stacks ?? []);
  constructor(private app: App) {}

  private get session() {
    return this.app.session;
  }

  /** Answers whether it was taken; one of that name makes way, and can be brought back. */
  async save(name: string): Promise<boolean> {
    const known = this.all.find((stack) => stack.name === name.trim());
    const before = known ? await this.edits(known.name) : null;
    const taken = await this.session.accepted("save_stack", { name, replace: !!known });
    if (taken && before) this.session.notify(`${known!.name} was saved anew.`, undefined, this.bringBack(known!.name, before));
    return taken;
  }

  /** In place of the live stack; what cannot be had here is named. */
  async load(name: string): Promise<void> {
    const edits = await this.edits(name);
    if (!edits) return;
    const answer = await this.session.send("set_edits", { edits, skip_refused: true });
    for (const { index, error } of answer?.refused ?? []) this.session.notify(`Edit ${index + 1} of ${name} is left out: ${error.message}`, "error");
  }

  rename(name: string, to: string): Promise<boolean> {
    return this.session.accepted("rename_stack", { name, to });
  }

  async remove(name: string): Promise<void> {
    const edits = await this.edits(name);
    if (edits && (await this.session.accepted("delete_stack", { name }))) this.session.notify(`${name} was deleted.`, "lasting", this.bringBack(name, edits));
  }

  /** name: null is the live one. */
  async link(name: string): Promise<void> {
    const edits = await this.edits(name);
    if (edits) await copyLink(this.app, edits);
  }

  async file(name: string | null): Promise<void> {
    try {
      const { json } = await this.session.connector.query("stack_json", { name });
      download(new Blob([json], { type: "application/json" }), `${(name ?? "edits").replace(/[^\w.-]+/g, "-")}.json`);
    } catch (error) {
      this.session.notify(words(error), "error");
    }
  }

  async take(files: FileList | null): Promise<void> {
    for (const file of files ?? []) await this.session.accepted("import_stack", { text: await file.text() });
  }

  private bringBack(name: string, edits: Edit[]) {
    return { label: "Bring it back", run: () => void this.session.send("save_stack", { name, edits, replace: true }) };
  }

  private async edits(name: string): Promise<Edit[] | null> {
    try {
      return (await this.session.connector.query("stack", { name })).edits as Edit[];
    } catch (error) {
      this.session.notify(words(error), "error");
      return null;
    }
  }
}
