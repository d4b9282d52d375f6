import { describe, expect, it, vi } from "vitest";
import type { Connector, Listener } from "../src/connect/connector";
import type { Edit, Job, ProbeData, ProbeInfo, ProbeReading, State } from "../src/connect/wire";
import { aimOf, doseFor, editOf, landing, margin, overAll, overAllWords, readTable, towards, type Aim, type ProbeEdit } from "../src/lib/probe";
import { App } from "../src/state/app.svelte";
import { restore } from "../src/state/share";
import { rooted } from "./rooted";

const data: ProbeData = { kind: "task", task: "ioi", n: 60, seed: 0, prefixes: false };
const probe: ProbeInfo = {
  name: "order at S2, resid_mid.1", item: "order", job: null, mapped: "whole", revision: 9, data, site: "resid_mid.1", position: "S2",
  label: "order", classes: ["ABBA", "BABA"], accuracy: 1, interval: [0.9, 1], control: 0.5, selectivity: 0.5, C: 1, train: 30, held_out: 30,
};
const move = (at: number[], slope = [0, 0]) => ({ at, slope, xy: [7, 7], xy_slope: [0, 1] });
/** Reads ABBA by four nats. */
const reading: ProbeReading = {
  run: "r1", pos: 9, own: true, place: 9, label: "ABBA", log_prob: [-0.018, -4.018], xy: [1, 2],
  moves: {
    mean_difference: { ABBA: move([4, 0]), BABA: move([0, 5]), neutral: move([0, 0.5]) },
    project_out: { ABBA: move([3, 0]), BABA: move([0, 3]), neutral: move([0, 0.5]) },
    constant_dose: { ABBA: move([4, 0], [0.5, -0.5]), BABA: move([4, 0], [-0.5, 0.5]) },
  },
  steps: { total: { length: 0.5, xy: [10, 0] } },
};
const aim = (more: Partial<Aim> = {}): Aim => ({ method: "lrqp", covariance: "total", to: "BABA", target: 10, ...more });

describe("the target", () => {
  it("is on the side of the class that it lands in", () => {
    expect(margin(reading.log_prob, 1)).toBeCloseTo(-4);
    expect(towards(probe.classes, -4, aim({ target: -3 }))).toBe("BABA");
    expect(towards(probe.classes, -4, aim({ target: -5 }))).toBe("ABBA");
  });

  it("is reached by LRQP exactly, up and down, and the point goes along", () => {
    for (const target of [10, -3, -9]) expect(landing(reading, probe.classes, aim({ target }))?.at).toBe(target);
    const { xy, length } = landing(reading, probe.classes, aim({ target: -3 }))!;
    expect(xy![0]).toBeCloseTo(11);
    expect(length).toBeCloseTo(0.5);
    expect(editOf(probe, reading, aim({ target: -9 }))).toMatchObject({ kind: "lrqp", to: "ABBA", log_alpha: 9, pos: [9], covariance: "total" });
    expect(editOf(probe, reading, aim({ target: -3 }))).toMatchObject({ to: "BABA", log_alpha: -3 });
  });

  it("is a dose where the method takes one, and says where none leads there", () => {
    expect(doseFor(reading, probe.classes, "BABA", 10)).toBeCloseTo(14);
    expect(editOf(probe, reading, aim({ method: "constant_dose" }))).toMatchObject({ kind: "set_concept", method: "constant_dose", to: "BABA", dose: 14 });
    expect(landing(reading, probe.classes, aim({ method: "constant_dose" }))?.at).toBeCloseTo(10);
    const stuck = structuredClone(reading);
    stuck.moves.constant_dose.BABA.slope = [1, 0];
    expect(landing(stuck, probe.classes, aim({ method: "constant_dose" }))).toBeNull();
    expect(editOf(probe, stuck, aim({ method: "constant_dose" }))).toBeNull();
  });

  it("is where the others go by themselves", () => {
    expect(landing(reading, probe.classes, aim({ method: "mean_difference", target: 99 }))?.at).toBe(5);
    expect(landing(reading, probe.classes, aim({ to: "neutral" }))?.at).toBe(0.5);
  });

  it("of three classes is the least of the wanted one's odds, which LRQP never lowers", () => {
    const three = { ...reading, log_prob: [-1, -2, -0.7] };
    expect(landing(three, ["p", "q", "r"], aim({ to: "q", target: 3 }))?.at).toBe(3);
    expect(landing(three, ["p", "q", "r"], aim({ to: "r", target: -5 }))?.at).toBeCloseTo(0.3);
  });

  it("is shown again from the edit on the stack", () => {
    for (const wanted of [aim({ target: -9, to: "ABBA" }), aim({ method: "constant_dose", target: 10 })]) {
      const again = aimOf(editOf(probe, reading, wanted)!, probe.classes, reading, aim());
      expect(again.target).toBeCloseTo(wanted.target);
      expect(again.to).toBe(wanted.to);
    }
  });
});

