import { describe, expect, it } from "vitest";
import type { Edit } from "../src/connect/wire";
import { attentionTo, between, difference, summed, tintScale, type MapData } from "../src/lib/map";
import { patternDifference } from "../src/lib/mapPatterns";
import { acted, actsOn, done, scaled, toggled } from "../src/lib/mapEdits";
import { boxOf, layOut, nodeAt, rowOf, valueIn } from "../src/lib/mapLayout";

const SHAPES = [[12, 12], [30, 9], [80, 64], [1, 1], [49, 8]];

describe("the layout", () => {
  it.each(SHAPES)("of %i layers x %i heads has every layer once, from the last down, without gaps", (layers, heads) => {
    for (const focus of [null, 0, layers - 1]) {
      const { rows, height } = layOut(layers, heads, focus, { width: 740, height: 520 });
      expect(rows.flatMap(({ from, to }) => Array.from({ length: to - from + 1 }, (_, i) => to - i))).toEqual(Array.from({ length: layers }, (_, i) => layers - 1 - i));
      rows.slice(1).forEach((row, i) => expect(row.y).toBe(rows[i].y + rows[i].h));
      expect(rows.at(-1)!.y + rows.at(-1)!.h).toBeLessThan(height);
      expect(rows.filter(({ kind }) => kind === "open")).toHaveLength(focus === null ? 0 : 1);
    }
  });

  it("of 30 x 9 fits a laptop's view without scrolling, with patterns and numbers", () => {
    const { height, width, patterns, numbers } = layOut(30, 9, 23, { width: 740, height: 530 });
    expect([height <= 530, width <= 740, patterns, numbers]).toEqual([true, true, true, true]);
  });

  it("of 80 x 64 is bands, and the layers of the one that is looked into", () => {
    const { rows, height, patterns } = layOut(80, 64, 44, { width: 740, height: 530 });
    expect([rows.length < 20, height <= 530, patterns]).toEqual([true, true, false]);
    expect(rows.filter(({ kind }) => kind === "layer").map(({ from }) => from)).toEqual([47, 46, 45, 43, 42, 41, 40]);
  });

  it.each(SHAPES)("of %i x %i finds each node again where its box is", (layers, heads) => {
    const layout = layOut(layers, heads, layers - 1, { width: 740, height: 530 });
    for (const layer of [layers - 1, 0])
      for (const head of [0, heads - 1, null]) {
        const box = boxOf(layout, { layer, head })!;
        const found = nodeAt(layout, box.x + box.w / 2, box.y + box.h / 2)!;
        expect(found.head).toBe(head);
        expect(found.row).toBe(rowOf(layout, layer));
      }
    expect(nodeAt(layout, 2, 40)).toBeNull();
  });

  it.each([320, 440, 500, 580, 640, 740, 1200])("keeps its columns apart at %i px", (width) => {
    const { heads, spine, mlp, bars, lens, curve } = layOut(12, 12, 3, { width, height: 500 });
    const columns = [heads, spine, mlp, bars, lens, curve];
    columns.slice(1).forEach((column, i) => expect(column.x).toBeGreaterThanOrEqual(columns[i].x + columns[i].w - 1e-9));
  });

  it("shows of a band what is farthest from zero", () => {
    expect(valueIn({ kind: "band", from: 0, to: 3, y: 0, h: 1 }, (layer) => [0.1, -2, 1, NaN][layer])).toBe(-2);
  });
});

