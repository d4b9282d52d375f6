import { describe, expect, it } from "vitest";
import { cellEdit, changedAt, patchedRun, sweepArgs, sweepField, usualPatch } from "../src/lib/patchGrid";
import type { HeatMapView } from "../src/views/kinds/plain";

const said = (text: string, ids: number[]) => ({ text, bos: false, by_ids: false, tokens: ids.map((id) => ({ id, text: `t${id}` })), chat: null, outcome: null, pairs: [] }) as never;
const [clean, other] = [said("a b", [1, 2]), said("a c", [1, 3])];
const metric = { positive: { id: 1, text: " Mary" }, negative: { id: 2, text: " John" }, chosen: true } as never;

describe("a patching sweep", () => {
  it("is asked for by the two prompts, whichever is the clean one", () => {
    const args = sweepArgs(usualPatch(), clean, other, metric, [])!;
    expect(args).toMatchObject({ clean: { texts: ["a b"] }, corrupted: { texts: ["a c"] }, mode: "denoise", normalize: true, metric: { kind: "logit_diff" } });
    const turned = sweepArgs({ ...usualPatch(), clean: "companion", by: "logits" }, clean, other, metric, [])!;
    expect(turned).toMatchObject({ clean: { texts: ["a c"] }, corrupted: { texts: ["a b"] }, normalize: false });
  });
  it("is the same call once the two have changed places", () => {
    const before = sweepArgs(usualPatch(), clean, other, metric, []);
    expect(sweepArgs({ ...usualPatch(), clean: "companion" }, other, clean, metric, [])).toEqual(before);
  });
  it("is not asked for without what it takes", () => {
    expect(sweepArgs(usualPatch(), clean, null, metric, [])).toBeNull();
    expect(sweepArgs(usualPatch(), clean, other, null, [])).toBeNull();
    expect(sweepArgs({ ...usualPatch(), sweep: "causal-tracing" }, clean, null, metric, [])).toBeNull();
    expect(sweepArgs({ ...usualPatch(), sweep: "causal-tracing" }, clean, null, metric, [1])).toMatchObject({ subject: [1], window: 1 });
  });
  it("knows whose run is patched, and which tokens differ", () => {
    expect(patchedRun({ clean: "prompt", mode: "denoise" })).toBe("companion");
    expect(patchedRun({ clean: "prompt", mode: "noise" })).toBe("prompt");
    expect(patchedRun({ clean: "companion", mode: "denoise" })).toBe("prompt");
    expect(changedAt(clean, other)).toEqual([1]);
    expect(changedAt(clean, said("a", [1]))).toEqual([]);
  });
  it("is coloured from where nothing happens, and says its own numbers", () => {
    const view = { kind: "heat_map", values: [[1, 0.25], [null, 1]], rows: ["3", "7"], columns: ["0 a", "1 b"], unit: "share" } as unknown as HeatMapView;
    const field = sweepField(view, "resid_pre", 1);
    expect([...field.values]).toEqual([0, -0.75, NaN, 0]);
    expect([...field.said!]).toEqual([1, 0.25, NaN, 1]);
    expect([field.scale, field.sites]).toEqual([0.75, ["resid_pre.3", "resid_pre.7"]]);
  });
  it("makes an edit of a cell", () => {
    expect(cellEdit("resid_pre.3", 9, false)).toEqual({ kind: "patch", site: "resid_pre.3", pos: [9], source: { kind: "companion" }, align: [[9, 9]] });
    expect(cellEdit("z.3", 4, true)).toEqual({ kind: "patch", site: "z.3", head: 4, source: { kind: "companion" } });
  });
});
