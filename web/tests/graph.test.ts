import { describe, expect, it } from "vitest";
import type { GraphShown } from "../src/connect/wire";
import { ALL, asked, chosenAt, intervention, itemOf, membersOf, partsOf, placeOf, sorted, weightAt } from "../src/lib/graph";
import { decodeView, encodeView } from "../src/state/hash";
import { kindOf } from "../src/views/kinds/kinds";
import { joined, LOWERS, network, RAISES } from "../src/views/kinds/network";
import { bezier, laid, nearest, shortened } from "../src/views/kinds/networkLayout";
import type { NetworkView } from "../src/views/kinds/plain";
import { svgFile } from "../src/views/kinds/scene";
import { palette } from "./palette";

const node = (id: string, x: number, y: number, more = {}) => ({ id, label: id, x, y, value: null, group: "", text: "", link: "", error: false, ...more });
const view = (more: Partial<NetworkView> = {}): NetworkView => ({
  kind: "network", title: "G", unit: "activation", node_unit: "", note: "", limit: null, levels: ["low", "high"], columns: [],
  nodes: [node("sae 1", 0, 0), node("sae 2", 1, 0, { link: "https://example.org/2" }), node("error", 2, 0, { error: true }), node("sae 7", 0.5, 1)],
  edges: [{ source: 0, target: 3, value: 2, text: "" }, { source: 1, target: 3, value: -4, text: "" }, { source: 2, target: 3, value: 0.5, text: "" }],
  ...more,
});
const item = { members: [], named: false, group: "", index: 1, pos: null, activation: 1, effect: null };
const shown = (more: Partial<GraphShown> = {}): GraphShown => ({
  item: "g", prompt: ["a", "b"], ids: [1, 2], positions: [1], range: [0.1, 10], scale: 0, groups: [], estimated: false,
  nodes: [
    { ...item, id: "lo/3", label: "sae 3", dictionary: "lo", members: ["lo/3"] },
    { ...item, id: "lo/11@1", label: "sae 11", dictionary: "lo", pos: 1, members: ["lo/11@1"] },
    { ...item, id: "lo/error", label: "error", dictionary: "lo", index: -1, members: ["lo/error"] },
    { ...item, id: "group/pair", label: "pair", dictionary: "hi", group: "pair", members: ["hi/1", "hi/2"] },
    { ...item, id: "next/0", label: " x", dictionary: "", index: null },
  ],
  edges: [{ source: 0, target: 3, weight: -2, exact: null }, { source: 1, target: 3, weight: 1, exact: 0.9 }],
  dictionaries: [{ id: "lo", here: "sae@resid_post.0", missing: null }, { id: "hi", here: null, missing: "not loaded: hi" }],
  ...more,
}) as GraphShown;