describe("edits of nodes", () => {
  const heads = (layer: number, ...of: number[]) => of.map((head) => ({ layer, head }));

  it("go on and off by the same press", () => {
    const on = toggled([], "ablate", heads(23, 3), 9);
    expect(on).toEqual([{ kind: "ablate", site: "z.23", head: 3, to: "zero" }]);
    expect(toggled(on, "ablate", heads(23, 3), 9)).toEqual([]);
  });

  it("of a rectangle are one a layer, and what has one already gets no second", () => {
    const all = [...heads(4, 1, 2), ...heads(5, 1, 2), { layer: 5, head: null }];
    const on = toggled([{ kind: "ablate", site: "z.4", head: 1, to: "zero" }], "ablate", all, 9);
    expect(on.slice(1)).toEqual([
      { kind: "ablate", site: "z.4", head: 2, to: "zero" },
      { kind: "ablate", site: "z.5", head: [1, 2], to: "zero" },
      { kind: "ablate", site: "mlp_out.5", to: "zero" },
    ]);
    expect(done(on, "ablate", all)).toBe(true);
    expect(toggled(on, "ablate", all, 9)).toEqual([]);
  });

  it("leave the other heads of an edit, of all heads too", () => {
    expect(toggled([{ kind: "freeze", site: "pattern.2" }], "freeze", heads(2, 0), 3)).toEqual([{ kind: "freeze", site: "pattern.2", head: [1, 2] }]);
    expect(toggled([{ kind: "isolate", site: "z.2", head: [0, 1], to: "zero" }], "isolate", heads(2, 0), 3)).toEqual([{ kind: "isolate", site: "z.2", head: 1, to: "zero" }]);
  });

  it("do not touch those at some positions, of another value, or elsewhere", () => {
    const others: Edit[] = [{ kind: "ablate", site: "z.2", head: 0, pos: [3] }, { kind: "ablate", site: "z.2", head: 0, to: "mean" }, { kind: "ablate", site: "z.3", head: 0 }];
    expect(toggled(others, "ablate", heads(2, 0), 3)).toEqual([...others, { kind: "ablate", site: "z.2", head: 0, to: "zero" }]);
  });

  it("from one run take the place of those from another", () => {
    const from = (text: string) => ({ source: { kind: "prompt", text } });
    const meant = (edit: Edit) => (edit.source as { text: string }).text === "b";
    const old: Edit[] = [{ kind: "patch", site: "z.1", head: [0, 2], ...from("a") }, { kind: "patch", site: "z.1", head: 0, feature: 3, dictionary: "d", ...from("b") }];
    expect(done(old, "patch", heads(1, 0), meant)).toBe(false);
    const on = toggled(old, "patch", heads(1, 0), 3, from("b"), meant);
    expect(on).toEqual([{ kind: "patch", site: "z.1", head: 2, ...from("a") }, old[1], { kind: "patch", site: "z.1", head: 0, ...from("b") }]);
    expect(toggled(on, "patch", heads(1, 0), 3, from("b"), meant)).toEqual(on.slice(0, 2));
  });

  it("scale by steps, and at one are gone", () => {
    const once = scaled([], heads(1, 0, 1), -0.25, 4);
    expect(once).toEqual([{ kind: "scale", site: "z.1", head: [0, 1], factor: 0.75 }]);
    const apart = scaled(once, heads(1, 0), -0.25, 4);
    expect(apart).toEqual([{ kind: "scale", site: "z.1", head: 1, factor: 0.75 }, { kind: "scale", site: "z.1", head: 0, factor: 0.5 }]);
    expect(scaled(apart, heads(1, 1), 0.25, 4)).toEqual([{ kind: "scale", site: "z.1", head: 0, factor: 0.5 }]);
  });

  it("are known by node, of those switched on", () => {
    const shown = (edit: Edit) => ({ id: "e", enabled: true, error: null, ...edit }) as never;
    const all = acted([shown({ kind: "freeze", site: "pattern.1" }), shown({ kind: "ablate", site: "z.1", head: 2 }), shown({ kind: "ablate", site: "mlp_out.0", enabled: false })], 4);
    expect([...actsOn(all, { layer: 1, head: 2 }).keys()]).toEqual(["freeze", "ablate"]);
    expect([...actsOn(all, { layer: 1, head: 0 }).keys()]).toEqual(["freeze"]);
    expect(actsOn(all, { layer: 0, head: null }).size).toBe(0);
  });
});

describe("the numbers", () => {
  const data = (k: number): MapData => ({
    run: "r", layers: 2, heads: 2, pos: 3, metric: 10 * k, effects: Float32Array.of(1, 2, 3, 4), attn: Float32Array.of(3 * k, 1), mlp: Float32Array.of(2, 1),
    terms: { embed: k }, looks: Float32Array.of(k, 0, 0, k, 1, 0, 0, 1), thumbs: null, side: 0, absent: "",
  });
  it("say where heads look, and how that changed", () => {
    expect([...attentionTo(data(1), 0)]).toEqual([1, 0, 1, 0]);
    expect([...attentionTo(difference(data(3), data(1)), 0)]).toEqual([2, 0, 0, 0]);
    expect([...attentionTo({ ...data(1), looks: null }, 0)]).toEqual([NaN, NaN, NaN, NaN]);
  });
  it("sum layer by layer to the metric", () => expect(summed(data(1))).toEqual([1, 6, 8]));
  it("differ part by part", () => {
    const { metric, attn, terms } = difference(data(2), data(1));
    expect([metric, ...attn, terms.embed]).toEqual([10, 3, 0, 1]);
  });
  it("have one scale for both runs", () => expect(tintScale({ heads: Float32Array.of(0, -5), mlp: null }, { heads: Float32Array.of(1), mlp: Float32Array.of(9) })).toBe(9));
  it("name every node of a rectangle, the MLP beyond the last head", () => {
    expect(between({ layer: 3, head: 1 }, { layer: 2, head: null }, 2)).toEqual([{ layer: 2, head: 1 }, { layer: 2, head: null }, { layer: 3, head: 1 }, { layer: 3, head: null }]);
  });
});

describe("a pattern less another", () => {
  const layer = (values: number[]) => ({ layer: 1, run: "r", pos: 1, pattern: Float32Array.from(values), side: 2, norms: new Float32Array(), neurons: [], sites: [], absent: "" });
  it("is of one head, and of what the mask lets it see", () => {
    const [b, a] = [layer([0, 0, 0, 0, 1, 0, 0.25, 0.75]), layer([0, 0, 0, 0, 1, 0, 0.5, 0.5])];
    const view = patternDifference(b, a, 1, ["a", " b"], "t")!;
    expect([view.values, view.limit, view.rows]).toEqual([[[0, null], [-0.25, 0.25]], 0.25, ["0 a", "1 ·b"]]);
    expect(patternDifference(b, a, 1, ["a"], "t")).toBeNull();
  });
});
