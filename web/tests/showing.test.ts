import { describe, expect, it, vi } from "vitest";
import { wayTo } from "../src/frame/glossary/showing";
import type { App } from "../src/state/app.svelte";

const schema = (id: string, title: string, properties: Record<string, unknown> = {}) => ({ id, title, about: "", group: "patching", properties, required: [] });
const ABLATE = schema("ablate", "Ablate", { site: { kind: "site", only: ["resid_post", "z"] }, pos: { kind: "positions" } });
const STEER = schema("steer", "Steer", { site: { kind: "site", only: ["z"] }, direction: { kind: "direction" } });

function page(prompt = true) {
  const app = {
    view: { current: { tab: "prompts" } },
    session: { state: { prompt: prompt ? { text: "ab" } : null }, model: { sites: [{ name: "pos_embed", absent: "rotary" }, { name: "q", absent: null }] } },
    streams: { sites: ["embed", "resid_post.0", "resid_post.1", "resid_post.2"] },
    selected: { row: 3, col: 1 },
    site: "resid_post.2",
    directions: { ref: { kind: "saved", name: "d" } },
    manifest: {
      methods: [schema("pca", "Components"), schema("task-check", "Check a task", { data: { kind: "prompts", default: null } })],
      tasks: [{ id: "ioi", title: "IOI" }],
      edit: (id: string) => [ABLATE, STEER].find((one) => one.id === id) ?? null,
    },
    jobs: { choose: vi.fn(), forms: {} as Record<string, unknown> },
    map: { open: { unfolded: false } },
    select: vi.fn(), addEdit: vi.fn(), opened: "",
  };
  return { app, way: (link: string) => wayTo(app as unknown as App, link) };
}

describe("what shows a word", () => {
  it("is a tab", () => {
    const { app, way } = page();
    way("tab:map")!.run();
    expect([app.view.current.tab, way("tab:map")!.label]).toEqual(["map", "The tab Map"]);
  });

  it("is a method's form, or a group's first", () => {
    const { app, way } = page();
    way("method:pca")!.run();
    way("group:patching")!.run();
    expect([app.jobs.choose.mock.calls, app.view.current.tab]).toEqual([[["pca"], ["pca"]], "methods"]);
  });

  it("is a task, checked on the model at hand", () => {
    const { app, way } = page();
    way("task:ioi")!.run();
    expect(app.jobs.forms).toEqual({ "task-check": { data: { kind: "task", task: "ioi", n: 50 } } });
    expect(app.jobs.choose).toHaveBeenCalledWith("task-check");
  });

  it("is an edit's form, at what is selected where it can be there", () => {
    const { app, way } = page();
    way("edit:ablate")!.run();
    way("edit:steer")!.run();
    expect(app.addEdit.mock.calls).toEqual([["ablate", { site: "resid_post.2", pos: [1] }], ["steer", { direction: { kind: "saved", name: "d" } }]]);
    expect(app.opened).toBe("inspector");
    expect([way("edit:ablate")!.missing, page(false).way("edit:ablate")!.missing]).toEqual(["", "edits act on a run: type a prompt first"]);
  });

  it("is a site's nearest row of the stream, else the layer from within", () => {
    const { app, way } = page();
    way("site:embed")!.run();
    way("site:resid_pre")!.run(); // the tensor of the layer before
    expect([app.select.mock.calls, app.view.current.tab]).toEqual([[[0, 1], [3, 1]], "stream"]);
    way("site:q")!.run();
    expect([app.view.current.tab, app.map.open.unfolded]).toEqual(["map", true]);
    way("site:pattern")!.run();
    expect(app.view.current.tab).toBe("heads");
    expect([way("site:pos_embed")!.missing, way("site:q")!.missing]).toEqual(["not in this model: rotary", ""]);
  });

  it("is nothing where the page has none", () => {
    for (const link of ["rs:loss", "tab:nowhere", "method:gone", "edit:gone", "task:gone", "group:none", "nonsense"]) expect(page().way(link)).toBeNull();
  });
});
