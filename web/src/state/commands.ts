import { rounded, steering } from "../lib/edits";
import { words } from "../connect/connector";
import type { Edit } from "../connect/wire";
import type { App } from "./app.svelte";
import { ENDINGS, type Ending } from "../views/saved";
import { copyLink } from "./share";

/** One thing the page can do: by key, and from the palette. */
export interface Command {
  /** Keys that do it; several are one command with a direction. */
  keys: string[];
  label: string;
  /** Other words by which the palette finds it. */
  words?: string;
  /** Short name for the footer; absent: not shown there. */
  foot?: string;
  /** extend: with shift, an arrow takes more. */
  run(app: App, key: string, extend?: boolean): void;
}

const same = (a: Edit, b: Edit): boolean =>
  a.kind === b.kind && a.site === b.site && JSON.stringify(a.pos ?? null) === JSON.stringify(b.pos ?? null);

/** Adds the edit, or takes it away again where the same one is there already. */
function toggle(app: App, edit: Edit): void {
  const present = app.session.edits.find((other) => same(other, edit) && edit.kind !== "steer");
  if (present) return void app.session.removeEdit(present.id);
  void app.session.send("add_edit", { edit });
  const before = "direction" in edit ? app.mixing.beforeOf(app.directions.ref) : "";
  if (before) app.session.notify(`${edit.kind === "steer" ? "Steers along" : "Projects out"} the linear direction: read before the ${before}, written by the decoder.`);
}

const onMap = (app: App): boolean => app.view.current.tab === "map";
/** Where a head is what keys act on. */
const onHead = (app: App): boolean => onMap(app) || app.view.current.tab === "heads";

function ablate(app: App): void {
  if (onHead(app)) return app.map.act("ablate");
  toggle(app, { kind: "ablate", site: app.site, ...app.head, pos: [app.selected.col], to: "zero" });
}

function steer(app: App): void {
  if (onHead(app)) return app.acts.steer();
  const direction = app.directions.ref;
  if (direction) toggle(app, { kind: "steer", site: app.site, ...app.head, pos: [app.selected.col], direction, ...steering(app.directions.reading?.sd ?? null) });
}

function projectOut(app: App): void {
  const direction = app.directions.ref;
  if (direction) toggle(app, { kind: "project_out", site: app.site, ...app.head, direction });
}

function freeze(app: App): void {
  if (onHead(app)) return app.map.act("freeze");
  const layer = app.selected.row + app.streams.first;
  if (layer >= 0) toggle(app, { kind: "freeze", site: `pattern.${layer}` });
}

function isolate(app: App): void {
  if (onHead(app)) app.map.act("isolate");
  else app.session.notify("Heads are isolated on the tabs Map and Heads: choose one there.");
}

function patch(app: App): void {
  if (onHead(app)) app.acts.patch();
  else if (app.view.current.tab === "patch") void app.patch.keep();
  else app.acts.patchCell(app.selected);
}

function strengthen(app: App, key: string): void {
  if (onHead(app)) return app.map.strengthen(key === "]");
  const edit = app.edit;
  const slider = edit?.slider;
  if (!edit || !slider) return;
  const steps = slider.unit === "×" ? 2 : 1;
  const value = rounded(slider.value + (key === "]" ? 1 : -1) * slider.step * steps);
  void app.session.changeEdit(edit.id, (other) => ({ ...other, [slider.name]: value }));
}

/** To the next direction along the chips. */
function nextDirection(app: App, key: string): void {
  const { chips } = app.mixing;
  const last = chips.length - 1;
  const at = app.mixing.component === null ? -1 : chips.indexOf(app.mixing.component);
  const now = app.view.current.direction === "logit" ? -1 : at < 0 ? last : at;
  const to = Math.max(-1, Math.min(last, now + (key === "." ? 1 : -1)));
  if (to >= 0) app.showComponent(chips[to]);
  else app.view.current.direction = "logit";
}

function move(app: App, rows: number, cols: number, extend = false): void {
  if (onHead(app)) return app.map.move(rows, cols, extend);
  const at = { lens: app.lens, patch: app.patch.field && app.patch }[app.view.current.tab];
  if (at) at.select(at.locked.row + rows, at.locked.col + cols);
  else app.select(app.selected.row + rows, app.selected.col + cols);
}

/** Opens the panel with its button ready, or puts it away. */
function generate(app: App): void {
  const { generation } = app;
  generation.open = !generation.open;
  if (!generation.open) return;
  app.opened = "inspector";
  setTimeout(() => {
    const card = app.host.root.querySelector("[data-testid=generate-card]");
    card?.scrollIntoView?.({ block: "nearest" });
    card?.querySelector<HTMLElement>("[data-testid=generate-run]")?.focus();
  });
}

