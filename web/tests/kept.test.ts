/** Links that version 0.1's page made (tests/kept/v0_1/links.json) are read as it read them, and bring back what they held. */

import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import type { State } from "../src/connect/wire";
import type { App } from "../src/state/app.svelte";
import { decodeView, encodeView, type Shared, type View } from "../src/state/hash";
import { answer, restore } from "../src/state/share";

interface Link {
  name: string;
  query: string;
  hash: string;
  view: View;
  shared: Shared | null;
}
const kept = resolve(process.cwd(), "../tests/kept/v0_1");
const read = (name: string) => readFileSync(resolve(kept, name), "utf8");
const links: Link[] = JSON.parse(read("links.json"));
const full = links.filter((link): link is Link & { shared: Shared } => link.shared !== null);
const kinds = (edits: { kind: string }[]) => new Set(edits.map(({ kind }) => kind));

describe("the links that are kept", () => {
  it("hold every kind of edit and of direction that the page had", () => {
    expect([...kinds(full[0].shared.edits)].toSorted()).toEqual(["ablate", "freeze", "lrqp", "project_out", "scale", "set_concept", "steer"]);
    const directions = full[0].shared.edits.flatMap((edit) => ("direction" in edit ? [edit.direction as { kind: string }] : []));
    expect([...kinds(directions)].toSorted()).toEqual(["logit_diff", "mix", "pca", "saved", "token"]);
    expect(full[0].shared.probes).toHaveLength(1);
  });

  it("say a view in words that stay", () => {
    const [{ hash, view }] = links;
    const said = new URLSearchParams(hash);
    expect([...said.keys()]).toEqual(["tab", "dir", "w", "mix", "also", "d", "unit", "logits", "view", "lock", "numbers", "table", "fit", "at", "share"]);
    expect(view).toMatchObject({
      tab: "probe", direction: "mix", weights: { 0: 1, 2: -0.33333 }, terms: { "svd@resid_pre.2/1": 0.25, "saved:kept for good/0": -1 },
      also: ["nmf@mlp_post.2", "saved:kept for good"], dictionary: "pca@resid_post.1", unit: "cos", logits: "centred", mode: "delta",
      locks: { cos: 0.25, logit: 14, "logit-centred": 2.5 }, numbers: true, table: true, fit: true, selection: { layer: -1, pos: 3 },
    });
  });
});

describe.each(links)("the link: $name", ({ query, hash, view, shared }) => {
  it("is read as it was", () => {
    const url = new URL(`http://127.0.0.1:8000/${query}#${hash}`);
    const now = decodeView(url.hash);
    expect(now.view).toMatchObject(view);
    if (shared) expect(now.shared).toMatchObject(shared);
    else expect(now.shared).toBeNull();
  });

  it("is what the page writes again", () => {
    const { view: again, shared: same } = decodeView(encodeView(decodeView(hash).view, decodeView(hash).shared));
    expect(again).toMatchObject(view);
    if (shared) expect(same).toMatchObject(shared);
  });

  it("cut short anywhere gives all that it held or nothing of it, never a part", () => {
    for (let end = 0; end < hash.length; end += 7) {
      const { shared: cut } = decodeView(hash.slice(0, end));
      if (cut) expect(cut).toMatchObject(shared!);
    }
  });
});

describe("restoring a link", () => {
  let sent: [string, unknown][];
  let told: string[];
  const state = JSON.parse(read("state.json")) as State;

  /** An app whose session accepts what it is sent; it has the model, and no probes yet. */
  function app(more: Partial<State> = {}, left_out: unknown[] = [], lost: string[] = []): App {
    const now = { ...state, probes: [], jobs: [], ...more } as State;
    const send = async (intent: string, args: unknown) => void sent.push([intent, args]);
    const accepted = async (intent: string, args: unknown) => (await send(intent, args), true);
    const open = async (link: unknown) => (await send("open_link", link), { left_out, lost });
    const notify = (text: string) => void told.push(text);
    const connector = { query: async () => ({ edits: [], left_out, lost }) };
    return { session: { state: now, send, accepted, open, notify, connector }, view: { shared: null, asked: null, agreed: null } } as unknown as App;
  }
  const restored = (app: App, shared: Shared) => ((app.view.shared = shared), restore(app, shared));
  beforeEach(() => {
    sent = [];
    told = [];
  });

  it("fits the probes of its edits first", async () => {
    const { shared } = full[0];
    expect(await restored(app(), shared)).toBe(false);
    const { name: _, ...recipe } = shared.probes[0];
    expect(sent).toEqual([["start", { method: "probe-map", args: recipe }]]);
  });

  it.each(full)("sends prompt, answers and edits: $name", async ({ shared }) => {
    const fitted = shared.probes as unknown as State["probes"];
    expect(await restored(app({ probes: fitted, model: { ...state.model!, hash: shared.hash } }), shared)).toBe(true);
    const { hash, prompt, bos, metric, edits } = shared;
    expect(sent).toEqual([["open_link", { hash, prompt, bos, metric, edits }]]);
    expect(told).toEqual([]);
  });

  it("loads the model that it names, where the catalog offers it, and says so where it does not", async () => {
    const { shared } = links.find(({ name }) => name === "the default model")!;
    const offer = { name: "smollm2-135m", about: "", cached: true };
    expect(await restored(app({ model: null, models: [offer], status: { ...state.status, phase: "empty" } }), shared!)).toBe(false);
    expect(sent).toEqual([["load_model", { name: "smollm2-135m" }]]);
    expect(await restored(app({ model: null, models: [], status: { ...state.status, phase: "empty" } }), shared!)).toBe(true);
    expect(told.at(-1)).toContain("smollm2-135m");
  });

  it("says where the model is another than it was made with", async () => {
    vi.useFakeTimers();
    await restored(app({ model: { ...state.model!, hash: "another" } }), { ...full[0].shared, probes: [] });
    expect(told.at(-1)).toContain("made with another model");
    vi.useRealTimers();
  });

  it("keeps the rest where an edit is refused, and names it with the reason", async () => {
    const { shared } = full[0];
    const probe = { ...shared.probes[0], name: "kind of made.csv", data: { kind: "file" as const, name: "made.csv" } };
    const edits = [shared.edits[0], { kind: "lrqp", site: "resid_pre.2", probe: probe.name, to: "b", log_alpha: 1 }, { kind: "ablate", site: "z.77" }];
    const refused = [1, 2].map((index) => ({ part: "edits", index, error: { message: `refused ${index}` } }));
    expect(await restored(app({}, refused), { ...shared, edits: edits as typeof shared.edits, probes: [probe], hash: state.model!.hash })).toBe(true);
    expect(told).toHaveLength(2);
    expect(told[0]).toMatch(/^Of the link edit 2, lrqp resid_pre\.2 of kind of made\.csv is left out: its probe was fitted from a file, made\.csv/);
    expect(told[1]).toBe("Of the link edit 3, ablate z.77 is left out: refused 2");
  });

  it("asks where it would take the place of something, and opens it once that is agreed to", async () => {
    const shared = { ...full[0].shared, probes: [], hash: state.model!.hash };
    const opened = app({}, [], ["prompt"]);
    expect(await restored(opened, shared)).toBe(false);
    expect([sent, opened.view.asked?.shared]).toEqual([[], shared]);
    answer(opened, true);
    expect(await restore(opened, shared)).toBe(true);
    expect(sent.map(([intent]) => intent)).toEqual(["open_link"]);
    expect(told).toEqual(["The link is open. Undo (u) brings back what was here."]);
  });
});
