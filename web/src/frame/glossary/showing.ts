import type { App } from "../../state/app.svelte";
import { initial } from "../../state/manifest.svelte";
import { TABS } from "../../tabs/tabs";

/** Where the page shows a term, on the prompt at hand. */
export interface Way {
  label: string;
  /** Why it cannot be followed now; empty where it can. */
  missing: string;
  run(): void;
}

/** Sites that another tab than the map shows best. */
const TAB_OF: Record<string, string> = { pattern: "heads", scores: "heads", logits: "lens", final_norm: "lens", final_scale: "lens" };

function toTab(app: App, id: string): void {
  app.view.current.tab = id;
}

function ofTab(app: App, id: string): Way | null {
  const tab = TABS.find((one) => one.id === id);
  return tab ? { label: `The tab ${tab.label}`, missing: "", run: () => toTab(app, id) } : null;
}

function toMethod(app: App, id: string): void {
  app.jobs.choose(id);
  toTab(app, "methods");
}

function ofMethod(app: App, id: string): Way | null {
  const schema = app.manifest.methods.find((one) => one.id === id);
  return schema ? { label: `The method “${schema.title}”`, missing: "", run: () => toMethod(app, id) } : null;
}

function ofGroup(app: App, group: string): Way | null {
  const first = app.manifest.methods.find((one) => one.group === group);
  return first ? { label: `Methods of ${group}`, missing: "", run: () => toMethod(app, first.id) } : null;
}

/** What an edit's form can take from what is selected: its place, and the direction on screen. */
function here(app: App, id: string): Record<string, unknown> {
  const { properties } = app.manifest.edit(id)!;
  const values: Record<string, unknown> = {};
  const only = properties.site?.only;
  if (properties.site?.kind === "site" && (!only?.length || only.includes(app.site.split(".")[0]))) values.site = app.site;
  if (properties.pos?.kind === "positions") values.pos = [app.selected.col];
  if (properties.direction?.kind === "direction" && app.directions.ref) values.direction = app.directions.ref;
  return values;
}

function ofEdit(app: App, id: string): Way | null {
  const schema = app.manifest.edit(id);
  if (!schema) return null;
  const run = (): void => {
    app.opened = "inspector";
    app.addEdit(id, here(app, id));
  };
  return { label: `The edit “${schema.title}” …`, missing: app.session.state?.prompt ? "" : "edits act on a run: type a prompt first", run };
}

/** Rows of the stream that are of a site: its own, or the one that is the same tensor. */
function rowsOf(app: App, site: string): number[] {
  const same: Record<string, string[]> = { resid_pre: ["resid_pre", "resid_post"], pos_embed: ["embed"] };
  const kinds = same[site] ?? [site];
  return [...app.streams.sites.keys()].filter((row) => kinds.includes(app.streams.sites[row].split(".")[0]));
}

function toRow(app: App, rows: number[]): void {
  const near = rows.toSorted((a, b) => Math.abs(a - app.selected.row) - Math.abs(b - app.selected.row))[0];
  toTab(app, "stream");
  app.select(near, app.selected.col);
}

function within(app: App): void {
  toTab(app, "map");
  app.map.open.unfolded = true;
}

function ofSite(app: App, site: string): Way {
  const absent = app.session.model?.sites.find(({ name }) => name === site)?.absent ?? "";
  const rows = rowsOf(app, site);
  const run = (): void => (rows.length ? toRow(app, rows) : TAB_OF[site] ? toTab(app, TAB_OF[site]) : within(app));
  return { label: `${site} ${rows.length ? "in the stream" : TAB_OF[site] ? "in its tab" : "in the open layer"}`, missing: absent && `not in this model: ${absent}`, run };
}

function ofTask(app: App, id: string): Way | null {
  const task = app.manifest.tasks.find((one) => one.id === id);
  const check = app.manifest.methods.find((one) => one.id === "task-check");
  if (!task || !check) return null;
  const run = (): void => {
    app.jobs.forms[check.id] = { ...initial(check), data: { kind: "task", task: id, n: 50 } };
    toMethod(app, check.id);
  };
  return { label: `The task “${task.title}”, checked on this model`, missing: "", run };
}

const KINDS: Record<string, (app: App, id: string) => Way | null> = { tab: ofTab, method: ofMethod, group: ofGroup, edit: ofEdit, site: ofSite, task: ofTask };

/** The way that a link of the glossary stands for, such as `method:pca`; none where the page has none. */
export function wayTo(app: App, link: string): Way | null {
  const at = link.indexOf(":");
  return KINDS[link.slice(0, at)]?.(app, link.slice(at + 1)) ?? null;
}