describe("a network", () => {
  const scene = network.draw(view(), 640, palette);
  const { reader } = scene;

  it("draws nodes in their levels, from the bottom, beside each other", () => {
    const boxes = [0, 1, 2, 3].map((i) => reader.box(i));
    expect(boxes[0].y).toBe(boxes[1].y);
    expect(boxes[3].y).toBeLessThan(boxes[0].y);
    expect(boxes[0].x + boxes[0].w).toBeLessThan(boxes[1].x);
    for (const box of boxes) expect([box.x >= 0, box.x + box.w <= scene.width]).toEqual([true, true]);
  });
  it("is red where the source raises, blue where it lowers, and says so", () => {
    const paths = scene.dense.filter((mark) => mark.kind === "path" && !mark.fill && mark.title);
    expect(paths.map((mark) => mark.kind === "path" && mark.stroke)).toEqual(["rgb(214,96,77)", "rgb(214,96,77)", "rgb(67,147,195)"]); // the weakest first
    const words = scene.marks.flatMap((mark) => (mark.kind === "text" ? [mark.title ?? mark.text] : []));
    expect(words).toEqual(expect.arrayContaining([RAISES, LOWERS, "low", "high"]));
    expect(reader.words(4).more).toContain(RAISES);
    expect(reader.words(5)).toMatchObject({ head: "sae 2 of low → sae 7 of high", value: "−4 activation", more: [LOWERS] });
  });
  it("finds the node or the edge under a point", () => {
    const box = reader.box(3);
    expect(reader.at(box.x + 2, box.y + 2)).toBe(3);
    const middle = reader.box(4);
    expect(reader.at(middle.x + 4, middle.y + 4)).toBe(4);
    expect(reader.at(1, scene.height - 1)).toBeNull();
  });
  it("is walked along its strongest edges, and within a level", () => {
    expect(reader.step(3, 0, 1)).toBe(1); // down: what lowers it most
    expect(reader.step(0, 0, -1)).toBe(3);
    expect(reader.step(0, 1, 0)).toBe(1);
    expect(reader.step(2, 1, 0)).toBe(2);
    expect(reader.step(5, 0, -1)).toBe(3);
    expect(reader.step(5, 1, 0)).not.toBe(5);
    const lone = network.draw(view({ edges: [] }), 640, palette).reader;
    expect(lone.step(3, 0, 1)).toBeLessThan(3);
  });
  it("lights what a node is joined with", () => {
    expect(reader.over!(3).filter((mark) => mark.kind === "path" && !mark.fill)).toHaveLength(3);
    expect(reader.over!(4).filter((mark) => mark.kind === "path" && !mark.fill)).toHaveLength(1);
    expect(joined(view()).into[3]).toEqual([1, 0, 2]);
  });
  it("has a table, strongest first, and a file with links that work and titles", () => {
    expect(network.table(view()).rows.map((row) => row[2])).toEqual([-4, 2, 0.5]);
    const file = svgFile(scene, "G", [], { surface: "#fff", text: "#000", text2: "#333" });
    expect(file).toContain('<a href="https://example.org/2"');
    expect(file).toContain("<title>sae 2 of low → sae 7 of high: −4 activation</title>");
    const bad = network.draw(view({ nodes: [node("x", 0, 0, { link: "javascript:alert(1)" })], edges: [] }), 300, palette);
    expect(svgFile(bad, "", [], { surface: "#fff", text: "#000", text2: "#333" })).not.toContain("javascript");
  });
  it("is drawn whole at 300 nodes and 2,000 edges in a fifth of a second", () => {
    const nodes = Array.from({ length: 300 }, (_, i) => node(`sae ${i}`, i % 30, Math.floor(i / 30)));
    const edges = Array.from({ length: 2000 }, (_, i) => ({ source: i % 270, target: (i % 270) + 30 - (i % 7), value: Math.sin(i), text: "" }));
    const many = view({ nodes, edges, levels: Array.from({ length: 10 }, (_, i) => `l${i}`) });
    const drawn = kindOf(many).draw(many, 700, palette, { zoom: 1 });
    expect(drawn.width).toBeGreaterThanOrEqual(700);
    const boxes = nodes.map((_, i) => drawn.reader.box(i));
    for (let i = 1; i < 30; i++) expect(boxes[i - 1].x + boxes[i - 1].w).toBeLessThan(boxes[i].x);
    expect(kindOf(many).draw(many, 700, palette, { zoom: 3 }).width).toBeGreaterThan(2 * 700);
  });
  it("says where nothing is", () => {
    expect(network.empty(view({ nodes: [], edges: [] }))).toBe(true);
    expect(laid(view({ nodes: [node("a", 0, 0)], edges: [] }), 300, {}).boxes[0].w).toBeGreaterThan(4);
  });
});

it("finds the nearest curve along its whole length", () => {
  const curve = { x1: 0, y1: 100, x2: 80, y2: 0 };
  const numbers = bezier(curve).match(/-?[\d.]+/g)!.map(Number);
  expect(numbers).toEqual([0, 100, 0, 50, 80, 50, 80, 0]);
  const at = (t: number) => [0, 1].map((k) => [0, 1, 2, 3].reduce((sum, i) => sum + [1, 3, 3, 1][i] * (1 - t) ** (3 - i) * t ** i * numbers[2 * i + k], 0));
  for (const t of [0.1, 0.37, 0.5, 0.9]) {
    const [x, y] = at(t);
    expect(nearest([{ x1: 500, y1: 0, x2: 500, y2: 100 }, curve], x, y, 1.5)).toBe(1);
  }
  expect(nearest([curve], 0, 0, 5)).toBeNull();
});

