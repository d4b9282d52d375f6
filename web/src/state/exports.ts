import { readPaint } from "../lib/color";
import { streamCsv, streamSvg, type Picture } from "../views/export";
import { pngOf } from "../lib/files";
import { download } from "../root/host";
import type { App } from "./app.svelte";

export type FileKind = "svg" | "png" | "csv";

/** What is on screen, with everything a file has to say by itself. */
export function picture(app: App): Picture | null {
  const { field, data, tokens, unit, mode } = app.streams;
  const model = app.session.model;
  if (!field || !data || !model) return null;
  const run = mode === "delta" ? `${app.names.b} minus ${app.names.a}` : mode === "edit" ? app.names.b : app.names.a;
  return { field, norm: Array.from({ length: field.rows * field.cols }, (_, cell) => app.streams.normAt(cell)), tokens, next: data.next.map((row) => row[0]?.text ?? "…"), unit, title: `${model.name} · ${app.directionTitle} · ${run}` };
}

export async function saveAs(app: App, kind: FileKind): Promise<void> {
  const shown = picture(app);
  if (!shown) return;
  const name = `stream-${shown.title}`.replace(/[^\p{L}\p{N}.]+/gu, "-").replace(/^-|-$/g, "").slice(0, 80);
  try {
    download(await file(app, shown, kind), `${name}.${kind}`);
  } catch (error) {
    app.session.notify(error instanceof Error ? error.message : String(error), "error");
  }
}

async function file(app: App, shown: Picture, kind: FileKind): Promise<Blob> {
  if (kind === "csv") return new Blob([streamCsv(shown)], { type: "text/csv;charset=utf-8" });
  const svg = streamSvg(shown, readPaint(app.host.root));
  return kind === "svg" ? new Blob([svg], { type: "image/svg+xml" }) : await pngOf(svg);
}
