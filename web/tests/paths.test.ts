import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Companion, Edit, ModelInfo } from "../src/connect/wire";
import { cellPatch, toggledPatch } from "../src/lib/patching";
import { boxOf, layOut, nodeAt } from "../src/lib/mapLayout";
import { steers, toggledSteers } from "../src/lib/mapSteer";
import { arrow, blocksOf, cone, endAt, endName, endsOf, outside, pathEdit, pointOf, reaches, sends, type Blocks, type End } from "../src/lib/mapPaths";

/** What Python takes, of models of every shape, for every pair of ends. */
const LIST = JSON.parse(readFileSync("../tests/path_targets.json", "utf8")) as { family: string; n_layers: number; n_heads: number; n_kv_heads: number; absent: string[]; ends: string[]; reads: string[] }[];

const model = ({ absent, ...rest }: (typeof LIST)[number]): Blocks =>
  blocksOf({ ...rest, sites: ["embed", "resid_mid", "z", "mlp_out", "mlp_in", "q", "k", "v", "final_norm"].map((name) => ({ name, layers: 1, dims: "", absent: absent.includes(name) ? "why" : null })) } as unknown as ModelInfo);

function allEnds({ layers, heads }: Blocks): End[] {
  const nodes = Array.from({ length: layers }, (_, layer) => [...Array.from({ length: heads }, (_, head) => ({ layer, head })), { layer, head: null }]).flat();
  return ["embed", ...nodes, "logits"];
}

describe("what a path may lead to", () => {
  it.each(LIST.map((one) => [one.family, one] as const))("is what Python takes, for every pair of %s", (_, listed) => {
    const blocks = model(listed);
    const ends = allEnds(blocks);
    expect(ends.map(endName)).toEqual(listed.ends);
    expect(ends.map((from) => ends.map((to) => +reaches(from, to, blocks)).join(""))).toEqual(listed.reads);
    ends.forEach((from, i) => expect(sends(from, blocks) || !listed.reads[i].includes("1")).toBe(true));
  });
  it("is of both kinds of blocks, and of models that lack some sites", () => {
    expect(new Set(LIST.map((one) => model(one).parallel))).toEqual(new Set([true, false]));
    expect(LIST.some(({ absent }) => absent.includes("mlp_out"))).toBe(true);
  });
});

describe("a path edit", () => {
  const gqa = { shared: [3, 3, 3, 3, 3, 3] };
  it("names the sites of its ends, and keys by the head that several queries share", () => {
    expect(pathEdit({ layer: 2, head: 4 }, { layer: 5, head: 7 }, "q", gqa)).toEqual({ kind: "path", sender: "z.2", sender_head: 4, receiver: "q.5", head: 7 });
    expect(pathEdit({ layer: 2, head: null }, { layer: 5, head: 7 }, "k", gqa)).toEqual({ kind: "path", sender: "mlp_out.2", receiver: "k.5", kv_head: 2 });
    expect(pathEdit("embed", { layer: 5, head: null }, "q", gqa)).toEqual({ kind: "path", sender: "embed", receiver: "mlp_in.5" });
    expect(pathEdit({ layer: 2, head: 4 }, "logits", "q", gqa)).toEqual({ kind: "path", sender: "z.2", sender_head: 4, receiver: "final_norm" });
    expect(pathEdit("embed", { layer: 1, head: 7 }, "v", { shared: [3, 1] })).toEqual({ kind: "path", sender: "embed", receiver: "v.1", kv_head: 7 }); // layers differ
  });
  it("is drawn between the ends it names", () => {
    const blocks = { layers: 6, heads: 9, ...gqa, parallel: false, absent: new Set<string>() };
    for (const [from, to, reads] of [[{ layer: 2, head: 4 }, { layer: 5, head: 7 }, "q"], [{ layer: 2, head: null }, { layer: 5, head: null }, "q"], ["embed", "logits", "q"]] as const)
      expect(endsOf(pathEdit(from, to, reads, gqa), blocks)).toEqual({ from, to });
    expect(endsOf(pathEdit("embed", { layer: 5, head: 7 }, "v", gqa), blocks)).toEqual({ from: "embed", to: { layer: 5, head: 6 } }); // the first that shares it
    expect(endsOf({ kind: "path", sender: "attn_out.1", receiver: "q.2" }, blocks)).toBeNull();
    expect(endsOf({ kind: "patch", site: "z.1" }, blocks)).toBeNull();
  });
});

