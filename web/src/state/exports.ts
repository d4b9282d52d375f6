import { readPaint } from "../lib/color";
import { asText, sentence } from "../lib/sentence";
import { streamSheet, streamSvg, type Picture } from "../views/export";
import { promptsSheet, promptsSvg, type PromptsPicture } from "../views/exportPrompts";
import type { Captioned } from "../views/exportHead";
import { notYet, save, type Drawing, type Ending } from "../views/saved";
import type { App } from "./app.svelte";
import { mapDrawing } from "./mapExport";

/** What is on screen, with everything a file has to say by itself. */
export function picture(app: App): Picture | null {
  const { field, data, tokens, ids, unit, mode } = app.streams;
  const model = app.session.model;
  if (!field || !data || !model) return null;
  const run = mode === "delta" ? `${app.names.b} minus ${app.names.a}` : mode === "edit" ? app.names.b : app.names.a;
  return {
    field, tokens, ids, unit, row: app.selected.row,
    norm: Array.from({ length: field.rows * field.cols }, (_, cell) => app.streams.normAt(cell)),
    next: data.next.map((row) => row[0]?.text ?? "…"),
    title: `${model.name} · ${app.directionTitle} · ${run}`,
    sentence: asText(sentence(app.told)),
  };
}

const heading = (tab: string, { title, sentence }: Captioned) => ({ name: `${tab}-${title}`, title, notes: [sentence] });

export function streamDrawing(app: App): Drawing | null {
  const shown = picture(app);
  return shown && { ...heading("stream", shown), svg: () => streamSvg(shown, readPaint(app.host.root)), sheet: () => streamSheet(shown) };
}

export function promptsPicture(app: App): PromptsPicture | null {
  const { page, row, values, scale, sink, from, source, on } = app.prompts;
  const model = app.session.model;
  if (!page || !row || !values || !sink || !model) return null;
  const site = app.streams.head === null ? app.site : `${app.site} head ${app.streams.head}`;
  return {
    page, values, norm: row.norm, sink, scale, site, from: from || source, unit: app.streams.unit,
    title: `${model.name} · ${app.directionTitle} · ${on}`,
    sentence: asText(sentence({ ...app.told, run: on, compared: false })),
  };
}

export function promptsDrawing(app: App): Drawing | null {
  const shown = promptsPicture(app);
  return shown && { ...heading("prompts", shown), svg: () => promptsSvg(shown, readPaint(app.host.root)), sheet: () => promptsSheet(shown) };
}

/** The picture of the tab on screen. Elsewhere each picture has a button of its own. */
export async function saveAs(app: App, ending: Ending): Promise<void> {
  const { tab } = app.view.current;
  const say = (words: string) => app.session.notify(words, "error");
  if (tab !== "stream" && tab !== "prompts" && tab !== "map") return say("There are several pictures here: each has its own button, Save the picture.");
  const why = { stream: app.streams, prompts: app.prompts, map: app.map }[tab].unfinished;
  if (why) return say(notYet(why));
  try {
    const drawing = { stream: streamDrawing, prompts: promptsDrawing, map: mapDrawing }[tab](app);
    if (drawing) await save(drawing, ending, tab);
    else say("There is no picture to save.");
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
  }
}