export const COMMANDS: Command[] = [
  { keys: ["j", "k"], label: "Layer below, above", foot: "layer", run: (app, key, extend) => move(app, key === "j" ? -1 : 1, 0, extend) },
  { keys: ["h", "l"], label: "Token before, after", foot: "token", run: (app, key, extend) => move(app, 0, key === "h" ? -1 : 1, extend) },
  { keys: [",", "."], label: "Direction before, after", foot: "direction", run: nextDirection },
  { keys: ["x"], label: "Baseline or edited", foot: "baseline / edited", run: (app) => (app.view.current.mode = app.streams.mode === "base" ? "edit" : "base") },
  { keys: ["d"], label: "Difference of edited and baseline", foot: "Δ", run: (app) => (app.view.current.mode = app.streams.mode === "delta" ? "base" : "delta") },
  { keys: ["a"], label: "Ablate the selected cell of the stream", words: "map head mlp", foot: "ablate cell", run: ablate },
  { keys: ["s"], label: "Steer along the direction at the selected cell", foot: "steer", run: steer },
  { keys: ["o"], label: "Project the direction out at the selected layer", foot: "project out", run: projectOut },
  { keys: ["f"], label: "Freeze the selected layer's attention patterns", words: "map head", foot: "freeze pattern", run: freeze },
  { keys: ["i"], label: "Isolate the selected head of the map", words: "keep alone", run: isolate },
  { keys: ["w"], label: "Within: the open layer of the map, site by site", words: "inside unfold block drawing equations", run: (app) => onMap(app) && (app.map.open.unfolded = !app.map.open.unfolded) },
  { keys: ["+", "-", "0"], label: "Zoom the map in, out; as it was", words: "larger smaller pan", run: (app, key) => onMap(app) && app.map.zoomBy(key === "+" ? 1 : key === "-" ? -1 : 0) },
  { keys: ["p"], label: "Patch what is selected from the companion", words: "map head mlp corrupted denoise", foot: "patch", run: patch },
  { keys: ["m"], label: "Mark the selected part of the map as a path's sender", words: "path connect drag", run: (app) => (onMap(app) ? app.paths.mark() : app.session.notify("Paths are drawn on the Map tab: mark a part there, move to what reads it, Enter.")) },
  { keys: ["[", "]"], label: "Weaken or strengthen the picked edit", words: "map scale head", foot: "strength", run: strengthen },
  { keys: ["u"], label: "Undo", foot: "undo", run: (app) => void app.session.send("undo") },
  { keys: ["r"], label: "Redo", run: (app) => void app.session.send("redo") },
  { keys: ["e"], label: "Edit the prompt", foot: "prompt", run: (app) => app.editPrompt() },
  { keys: ["g"], label: "Generate: continue the prompt with and without the edits", words: "sample text completion temperature seed", foot: "generate", run: generate },
  { keys: ["b"], label: "Library: saved directions and people", foot: "library", run: (app) => app.library.toggle() },
  { keys: ["t"], label: "Grid or table", foot: "table", run: (app) => (app.view.current.table = !app.view.current.table) },
  { keys: ["n"], label: "Numbers in the cells", run: (app) => (app.view.current.numbers = !app.view.current.numbers) },
  { keys: ["Escape"], label: "Unlock: back to the last token", run: (app) => (!onHead(app) ? app.unlock() : app.paths.from ? app.paths.cancel() : app.map.select(app.map.at)) },
  { keys: ["?"], label: "Help: what colour means, keys, words", words: "how manual terms glossary shortcuts", foot: "help", run: (app) => app.toggleHelp() },
  { keys: ["/"], label: "Commands", foot: "commands", run: (app) => (app.palette = true) },
];

/** The sliders, with something to start from. */
function findDirection(app: App): void {
  if (app.view.current.direction === "logit") app.showComponent(app.mixing.chips[0] ?? 0);
  app.mixOpen = true;
  app.opened = "inspector";
  setTimeout(() => {
    const card = app.host.root.querySelector("[data-testid=mix-card]");
    card?.scrollIntoView?.({ block: "nearest" });
    card?.querySelector<HTMLElement>("input[type=range]")?.focus();
  });
}

/** What draws a file is fetched with the first. */
async function save(app: App, ending: Ending): Promise<void> {
  try {
    await (await import("./exports")).saveAs(app, ending);
  } catch (error) {
    app.session.notify(words(error), "error");
  }
}