describe("the picture of paths", () => {
  it.each(LIST.map((one) => [one.family, one] as const))("shades of %s exactly what cannot read the sender", (_, listed) => {
    const blocks = model(listed);
    const layout = layOut(blocks.layers, blocks.heads, 1, { width: 740, height: 500 });
    for (const from of allEnds(blocks).filter((end) => sends(end, blocks))) {
      const shaded = outside(layout, from, blocks);
      for (const to of allEnds(blocks)) {
        if (typeof to === "string" || (to.head === null && blocks.absent.has("mlp_in"))) continue;
        const { x, y } = pointOf(layout, to)!;
        const hidden = shaded.some((area) => x >= area.x && x < area.x + area.w && y >= area.y && y < area.y + area.h);
        expect([endName(from), endName(to), !hidden]).toEqual([endName(from), endName(to), reaches(from, to, blocks)]);
      }
      expect(cone(layout, from, blocks)).toMatch(/^M.*Z$/);
    }
  });
  it("finds each end where it is drawn, and no end in a band of layers", () => {
    const layout = layOut(30, 9, 23, { width: 740, height: 530 });
    for (const end of ["embed", "logits", { layer: 3, head: 2 }, { layer: 23, head: null }] as End[]) {
      const at = pointOf(layout, end)!;
      expect(endAt(layout, at, nodeAt(layout, at.x, at.y))).toEqual(end);
    }
    const tall = layOut(80, 8, 79, { width: 740, height: 530 });
    const box = boxOf(tall, { layer: 3, head: 1 })!;
    expect(endAt(tall, { x: box.x + 2, y: box.y + 2 }, nodeAt(tall, box.x + 2, box.y + 2))).toBe("band");
  });
  it("draws an arrow from the one to the other", () => {
    expect(arrow({ x: 10, y: 100 }, { x: 200, y: 20 })).toMatch(/^M10 100Q.* 200 20M/);
    expect(arrow({ x: 10, y: 100 }, { x: 10, y: 20 })).toMatch(/^M10 100Q24|Q26/);
  });
});

describe("steering a part", () => {
  const along = (width: number | null) => ({ direction: { kind: "mix", terms: [] }, label: "d", width, strength: { strength: 2, unit: "sd" } });
  const nodes = [{ layer: 4, head: 1 }, { layer: 4, head: 2 }, { layer: 4, head: null }];
  it("is in the stream behind the layer, once, or in the z of a head where the direction is as wide", () => {
    expect(steers(nodes, along(576), 576)).toEqual([{ kind: "steer", site: "resid_post.4", direction: along(1).direction, strength: 2, unit: "sd" }]);
    expect(steers(nodes, along(null), 576)).toHaveLength(1); // the answers' own
    expect(steers(nodes.slice(0, 2), along(64), 576).map(({ site, head }) => [site, head])).toEqual([["z.4", [1, 2]]]);
    expect(steers(nodes.slice(2), along(1536), 576).map(({ site }) => site)).toEqual(["mlp_post.4"]);
  });
  it("goes off by the same press, whatever its strength has become; others stay", () => {
    const [wanted] = steers(nodes, along(576), 576);
    const other = { ...wanted, pos: [3] };
    const on = toggledSteers([other], [wanted]);
    expect(on).toEqual([other, wanted]);
    expect(toggledSteers([other, { ...wanted, id: "e1", strength: 5, pos: null, direction: { terms: [], kind: "mix", site: null } }], [wanted])).toEqual([other]);
    expect(toggledSteers([{ ...wanted, enabled: false }], [wanted])).toEqual([wanted]);
  });
});

describe("a cell patched from the companion", () => {
  const companion = { text: "abd", bos: false, tokens: [], pairs: [] } as unknown as Companion;
  const wanted = cellPatch({ site: "resid_post.3" }, 4, 5);
  it("goes on in place of another of the cell, and off by the same gesture", () => {
    const kept: Edit = { ...wanted, source: { kind: "prompt", text: "abd", bos: null, edits: [] }, pos: [4], align: [[4, 5]] };
    const other: Edit = { ...kept, align: { 4: 6 } };
    const elsewhere: Edit = { ...kept, site: "resid_post.4" };
    expect(wanted).toEqual({ kind: "patch", site: "resid_post.3", pos: [4], source: { kind: "companion" }, align: [[4, 5]] });
    expect(toggledPatch([other, elsewhere], wanted, companion)).toEqual([elsewhere, wanted]);
    expect(toggledPatch([kept, elsewhere], wanted, companion)).toEqual([elsewhere]);
    expect(toggledPatch([{ ...kept, source: { kind: "prompt", text: "abc" } }], wanted, companion)).toEqual([wanted]);
  });
});
