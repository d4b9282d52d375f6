import { words, type Intents } from "../connect/connector";
import type { Edit, LeftOut, ProbeRecipe, Prompt, State } from "../connect/wire";
import { pinnedIn } from "../lib/references";
import { isProbeEdit, METHOD, signature } from "../lib/probe";
import { toClipboard } from "../root/host";
import { bare } from "./session.svelte";
import type { App } from "./app.svelte";
import type { Shared } from "./hash";

/** A prompt's tokens, where its text alone would be read as others. */
const ownIds = (prompt: Prompt): { ids?: number[] } => (prompt.by_ids ? { ids: prompt.tokens.map(({ id }) => id) } : {});

/** The whole view as a link. edits: in place of those of the stack. */
export function shareLink(app: App, edits = app.session.edits.map(bare)): string {
  const state = app.session.state;
  const saved = state?.directions.find(({ name }) => name === app.shownSaved)?.library;
  app.view.current.selection = { layer: app.selected.row + app.streams.first, pos: app.selected.col };
  const dictionaries = state?.model?.dictionaries ?? [];
  const hash = app.view.link(
    state?.model && state.prompt
      ? {
          model: state.model.name,
          hash: state.model.hash,
          ...(state.other ? { other: state.other.name } : {}),
          prompt: state.prompt.text,
          bos: state.prompt.bos,
          ...ownIds(state.prompt),
          chat: state.prompt.chat ?? undefined,
          metric: state.metric?.chosen
            ? { positive: state.metric.positive.text, negative: state.metric.negative.text }
            : null,
          companion: state.companion ? { text: state.companion.text, bos: state.companion.bos, ...ownIds(state.companion) } : undefined,
          edits: pinnedIn(edits, dictionaries),
          probes: probesOf(state, edits),
        }
      : null,
    app.mixing.names,
  );
  return app.host.link(saved ? `?direction=${encodeURIComponent(saved)}` : "", hash);
}

const NO_ADDRESS = "A notebook's page has no address that others could open. Run wb.open() in a cell: it shows this session in a browser tab, and links lead there.";

/** A link to the view, on the clipboard; in a notebook once there is somewhere it leads. */
export async function copyLink(app: App, edits?: Edit[]): Promise<void> {
  if (app.host.linked) await copy(app, shareLink(app, edits), "Link copied");
  else app.session.notify(NO_ADDRESS, "error");
}

export async function copy(app: App, text: string, done: string): Promise<boolean> {
  try {
    await toClipboard(text);
    app.session.notify(done);
    return true;
  } catch {
    app.session.notify("The browser did not let the page copy; select the text and copy it by hand.", "error");
    return false;
  }
}

/** What the probes on the stack are fitted from. A file's text does not fit in a link. */
function probesOf({ probes }: State, edits: Edit[]): Shared["probes"] {
  const used = new Set(edits.map((edit) => (isProbeEdit(edit) ? edit.probe : "")));
  return probes.flatMap(({ name, data, site, position, label }) => (data && used.has(name) ? [{ name, data, site, position, label }] : []));
}

/** Fits what a link's edits need; answers whether there is nothing left to wait for. */
async function probesThere(app: App, state: State, shared: Shared): Promise<boolean> {
  const lacking = shared.probes.find((probe) => probe.data?.kind === "task" && !alike(state, probe));
  if (!lacking) return true;
  const { name: _, ...recipe } = lacking;
  const job = state.jobs?.findLast(({ method, args }) => method === METHOD && signature(args) === signature(recipe));
  if (job) return job.phase !== "waiting" && job.phase !== "running";
  return !(await app.session.accepted("start", { method: METHOD, args: recipe }));
}

/** The probe here that is of the same prompts, label and place: what a link calls it may be another's name here. */
function alike({ probes }: State, recipe: ProbeRecipe) {
  return probes.find((probe) => signature(probe) === signature(recipe));
}

/** A link's edits, with the probes' names here. One whose own is not here names none, and says so. */
function renamed(state: State, shared: Shared): Edit[] {
  return shared.edits.map((edit) => {
    if (!isProbeEdit(edit)) return edit;
    const recipe = shared.probes.find(({ name }) => name === edit.probe);
    const here = recipe && alike(state, recipe);
    if (here) return { ...edit, probe: here.name };
    const another = recipe && state.probes.some(({ name }) => name === edit.probe);
    return another ? { ...edit, probe: `${edit.probe}, of the link` } : edit;
  });
}