it("leaves out the words that all labels of a level begin with", () => {
  expect(shortened(["sae 1", "sae 20"])).toEqual(["1", "20"]);
  expect(shortened(["sae 1", "PC 2"])).toEqual(["sae 1", "PC 2"]);
  expect(shortened(["sae 1"])).toEqual(["sae 1"]);
});

describe("thresholds", () => {
  it("are sent where they leave something out", () => {
    expect(asked(ALL)).toEqual({});
    expect(asked({ least: 0.5, influence: 0.8, perLevel: 40, path: 2 })).toEqual({ least: 0.5, influence: 0.8, per_level: 40, path: 2 });
  });
  it("move by equal ratios between the least and the largest weight", () => {
    expect(weightAt(0, [0.1, 10])).toBe(0);
    expect(weightAt(1, [0.1, 10])).toBeCloseTo(10);
    expect(weightAt(0.5, [0.1, 10])).toBeCloseTo(1);
    for (const place of [0.1, 0.5, 0.9]) expect(placeOf(weightAt(place, [0.1, 10]), [0.1, 10])).toBeCloseTo(place);
    expect([weightAt(0.5, [0, 0]), placeOf(1, [0, 0])]).toEqual([0, 0]);
  });
});

describe("what is chosen", () => {
  it("is found in the picture, nodes before edges", () => {
    const graph = shown();
    for (const at of [0, 3, 5, 6]) expect(itemOf(graph, chosenAt(graph, at))).toBe(at);
    expect(itemOf(graph, { node: "gone" })).toBeNull();
    expect(itemOf(graph, { source: "lo/3", target: "lo/11@1" })).toBeNull();
    expect(membersOf(graph, ["group/pair", "lo/3", "next/0"])).toEqual(["hi/1", "hi/2", "lo/3"]);
  });
  it("is read from a node's id", () => {
    expect(partsOf("sae@resid_post.8/123@5")).toEqual({ dictionary: "sae@resid_post.8", index: 123, pos: 5 });
    expect(partsOf("a/b/error")).toEqual({ dictionary: "a/b", index: null, pos: null });
    expect(partsOf("next/x")).toBeNull();
  });
  it("is taken out by one edit for each dictionary and position, and what cannot be is named", () => {
    const { edits, left } = intervention(shown(), ["lo/11@1", "lo/3", "lo/9", "lo/error", "hi/1", "odd"], true);
    expect(edits).toEqual([
      { kind: "feature", dictionary: "sae@resid_post.0", index: [3, 9, 11], scale: 0, pos: [1] },
    ]);
    expect(left.map(({ id }) => id)).toEqual(["lo/error", "hi/1", "odd"]);
    expect(left[1].why).toBe("not loaded: hi");
    const own = shown({ dictionaries: [{ id: "lo", here: null, missing: null, write_site: "z.4" }] } as Partial<GraphShown>);
    expect(intervention(own, ["lo/3"], false).edits).toEqual([{ kind: "ablate", site: "z.4", head: [3], to: "zero" }]);
    expect(intervention(shown(), ["lo/3"], false).edits).toEqual([{ kind: "feature", dictionary: "sae@resid_post.0", index: [3], scale: 0 }]);
  });
  it("is in the address", () => {
    const { view } = decodeView("#tab=graph&graph=My%20graph");
    expect([view.tab, view.graph]).toEqual(["graph", "My graph"]);
    expect(decodeView(`#${encodeView(view)}`).view).toEqual(view);
  });
});

it("sorts edges by any column", () => {
  const graph = shown();
  expect(sorted(graph, "weight", true)).toEqual([0, 1]);
  expect(sorted(graph, "weight", false)).toEqual([1, 0]);
  expect(sorted(graph, "source", false)).toEqual([0, 1]);
  expect(sorted(graph, "exact", true)).toEqual([1, 0]);
});