/** In the palette only: no key of their own. */
export const MORE: Command[] = [
  { keys: [], label: "Find a new direction: mix with the sliders", words: "combine weights", run: findDirection },
  { keys: [], label: "Random prompts: many texts, coloured", words: "prompts tab examples page", run: (app) => (app.view.current.tab = "prompts") },
  { keys: [], label: "Map: every head and MLP, and what each adds", words: "map tab heads attention direct ablate circuit", run: (app) => (app.view.current.tab = "map") },
  { keys: [], label: "Lens: what each layer would say next", words: "lens tab logit top token probability rank entropy kl", run: (app) => (app.view.current.tab = "lens") },
  { keys: [], label: "Patch: every layer and token from the companion, or under noise", words: "patch tab activation attribution causal tracing sweep denoise noise corrupted", run: (app) => (app.view.current.tab = "patch") },
  { keys: [], label: "Heads: what each does, and where it looks", words: "heads tab attention pattern induction ov qk", run: (app) => (app.view.current.tab = "heads") },
  { keys: [], label: "Weights: circuits, composition, directions of a head", words: "weights tab ov qk svd skip trigrams direct path", run: (app) => (app.view.current.tab = "weights") },
  { keys: [], label: "Features: every feature and neuron, with its examples", words: "features tab neuron sae dictionary atlas examples", run: (app) => (app.view.current.tab = "features") },
  { keys: [], label: "Probe: fit one, and steer along it", words: "probe tab classifier", run: (app) => (app.view.current.tab = "probe") },
  { keys: [], label: "Stream: the picture of this prompt", words: "stream tab grid", run: (app) => (app.view.current.tab = "stream") },
  { keys: [], label: "Methods: run one, see what was made", words: "methods tab", run: (app) => (app.view.current.tab = "methods") },
  { keys: [], label: "Tour of the page, two minutes", words: "help introduction start", run: (app) => (app.tour = 0) },
  { keys: [], label: "Scale: each row its own", words: "colour range", run: (app) => (app.view.current.scaling = "row") },
  { keys: [], label: "Scale: one for the whole picture", words: "colour range", run: (app) => (app.view.current.scaling = "whole") },
  { keys: [], label: "Share: copy a link", run: (app) => void copyLink(app) },
  { keys: [], label: "Tokens: ids, bytes, and the same text in another model", words: "tokenizer vocabulary table", run: (app) => (app.tokens = !!app.session.state?.prompt) },
  { keys: [], label: "Swap the prompt and its companion", words: "corrupted counterfactual", run: (app) => void app.session.send("swap_companion") },
  { keys: [], label: "Copy as Python", run: (app) => void app.python() },
  ...ENDINGS.map(([ending]) => ({ keys: [], label: `Save the picture as ${ending.toUpperCase()}`, run: (app: App) => void save(app, ending) })),
  { keys: [], label: "Light or dark", run: (app) => app.theme.toggle() },
  { keys: [], label: "Reset the mix", run: (app) => app.view.resetWeights() },
];

const ARROWS: Record<string, string> = { ArrowDown: "j", ArrowUp: "k", ArrowLeft: "h", ArrowRight: "l" };

const typed = "input:not([type=range], [type=checkbox], [type=radio], [type=button]), textarea, select, [contenteditable]";

/** A plain press that no text, choice or dialog takes for itself. */
export function isFree(event: KeyboardEvent, page: HTMLElement): boolean {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return false;
  const target = event.composedPath()[0];
  return !(target instanceof Element && target.closest(`${typed}, dialog, [role=dialog]`)) && !page.querySelector("dialog[open]");
}

/** The command a key press in a page stands for (Ctrl-Z for undo, with shift for redo); none while typing, or where the key belongs to a control. */
export function commandFor(event: KeyboardEvent, page: HTMLElement): { command: Command; key: string; extend: boolean } | null {
  const undoes = (event.ctrlKey || event.metaKey) && !event.altKey && event.key.toLowerCase() === "z";
  if (((event.ctrlKey || event.metaKey) && !undoes) || event.altKey || event.defaultPrevented) return null;
  const target = event.target instanceof HTMLElement ? event.target : null;
  if (target?.closest("input:not([type=range], [type=checkbox]), textarea, select, dialog, [role=dialog]")) return null;
  if (page.querySelector("dialog[open]")) return null;
  if (target?.matches("input") && event.key in ARROWS) return null;
  const key = undoes ? (event.shiftKey ? "r" : "u") : (ARROWS[event.key] ?? event.key);
  const command = COMMANDS.find((candidate) => candidate.keys.includes(key));
  return command ? { command, key, extend: event.shiftKey && event.key in ARROWS } : null;
}