/** The model beside it, which a link's word loads only where the list offers it. */
async function restoreOther(app: App, state: State, name: string): Promise<void> {
  if (state.models.some((offer) => offer.name === name)) await app.session.send("set_other", { model: name });
  else app.session.notify(`This link compares with the model ${name}, which is not in the list here. Choose it under the model's name.`, "error");
}

export const nameOf = (edit: Edit): string =>
  [edit.kind, "site" in edit && edit.site, isProbeEdit(edit) && `of ${edit.probe}`].filter(Boolean).join(" ");

/** What the probe of an edit that is left out is fitted from, where the link says that. */
export function recipeOf({ part, index }: LeftOut, { edits, probes }: Shared): Shared["probes"][number] | undefined {
  const edit = part === "edits" ? edits[index] : null;
  return edit && isProbeEdit(edit) ? probes.find(({ name }) => name === edit.probe) : undefined;
}

/** Why a part of a link is left out: what the server cannot know is that a probe was fitted from a file, whose text does not fit in a link. */
export function whyNot(left: LeftOut, shared: Shared): string {
  const [recipe, { error }] = [recipeOf(left, shared), left];
  if (!recipe || recipe.data?.kind !== "file") return error.message;
  return `its probe was fitted from a file, ${recipe.data.name}, which a link does not carry. Fit ${recipe.name} from that file, then open the link again.`;
}

/** A part of a link that is left out, in words. */
export const partOf = ({ part, index }: LeftOut, { edits }: Shared): string => (part === "edits" ? `edit ${index + 1}, ${nameOf(edits[index])}` : `the ${part}`);

/** What a link carries for the session itself. */
const carried = ({ hash, prompt, bos, ids, chat, companion, metric }: Shared, edits: Edit[]): Intents["open_link"] => ({ hash, prompt, bos, ids, chat, companion, metric, edits });

/** Whether a link may be opened; where it would take the place of somebody's work, that is asked. A refused one is said, and let go. */
async function mayOpen(app: App, shared: Shared): Promise<boolean> {
  const { session, view } = app;
  if (view.agreed === shared) return true;
  try {
    const told = await session.connector.query("link", carried(shared, renamed(session.state!, shared)));
    if (view.shared !== shared) return false; // another address was opened meanwhile
    if (told.lost.length) view.asked = { shared, told };
    else view.agreed = shared;
  } catch (error) {
    session.notify(words(error), "error");
    view.shared = null;
  }
  return view.agreed === shared;
}

/** The link that is asked about is opened, or what is here stays and the link is let go. */
export function answer(app: App, open: boolean): void {
  if (!open) return app.travel("");
  app.view.agreed = app.view.asked?.shared ?? null;
  app.view.asked = null;
}

/**
 * Brings back what a link holds, once the model is there and whoever has work here agrees. A model is loaded on a link's word only where the catalog
 * offers it. Answers whether the link is dealt with.
 */
export async function restore(app: App, shared: Shared): Promise<boolean> {
  const { session } = app;
  const state = session.state;
  if (!state || state.status.phase === "loading") return false;
  if (!state.model) {
    if (state.models.some((offer) => offer.name === shared.model)) {
      await session.send("load_model", { name: shared.model });
      return false;
    }
    session.notify(`This link was made with the model ${shared.model}, which is not in the list here. Load it, then open the link again.`, "error");
    return true;
  }
  if (!(await mayOpen(app, shared)) || !(await probesThere(app, state, shared))) return false;
  const { name, hash } = state.model;
  const opened = await session.open(carried(shared, renamed(session.state ?? state, shared)));
  if (!opened) return true;
  for (const left of opened.left_out)
    session.notify(`Of the link ${partOf(left, shared)} is left out: ${whyNot(left, shared)}`, "error");
  if (shared.other) await restoreOther(app, state, shared.other);
  if (hash !== shared.hash)
    session.notify(
      `This link was made with another model: ${shared.model} (${shared.hash.slice(0, 8)}). Here it is ${name} (${hash.slice(0, 8)}), so numbers may differ.`,
      "error",
    );
  if (opened.lost.length) session.notify("The link is open. Undo (u) brings back what was here.", "lasting");
  return true;
}
