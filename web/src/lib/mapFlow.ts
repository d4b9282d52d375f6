/** Where the steps of a layer stand in its drawing: the stream upwards at the left, each branch a loop out of it and back. */

import type { SiteRow } from "./map";

export interface FlowNode {
  row: SiteRow;
  /** Its name without the layer. */
  name: string;
  x: number;
  y: number;
}

export interface FlowLayout {
  width: number;
  height: number;
  nodes: FlowNode[];
  /** Lines from step to step; `writes`: into the stream. */
  lines: { d: string; writes: boolean }[];
  /** The stream's line, and where branches are added to it. */
  stream: { x: number; from: number; to: number };
  sums: number[];
  box: { w: number; h: number };
}

export const FLOW_BOX = 40;
const [PITCH_ON_SCREEN, GAP, SPINE_ON_SCREEN, LEAST_ON_SCREEN, WIDEST] = [48, 14, 114, 92, 180];
const TALLER = 11;
const STREAM = ["resid_post", "resid_mid", "resid_pre", "embed"];

/** Column and row of each step within its branch; row 0 is the upper one. */
const ATTENTION: Record<string, [number, number]> = {
  attn_scale: [0, 2], attn_in: [0, 1], q_scale: [1, 2], k_scale: [1, 1], q: [2, 2], k: [2, 1], v: [2, 0], scores: [3, 2], pattern: [3, 1], z: [3, 0],
  result: [4, 1], attn_raw: [4, 0], attn_post_scale: [5, 1], attn_out: [5, 0],
};
/** With nothing between a branch's module and the stream, its output stands where the module's own would. */
const standing = (branch: Record<string, [number, number]>, names: Set<string>, out: string, raw: string) => (names.has(raw) ? branch : { ...branch, [out]: branch[raw] });
const MLP: Record<string, [number, number]> = {
  mlp_scale: [0, 1], mlp_in: [0, 0], mlp_gate: [1, 1], mlp_pre: [1, 0], router: [1, 0], mlp_post: [2, 0], experts: [2, 0], mlp_raw: [3, 0], mlp_post_scale: [4, 1], mlp_out: [4, 0],
};

const bare = (place: string): string => place.replace(/\.\d+$/, "");

/** How tall the drawing of a layer is, and whether its blocks have an MLP. */
export function flowHeight(rows: readonly SiteRow[], PITCH = PITCH_ON_SCREEN): number {
  const has = (name: string) => rows.some(({ place }) => bare(place) === name);
  return GAP + PITCH + GAP + (has("mlp_out") ? 2 * PITCH + GAP : 0) + 3 * PITCH + (has("embed") ? PITCH : 0);
}

/** The layouts of a file: boxes with room for longer equations, or, where there is no width for columns, one above another. */
export type FlowShape = "screen" | "wide" | "column";

export function flowLayout(rows: readonly SiteRow[], room: number, shape: FlowShape = "screen"): FlowLayout {
  if (shape === "column") return stacked(rows, room);
  const tall = shape === "wide" ? TALLER : 0;
  const [PITCH, SPINE, LEAST] = tall ? [PITCH_ON_SCREEN + tall, 98, 60] : [PITCH_ON_SCREEN, SPINE_ON_SCREEN, LEAST_ON_SCREEN];
  const drawn = rows.filter(({ same }) => !same);
  const names = new Set(drawn.map(({ place }) => bare(place)));
  const mlp = names.has("mlp_out");
  const beside = mlp && !names.has("resid_mid");
  const [mlpTop, attnTop] = [GAP + PITCH + GAP, GAP + PITCH + GAP + (mlp ? 2 * PITCH + GAP : 0)];
  const height = flowHeight(rows, PITCH);
  const [attention, neurons] = [standing(ATTENTION, names, "attn_out", "attn_raw"), standing(MLP, names, "mlp_out", "mlp_raw")];
  const [ofAttention, ofMlp] = [columns(attention, names), columns(neurons, names)];
  const across = Math.max(ofAttention.length, ofMlp.length, names.has("pos_embed") ? 1 : 0);
  const w = Math.max(LEAST, Math.min(WIDEST, (room - SPINE - 20 - (across - 1) * GAP) / across));
  const left = (column: number): number => SPINE + 20 + column * (w + GAP);
  const foot = attnTop + 3 * PITCH;
  const at = (name: string): [number, number] => {
    const [ours, theirs] = [attention[name], neurons[name]];
    if (ours) return [left(ofAttention.indexOf(ours[0])), attnTop + PITCH * ours[1]];
    if (theirs) return [left(ofMlp.indexOf(theirs[0])), mlpTop + PITCH * theirs[1]];
    if (name === "pos_embed") return [left(0), foot];
    return [0, { resid_post: GAP, resid_mid: mlpTop + PITCH, resid_pre: attnTop + 2 * PITCH, embed: foot }[name] ?? foot];
  };
  const nodes = drawn.map((row) => {
    const name = bare(row.place);
    const [x, y] = at(name);
    return { row, name, x, y };
  });
  const box = { w, h: FLOW_BOX + tall };
  const stream = { x: SPINE / 2, from: names.has("embed") ? foot : attnTop + 2 * PITCH + FLOW_BOX + tall, to: 0 };
  const known = new Map(nodes.map((node) => [node.row.place, node]));
  const edge = { beside, top: mlpTop - GAP / 2 - 2, right: left(across) - GAP / 2 };
  const lines = nodes.flatMap((node) => through(node, known).flatMap((from) => line(from, node, box, stream.x, edge)));
  const sums = new Set(lines.flatMap(({ sum }) => (sum === undefined ? [] : [sum])));
  return { width: left(across) - GAP + (beside ? GAP : 0) + 1, height, nodes, lines, stream, sums: [...sums], box };
}