describe("an edit over many prompts", () => {
  const here = { probe: probe.name, site: probe.site, pos: [9] };

  it("keeps its strength, and sets each prompt to its own other class, where the probe reads it", () => {
    const edit = { kind: "lrqp", ...here, to: "BABA", log_alpha: 3, covariance: "within" } as ProbeEdit;
    expect(overAll(edit, aim(), probe.name, 10)).toEqual({ kind: "lrqp", probe: probe.name, to: "other", covariance: "within", log_alpha: 3 });
    const dosed = { kind: "set_concept", ...here, to: "BABA", method: "constant_dose", dose: 14 } as ProbeEdit;
    expect(overAll(dosed, aim(), probe.name, 10)).toEqual({ kind: "set_concept", probe: probe.name, to: "other", method: "constant_dose", dose: 14 });
    const neutral = { kind: "lrqp", ...here, to: "neutral", log_alpha: 0, covariance: "total" } as ProbeEdit;
    expect(overAll(neutral, aim(), probe.name, 10)).toEqual({ kind: "lrqp", probe: probe.name, to: "neutral", covariance: "total" });
  });

  it("as sure as the prompt was is for each as sure as it was, which says no number", () => {
    for (const edit of [null, { kind: "lrqp", ...here, to: "BABA", log_alpha: 12.00001, covariance: "total" } as ProbeEdit])
      expect(overAll(edit, aim(), probe.name, 12)).toEqual({ kind: "lrqp", probe: probe.name, to: "other", covariance: "total" });
    expect(overAllWords({ kind: "lrqp", to: "other", covariance: "total" }, probe.classes)).toContain("as sure as it was of its own, at least e¹⁰");
    expect(overAllWords({ kind: "lrqp", to: "other", covariance: "total", log_alpha: 3 }, probe.classes)).toContain("log-odds of at least 3.0");
  });
});

describe("a table", () => {
  it("that is not UTF-8 is refused with its line", () => {
    expect(readTable("a.csv", new TextEncoder().encode("text\nä\n"))).toBe("text\nä\n");
    expect(() => readTable("a.csv", new Uint8Array([116, 10, 97, 10, 0xff, 10, 98]))).toThrow("a.csv, line 3: not UTF-8");
  });
});

