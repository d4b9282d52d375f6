import { describe, expect, it } from "vitest";
import type { SiteRow } from "../src/lib/map";
import { flowHeight, flowLayout, type FlowShape } from "../src/lib/mapFlow";
import { onPaper, roomOn } from "../src/lib/paper";
import { axes, headOf, shares, valueOf, widthOf } from "../src/views/mapFlow";

const row = (place: string, reads: string, more: Partial<SiteRow> = {}): SiteRow => ({
  site: place, place, shape: { pos: 4, d_model: 8 }, about: "", norm: 1, values: [1], where: null, equation: "x", reads: reads ? reads.split(" ").map((name) => `${name}.3`) : [], same: null, ...more,
});
const block = (steps: [string, string][]): SiteRow[] => steps.map(([name, reads]) => row(`${name}.3`, reads));

const ATTENTION: [string, string][] = [["attn_scale", "resid_pre"], ["attn_in", "resid_pre attn_scale"], ["q", "attn_in"], ["k", "attn_in"], ["v", "attn_in"], ["scores", "q k"], ["pattern", "scores"], ["z", "pattern v"], ["result", "z"]];
const NEURONS: [string, string][] = [["mlp_pre", "mlp_in"], ["mlp_gate", "mlp_in"], ["mlp_post", "mlp_pre mlp_gate"]];
const BLOCKS: Record<string, SiteRow[]> = {
  "one after the other": block([["resid_pre", ""], ...ATTENTION, ["attn_out", "result"], ["resid_mid", "resid_pre attn_out"], ["mlp_scale", "resid_mid"], ["mlp_in", "resid_mid mlp_scale"], ...NEURONS, ["mlp_out", "mlp_post"], ["resid_post", "resid_mid mlp_out"]]),
  "side by side, one norm": block([["resid_pre", ""], ...ATTENTION, ["attn_out", "result"], ["mlp_in", "attn_in"], ...NEURONS, ["mlp_out", "mlp_post"], ["resid_post", "resid_pre attn_out mlp_out"]]),
  "norms of everything": block([
    ["resid_pre", ""], ["attn_scale", "resid_pre"], ["attn_in", "resid_pre attn_scale"], ["q_scale", "attn_in"], ["q", "attn_in q_scale"], ["k_scale", "attn_in"], ["k", "attn_in k_scale"], ["v", "attn_in"], ["scores", "q k"], ["pattern", "scores"], ["z", "pattern v"], ["result", "z"],
    ["attn_raw", "result"], ["attn_post_scale", "attn_raw"], ["attn_out", "attn_raw attn_post_scale"], ["resid_mid", "resid_pre attn_out"], ["mlp_scale", "resid_mid"], ["mlp_in", "resid_mid mlp_scale"], ...NEURONS, ["mlp_raw", "mlp_post"], ["mlp_post_scale", "mlp_raw"], ["mlp_out", "mlp_raw mlp_post_scale"], ["resid_post", "resid_mid mlp_out"],
  ]),
  "attention alone": block([["resid_pre", ""], ...ATTENTION, ["attn_out", "result"], ["resid_post", "resid_pre attn_out"]]),
  experts: block([["resid_pre", ""], ...ATTENTION, ["attn_out", "result"], ["resid_mid", "resid_pre attn_out"], ["mlp_scale", "resid_mid"], ["mlp_in", "resid_mid mlp_scale"], ["router", "mlp_in"], ["experts", "mlp_in router"], ["mlp_out", "router experts"], ["resid_post", "resid_mid mlp_out"]]),
};

describe.each(Object.keys(BLOCKS))("a block drawn, %s", (name) => {
  const rows = BLOCKS[name];
  it.each<[FlowShape, number]>([["screen", 700], ["screen", 420], ["wide", 637], ["column", 297]])("%s of %i px: every step once, none over another, all within", (shape, room) => {
    const layout = flowLayout(rows, room, shape);
    expect(layout.nodes.map(({ row }) => row.place)).toEqual(rows.map(({ place }) => place));
    const boxes = layout.nodes.map((node) => ({ ...node, w: widthOf(node, layout), h: layout.box.h }));
    for (const [i, a] of boxes.entries()) {
      expect(a.x + a.w).toBeLessThanOrEqual(layout.width + 0.5);
      expect(a.y + a.h).toBeLessThanOrEqual(layout.height + 0.5);
      for (const b of boxes.slice(i + 1)) expect(a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y, `${a.name} over ${b.name}`).toBe(true);
    }
    if (shape !== "screen") expect(layout.width).toBeLessThanOrEqual(room + 16);
    const branches = rows.some(({ place }) => place.startsWith("mlp_out")) ? 2 : 1;
    expect(layout.lines.filter(({ writes }) => writes)).toHaveLength(branches);
  });

  it("is as tall as was said", () => expect(flowLayout(rows, 700).height).toBe(flowHeight(rows)));

  it("joins each step to what it reads, and to nothing twice", () => {
    const { lines } = flowLayout(rows, 700);
    expect(new Set(lines.map(({ d }) => d)).size).toBe(lines.length);
    expect(lines.length).toBeGreaterThanOrEqual(rows.length - 4);
  });
});

describe("what stands at a step", () => {
  const of = { head: 4, group: 3, tokens: ["When", " John"] };
  it("is the selected head's, and of keys and values that of its group", () => {
    const k = row("k.3", "", { shape: { pos: 4, kv_head: 3, d_head: 2 }, values: [1, 2.5, 3] });
    expect([headOf(k, of), valueOf(k, of), shares(k, of)]).toEqual([1, "2.50", "KV 1 · heads 3–5"]);
    const q = row("q.3", "", { shape: { pos: 4, head: 9, d_head: 2 }, values: [0, 1, 2, 3, 4.25, 5, 6, 7, 8], norm: 20 });
    expect([valueOf(q, of), shares(q, of)]).toEqual(["4.25", ""]);
    expect(valueOf(q, { ...of, head: null })).toBe("20");
  });
  it("is, of a pattern, the largest and its key; of a router, the expert", () => {
    const shape = { head: 9, query: 4, key: 4 };
    const pattern = row("pattern.3", "", { shape, norm: null, values: Array(9).fill(0.63), where: Array(9).fill(1) as number[] });
    expect(valueOf(pattern, of)).toBe("0.630 John");
    expect(valueOf(pattern, { ...of, head: null })).toBe("");
    expect(axes(pattern)).toBe("head 9 × query 4 × key 4");
    expect(valueOf(row("router.3", "", { shape: { pos: 4, expert: 4 }, values: [0.316], where: [3] }), of)).toBe("0.316 e3");
  });
});

describe("for a paper", () => {
  it("letters of 8 px are six points where the picture is as wide as it may be", () => {
    for (const mm of [85, 175]) {
      const room = roomOn(mm, 8);
      const points = (8 * (mm / 25.4) * 72) / room;
      expect(points).toBeGreaterThanOrEqual(6);
      expect(points).toBeLessThan(6.03);
    }
  });
  it("a picture is as wide as was asked, its shape kept", () => {
    expect(onPaper('<svg xmlns="x" width="640" height="320" viewBox="0 0 640 320"><rect width="5" height="6"/></svg>', 85)).toBe('<svg xmlns="x" width="85mm" height="42.50mm" viewBox="0 0 640 320"><rect width="5" height="6"/></svg>');
  });
});