/** Step upon step, the stream at the left, each branch a bracket from it and back. */
function stacked(rows: readonly SiteRow[], room: number): FlowLayout {
  const [left, pitch] = [32, FLOW_BOX + 5];
  const drawn = rows.filter(({ same }) => !same);
  const top = (i: number): number => GAP + (drawn.length - 1 - i) * pitch;
  const nodes = drawn.map((row, i) => ({ row, name: bare(row.place), x: left, y: top(i) }));
  const middleOf = (i: number): number => top(i) + FLOW_BOX / 2;
  const lines: FlowLayout["lines"] = [];
  const sums: number[] = [];
  const branches = [ATTENTION, MLP].map((branch) => nodes.flatMap(({ name }, i) => (branch[name] ? [i] : [])));
  branches.forEach((steps, i) => {
    if (!steps.length) return;
    const end = middleOf(steps.at(-1)!) - FLOW_BOX / 4;
    lines.push({ d: `M10 ${middleOf(steps[0])}H${20 + 5 * i}V${end}H10`, writes: true });
    sums.push(end);
  });
  const stream = { x: 10, from: GAP + drawn.length * pitch - 5, to: 0 };
  return { width: room, height: GAP + drawn.length * pitch, nodes, lines, stream, sums, box: { w: room - left - 1, h: FLOW_BOX } };
}

/** The columns of a branch that something stands in. */
const columns = (branch: Record<string, [number, number]>, names: Set<string>): number[] =>
  [...new Set(Object.entries(branch).flatMap(([name, [column]]) => (names.has(name) ? [column] : [])))].sort((a, b) => a - b);

/** What a step reads and no other step that it reads has read before it. */
function through(node: FlowNode, known: Map<string, FlowNode>): FlowNode[] {
  const read = node.row.reads.flatMap((place) => known.get(place) ?? []);
  return read.filter((from) => !read.some((other) => other.row.reads.includes(from.row.place)));
}

interface Line {
  d: string;
  writes: boolean;
  sum?: number;
}

function line(from: FlowNode, to: FlowNode, { w, h }: FlowLayout["box"], stream: number, edge: { beside: boolean; top: number; right: number }): Line[] {
  const [fromStream, toStream] = [STREAM.includes(from.name), STREAM.includes(to.name)];
  if (fromStream && toStream) return [];
  const level = to.y + h / 2;
  if (fromStream) return [{ d: `M${stream} ${level}H${to.x}`, writes: false }];
  if (toStream && from.name === "pos_embed") {
    const y = from.y - 4;
    return [{ d: `M${from.x + w / 2} ${from.y}V${y}H${stream}`, writes: true, sum: y }];
  }
  if (toStream) {
    const own = from.y - GAP / 2 - 2;
    if (!edge.beside || own <= edge.top) return [{ d: `M${from.x + w / 2} ${from.y}V${own}H${stream}`, writes: true, sum: own }];
    return [{ d: `M${from.x + w / 2} ${from.y}V${own}H${edge.right}V${edge.top}H${stream}`, writes: true, sum: edge.top }];
  }
  if (from.x === to.x) {
    const up = from.y > to.y;
    return [{ d: `M${from.x + w / 2} ${up ? from.y : from.y + h}V${up ? to.y + h : to.y}`, writes: false }];
  }
  const bend = to.x - GAP / 2;
  return [{ d: `M${from.x + w} ${from.y + h / 2}H${bend}V${level}H${to.x}`, writes: false }];
}