describe("the tab", () => {
  const detail = { name: probe.name, revision: 9, reach: 12, map: { kind: "heat_map" }, map_at: { sites: [], positions: [] }, cloud: { kind: "scatter" }, margins: [], examples: [] };
  const choices = { name: "IOI", n: 60, labels: [{ name: "IO", classes: 40, most: {} }, { name: "kind", classes: 2, most: {} }], positions: [{ name: "late", lacking: 1 }, { name: "KEY", lacking: 0 }], texts: [] };
  const task = (id: string, more = {}) => ({ id, title: id, about: "", label: "", position: "", prefixes: false, ...more });
  const job = (id: string, more: Partial<Job> = {}): Job => ({ id, method: "probe-map", title: "", name: "", phase: "running", stage: "", progress: null, left: null, cost: null, seconds: null, revision: 0, items: [], note: "", warnings: [], error: null, args: null, ...more });
  const tasks = [task("ioi", { label: "order", position: "S2", prefixes: true }), task("alphabet")];
  function opened() {
    const asked: string[] = [];
    let listener!: Listener;
    let jobs = 0;
    const answers: Record<string, unknown> = {
      manifest: { edits: [], methods: [], tasks, broken: {} }, read_data: choices, cost: { seconds: 3 }, probe_reading: reading, probe: detail,
      link: { edits: [], left_out: [], lost: [] },
      item: { args: { data: { kind: "file", name: "mine.csv", text: "text\nab" } } },
    };
    const connector = {
      subscribe: (to: Listener) => ((listener = to), () => {}),
      intent: vi.fn(async (name: string) => (name === "start" ? { job: `j${++jobs}`, cost: 3 } : name === "open_link" ? { left_out: [], lost: [] } : null)),
      query: vi.fn(async (name: string) => (name.startsWith("probe") && asked.push(name), answers[name])),
      tensors: async () => ({ metadata: {}, tensors: {} }),
      retry: () => {},
    };
    const app = new App(connector as unknown as Connector, rooted());
    app.session.start();
    void app.manifest.load();
    const state = (more: Partial<State>) =>
      listener.state({
        version: 1, model: { name: "m", hash: "h", n_layers: 30, dictionaries: [], sites: [{ name: "resid_mid", layers: 30, dims: "", absent: null }] },
        prompt: { text: "ab", bos: false, tokens: [{ id: 1, text: "a" }] }, runs: [{ id: "r1", version: 1, edits: 0, prompt: "ab" }], models: [], status: { phase: "idle" }, current: { a: "r1", b: null }, edits: [],
        selection: { layer: 0, pos: 0 }, notices: [], links: { opened: 0, undo: false }, probes: [], jobs: [], ...more,
      } as unknown as State);
    const follow = async () => {
      for (let i = 0; i < 3; i++) {
        app.probe.followDetail();
        app.probe.followReading();
        await new Promise((done) => setTimeout(done));
      }
    };
    return { app, asked, connector, state, follow };
  }

  it("asks for a probe's pictures once a revision, and for its reading once a prompt", async () => {
    const { app, asked, state, follow } = opened();
    state({});
    await follow();
    expect(app.probe.shown).toBeNull();
    expect(app.probe.recipe).toMatchObject({ site: "resid_mid.18", position: "S2", label: "order" });
    state({ probes: [{ ...probe, revision: 0 }] });
    await follow();
    state({ probes: [probe] });
    await follow();
    await follow();
    expect(asked.filter((path) => path.includes("reading"))).toHaveLength(1);
    expect(asked.filter((path) => !path.includes("reading"))).toHaveLength(2);
    expect(app.probe.now).toBeCloseTo(-4);
  });

  it("asks for nothing while the target is dragged, and puts or changes one edit when it is let go", async () => {
    const { app, asked, connector, state, follow } = opened();
    state({ probes: [probe] });
    await follow();
    const before = asked.length;
    app.probe.drag(-1);
    app.probe.drag(7);
    expect(app.probe.landing?.at).toBe(7);
    expect(asked).toHaveLength(before);
    expect(connector.intent).not.toHaveBeenCalled();
    await app.probe.apply();
    expect(connector.intent).toHaveBeenLastCalledWith("add_edit", { edit: expect.objectContaining({ kind: "lrqp", to: "BABA", log_alpha: 7 }) });
    state({ probes: [probe], edits: [{ id: "e1", enabled: true, kind: "lrqp", probe: probe.name, site: probe.site, to: "BABA", log_alpha: 7, covariance: "total", pos: [9] }] as unknown as State["edits"] });
    expect(app.probe.aim.target).toBe(7);
    app.probe.drag(-8);
    await app.probe.apply();
    expect(connector.intent).toHaveBeenLastCalledWith("set_edits", { edits: [expect.objectContaining({ id: "e1", to: "ABBA", log_alpha: 8 })] });
  });

  it("asks which token its position is where the prompt is none of its own, and reads none until that is said", async () => {
    const { app, connector, state, follow } = opened();
    const foreign = { ...reading, own: false, place: null, label: null, pos: 0 };
    connector.query.mockImplementation(async (name: string) => (name === "probe_reading" ? foreign : detail));
    state({ probes: [probe] });
    await follow();
    expect([app.probe.place, app.probe.reading, app.probe.now]).toEqual([null, null, null]);
    await app.probe.apply();
    expect(connector.intent).not.toHaveBeenCalled();
    connector.query.mockImplementation(async (name: string) => (name === "probe_reading" ? { ...foreign, pos: 4 } : detail));
    app.probe.setPlace(4);
    await follow();
    expect(connector.query).toHaveBeenLastCalledWith("probe_reading", { name: probe.name, run: "r1", pos: 4, named: false });
    expect(app.probe.reading?.pos).toBe(4);
    // that is said of this prompt, and of this position, alone
    state({ probes: [{ ...probe, position: "END" }] });
    expect(app.probe.pos).toBeNull();
  });

  it("speaks only of an edit that acts on the token that is read", async () => {
    const { app, connector, state, follow } = opened();
    const edit = { id: "e1", enabled: true, kind: "lrqp", probe: probe.name, site: probe.site, to: "BABA", log_alpha: 7, covariance: "total", pos: [9] };
    const on = (...edits: unknown[]) => state({ probes: [probe], edits: edits as State["edits"] });
    on(edit);
    await follow();
    expect([app.probe.acts, app.probe.aim.target, app.probe.beside]).toEqual([true, 7, 0]);
    on({ ...edit, enabled: false });
    expect([app.probe.acts, app.probe.edit?.id]).toEqual([false, "e1"]);
    on({ ...edit, pos: [3] }, { id: "e2", enabled: true, kind: "ablate", site: "z.0" });
    expect([app.probe.acts, app.probe.edit, app.probe.stray?.id, app.probe.beside]).toEqual([false, null, "e1", 2]);
    await app.probe.moveHere();
    expect(connector.intent).toHaveBeenLastCalledWith("set_edits", { edits: [expect.objectContaining({ id: "e1", pos: [9] }), expect.anything()] });
    // one that says no number asks for e^10 of that class, and one of another way has no place on the axis
    on({ ...edit, log_alpha: null });
    expect(app.probe.aim.target).toBe(10);
    on({ ...edit, kind: "set_concept", method: "leace" });
    expect([app.probe.acts, app.probe.landing]).toEqual([true, null]);
  });

  it("a shared link fits what its edits need before it puts them on the stack", async () => {
    const { app, connector, state } = opened();
    const asked = () => connector.intent.mock.calls.map((call) => call[0]);
    const { name, site, position, label } = probe;
    const recipe = { data, site, position, label };
    const edit = { kind: "lrqp", enabled: true, probe: name, site, to: "BABA", log_alpha: 7, covariance: "total", pos: [9] };
    const shared = { model: "m", hash: "h", prompt: "ab", bos: false, metric: null, edits: [edit] as unknown as Edit[], probes: [{ name, ...recipe }] };
    state({});
    app.view.shared = shared;
    expect(await restore(app, shared)).toBe(false);
    expect(connector.intent).toHaveBeenLastCalledWith("start", { method: "probe-map", args: recipe });
    state({ jobs: [job("j1", { args: { ...recipe, here_only: false, seed: 0 } })] });
    expect(await restore(app, shared)).toBe(false);
    expect(asked()).toEqual(["start"]);
    // here that name is another probe's: of other prompts
    const taken = { ...probe, data: { ...data, n: 90 } } as ProbeInfo;
    state({ probes: [taken, { ...probe, name: `${name} (2)` }] });
    expect(await restore(app, shared)).toBe(true);
    expect(asked()).toEqual(["start", "open_link"]);
    expect(connector.intent).toHaveBeenLastCalledWith("open_link", expect.objectContaining({ edits: [{ ...edit, probe: `${name} (2)` }] }));
  });

  it("a shared link whose fit fails goes on, and no probe of another's prompts stands in", async () => {
    const { app, connector, state } = opened();
    const { name, site, position, label } = probe;
    const recipe = { data, site, position, label };
    const edit = { kind: "lrqp", enabled: true, probe: name, site, to: "BABA", log_alpha: 7, covariance: "total", pos: [9] };
    const shared = { model: "m", hash: "h", prompt: "ab", bos: false, metric: null, edits: [edit] as unknown as Edit[], probes: [{ name, ...recipe }] };
    state({ jobs: [job("j1", { phase: "failed", args: recipe as unknown as Job["args"] })], probes: [{ ...probe, data: { ...data, n: 90 } as ProbeData }] });
    app.view.shared = shared;
    expect(await restore(app, shared)).toBe(true);
    const [, { edits }] = connector.intent.mock.lastCall as unknown as [string, { edits: { probe: string }[] }];
    expect(edits[0].probe).not.toBe(name);
  });

  it("offers the tasks that are declared, a plugin's too, each with its own label and position", async () => {
    const { app, state, follow } = opened();
    state({});
    await follow();
    expect(app.probe.tasks.map(({ id }) => id)).toEqual(["ioi", "alphabet"]);
    expect([app.probe.source, app.probe.label, app.probe.position]).toEqual(["ioi", "order", "S2"]);
    app.probe.form.prefixes = true;
    expect(app.probe.data).toEqual({ kind: "task", task: "ioi", n: 120, seed: 0, prefixes: true });
    app.probe.choosePrompts("alphabet");
    expect(app.probe.recipe).toBeNull();
    vi.useFakeTimers();
    app.probe.followData();
    await vi.runAllTimersAsync();
    vi.useRealTimers();
    // the first label of few classes, the first position that no prompt lacks
    expect(app.probe.recipe).toEqual({ data: { kind: "task", task: "alphabet", n: 120, seed: 0, prefixes: false }, site: "resid_mid.18", position: "KEY", label: "kind" });
  });

  it("says what a fit would take, and why there can be none", async () => {
    const { app, connector, state, follow } = opened();
    state({});
    await follow();
    app.probe.choices = choices;
    vi.useFakeTimers();
    app.probe.followCost();
    await vi.runAllTimersAsync();
    expect(connector.query).toHaveBeenLastCalledWith("cost", { method: "probe-map", args: app.probe.recipe });
    expect([app.probe.cost, app.probe.declined]).toEqual([3, ""]);
    connector.query.mockImplementationOnce(async () => Promise.reject(new Error("every prompt has the same kind")));
    app.probe.form.seed = 2;
    app.probe.followCost();
    await vi.runAllTimersAsync();
    vi.useRealTimers();
    expect([app.probe.cost, app.probe.declined]).toEqual([null, "every prompt has the same kind"]);
  });

  it("fits what is not there yet, stops its own older fit, and shows what is there", async () => {
    const { app, connector, state, follow } = opened();
    const sent = () => connector.intent.mock.calls.map((call) => call as unknown[]).map(([name, args]) => [name, (args as { job?: string }).job ?? ""]);
    state({});
    await follow();
    await app.probe.fit();
    expect(connector.intent).toHaveBeenLastCalledWith("start", { method: "probe-map", args: app.probe.recipe });
    state({ jobs: [job("j0"), job("j1", { phase: "waiting" })] });
    expect(app.probe.job?.id).toBe("j0");
    app.probe.form.seed = 1;
    await app.probe.fit();
    expect(sent()).toEqual([["start", ""], ["cancel", "j1"], ["start", ""]]);
    const there = { ...probe, data: { ...data, n: 120, seed: 1 } as ProbeData, site: "resid_mid.18" };
    state({ probes: [there, { ...probe, name: "later" }] });
    expect(app.probe.shown?.name).toBe("later");
    await app.probe.fit();
    expect(sent()).toHaveLength(3);
    expect(app.probe.shown?.name).toBe(there.name);
    state({ probes: [{ ...there, mapped: "part" }] });
    await app.probe.fit();
    expect(sent()).toHaveLength(4);
  });

  it("fits at a cell of the map from the shown probe's own prompts, a file's text too", async () => {
    const { app, connector, state, follow } = opened();
    state({ probes: [{ ...probe, data: { ...data, seed: 7 } as ProbeData }] });
    await follow();
    await app.probe.fitAt("resid_mid.3", "END");
    expect(connector.intent).toHaveBeenLastCalledWith("start", { method: "probe-map", args: { data: { ...data, seed: 7 }, site: "resid_mid.3", position: "END", label: "order" } });
    expect(app.probe.recipe).toEqual({ data: { ...data, seed: 7 }, site: "resid_mid.3", position: "END", label: "order" });
    const file = { kind: "file", name: "mine.csv", text: "text\nab" };
    state({ probes: [{ ...probe, data: { kind: "file", name: "mine.csv" } }] });
    await app.probe.fitAt("resid_mid.3", "END");
    expect(connector.intent).toHaveBeenLastCalledWith("start", { method: "probe-map", args: { data: file, site: "resid_mid.3", position: "END", label: "order" } });
    // the same file is the same probe; another text of that name is not
    const started = connector.intent.mock.calls.length;
    state({ probes: [{ ...probe, site: "resid_mid.3", position: "END", data: { kind: "file", name: "mine.csv" } }] });
    await app.probe.fit();
    expect(connector.intent.mock.calls).toHaveLength(started);
    app.probe.file = { name: "mine.csv", text: "another" };
    await app.probe.fit();
    expect(connector.intent.mock.calls).toHaveLength(started + 1);
  });

  it("tells of what went wrong until it is dismissed, and no more of it once another is done", async () => {
    const { app, connector, state } = opened();
    const error = { type: "ShelfFull", message: "the shelf is full", received: null, allowed: null, fix: null };
    state({ jobs: [job("j1", { phase: "failed", error })] });
    expect(app.probe.job?.error?.message).toBe("the shelf is full");
    await app.probe.cancel();
    expect(connector.intent).toHaveBeenLastCalledWith("cancel", { job: "j1" });
    state({ jobs: [job("j1", { phase: "failed", error }), job("j2", { phase: "done", items: ["a"] })] });
    expect(app.probe.job).toBeNull();
    state({ jobs: [job("j2", { phase: "done", note: "could not be written down" })] });
    expect(app.probe.job?.note).toContain("written");
  });

  it("does not show a probe that came without its prompts", () => {
    const { app, state } = opened();
    state({ probes: [probe, { ...probe, name: "bare", mapped: "none", data: null }] });
    expect(app.probe.shown?.name).toBe(probe.name);
  });

  it("says when the form asks for something else than is shown", async () => {
    const { app, state, follow } = opened();
    state({ probes: [{ ...probe, site: "resid_mid.18", data: { kind: "task", task: "ioi", n: 120, seed: 0, prefixes: false } }] });
    await follow();
    expect(app.probe.stale).toBe(false);
    app.probe.form.seed = 1;
    expect(app.probe.stale).toBe(true);
  });
});
