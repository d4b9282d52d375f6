/** What an edit made from a probe would do, computed in the browser while its target is dragged. */

import type { ConceptMethod, Covariance, Edit, ProbeInfo, ProbeReading, ProbeRecipe, ShownEdit } from "../connect/wire";

/** What fits a probe and maps where else its label can be read. */
export const METHOD = "probe-map";

export type Method = "lrqp" | ConceptMethod;
interface OfProbe extends Edit {
  probe: string;
  to: string;
}
export type ProbeEdit =
  | (OfProbe & { kind: "lrqp"; log_alpha?: number | null; covariance: Covariance })
  | (OfProbe & { kind: "set_concept"; method: ConceptMethod; dose?: number | null });

/** What is asked for: `target` in nats on the histogram's axis, where the method takes one. */
export interface Aim {
  method: Method;
  covariance: Covariance;
  to: string;
  target: number;
}

export const METHODS: { id: Method; label: string; about: string }[] = [
  { id: "lrqp", label: "LRQP", about: "The least change, in the cloud's own metric, after which the probe reads the target" },
  { id: "mean_difference", label: "Mean difference", about: "Add the mean of the wanted class, take off the mean of what it reads now" },
  { id: "project_out", label: "Project out", about: "Take the probe's normals out; a class sets them to that class's mean" },
  { id: "constant_dose", label: "Constant dose", about: "One step along the wanted class's unit normal, of a length you choose" },
];

/** LRQP and the dose go as far as they are asked; the others have one place to go to. */
export const isDosed = (method: Method): boolean => method === "lrqp" || method === "constant_dose";

/** With two classes the axis has a side for each; with more it shows the class that is wanted. */
export const axisClass = (classes: string[], to: string): string =>
  classes.length === 2 ? classes[1] : classes.includes(to) ? to : classes[0];

/** log P(class) less that of the likeliest other. */
export function margin(scores: number[], k: number): number {
  return scores[k] - Math.max(...scores.filter((_, i) => i !== k));
}

/** Of two classes, the one on the target's side of where the prompt stands now: the edit then lands on the target exactly. */
export function towards(classes: string[], now: number, aim: Aim): string {
  if (classes.length !== 2 || !isDosed(aim.method) || aim.to === "neutral") return aim.to;
  return aim.target >= now ? classes[1] : classes[0];
}

/** The target as log-odds of the wanted class: the axis may point the other way. */
const wanted = (classes: string[], to: string, target: number): number => (axisClass(classes, to) === to ? target : -target);

/** The least dose that brings the wanted class's log-odds to a value; null where its step leads away from it. */
export function doseFor(reading: ProbeReading, classes: string[], to: string, value: number): number | null {
  const move = reading.moves.constant_dose[to];
  const k = classes.indexOf(to);
  let dose = 0;
  for (let l = 0; l < classes.length; l++) {
    const lacking = value - (move.at[k] - move.at[l]);
    if (l === k || lacking <= 0) continue;
    const gain = move.slope[k] - move.slope[l];
    if (gain <= 0) return null;
    dose = Math.max(dose, lacking / gain);
  }
  return dose;
}

export interface Landing {
  /** On the histogram's axis. */
  at: number;
  xy: number[] | null;
  /** Mahalanobis length of the move, where it is LRQP between two classes. */
  length: number | null;
}

/** Where an edit would put the prompt; null where it cannot go there. */
export function landing(reading: ProbeReading, classes: string[], aim: Aim): Landing | null {
  const k = classes.indexOf(axisClass(classes, aim.to));
  const now = margin(reading.log_prob, k);
  const to = towards(classes, now, aim);
  if (aim.method === "lrqp") {
    const neutral = reading.moves.project_out.neutral;
    const least = wanted(classes, to, aim.target);
    const at = to === "neutral" ? margin(neutral.at, k) : classes.length === 2 ? aim.target : Math.max(now, least);
    const step = reading.steps?.[aim.covariance] ?? null;
    return { at, xy: step && reading.xy.map((x, i) => x + (at - now) * step.xy[i]), length: step?.length ? Math.abs(at - now) * step.length : null };
  }
  const move = reading.moves[aim.method]?.[to];
  const dose = move && aim.method === "constant_dose" ? doseFor(reading, classes, to, wanted(classes, to, aim.target)) : 0;
  if (dose === null || !move) return null;
  return { at: margin(move.at.map((s, i) => s + dose * move.slope[i]), k), xy: move.xy.map((x, i) => x + dose * move.xy_slope[i]), length: null };
}

const rounded = (x: number): number => Number(x.toPrecision(6));

/** The edit that an aim asks for; null where it cannot be reached or would move nothing. */
export function editOf(probe: ProbeInfo, reading: ProbeReading, aim: Aim): ProbeEdit | null {
  const { classes } = probe;
  const now = margin(reading.log_prob, classes.indexOf(axisClass(classes, aim.to)));
  const to = towards(classes, now, aim);
  const where = { probe: probe.name, site: probe.site, pos: [reading.pos], to };
  if (aim.method === "lrqp") {
    const log_alpha = to === "neutral" ? 0 : rounded(wanted(classes, to, aim.target));
    return { kind: "lrqp", ...where, log_alpha, covariance: aim.covariance };
  }
  if (aim.method !== "constant_dose") return { kind: "set_concept", ...where, method: aim.method };
  const dose = doseFor(reading, classes, to, wanted(classes, to, aim.target));
  return dose ? { kind: "set_concept", ...where, method: "constant_dose", dose: rounded(dose) } : null;
}

/** What an edit on the stack asks for, to show it again. */
export function aimOf(edit: ProbeEdit, classes: string[], reading: ProbeReading | null, before: Aim): Aim {
  if (edit.kind === "lrqp") {
    const target = edit.to === "neutral" ? before.target : wanted(classes, edit.to, edit.log_alpha ?? sureOf(classes, edit.to, reading));
    return { method: "lrqp", covariance: edit.covariance, to: edit.to, target };
  }
  const aim = { ...before, method: edit.method, to: edit.to };
  if (edit.method !== "constant_dose" || !reading) return aim;
  const [move, k] = [reading.moves.constant_dose[edit.to], classes.indexOf(axisClass(classes, edit.to))];
  return move ? { ...aim, target: margin(move.at.map((s, i) => s + (edit.dose ?? 0) * move.slope[i]), k) } : aim;
}

/** What LRQP asks for unless told: e^10 as its paper does, or as sure as the prompt is of the other class. */
export function sureOf(classes: string[], to: string, reading: ProbeReading | null): number {
  const now = reading && classes.includes(to) ? margin(reading.log_prob, classes.indexOf(to)) : 0;
  return Math.max(SURE, Math.abs(now));
}
const SURE = 10;

export const isProbeEdit = <E extends Edit | ShownEdit>(edit: E): edit is E & ProbeEdit =>
  edit.kind === "lrqp" || edit.kind === "set_concept";

/** A table's text; what is not UTF-8 is refused with its line. */
export function readTable(name: string, bytes: Uint8Array): string {
  const decode = (part: Uint8Array) => new TextDecoder("utf-8", { fatal: true }).decode(part);
  try {
    return decode(bytes);
  } catch {
    let [start, line] = [0, 1];
    for (let end = bytes.indexOf(10); end >= 0; start = end + 1, line++, end = bytes.indexOf(10, start)) {
      try {
        decode(bytes.subarray(start, end));
      } catch {
        break;
      }
    }
    throw new Error(`${name}, line ${line}: not UTF-8. To fix: save the file as UTF-8.`);
  }
}

/** What makes two recipes one, a file by its name; "" for none. */
export function signature(recipe: { [part in keyof ProbeRecipe]?: unknown } | null): string {
  if (!recipe?.data) return "";
  const data = recipe.data as ProbeRecipe["data"];
  const from = data.kind === "task" ? [data.task, data.n, data.seed, data.prefixes] : data.kind === "probe" ? [data.probe, data.part] : [data.name];
  return JSON.stringify([data.kind, ...from, recipe.site, recipe.position, recipe.label]);
}

/** What an edit of one prompt is over many: as sure of each one's other class, at the probe's own position. `sure`: the least
 *  log-odds that count as "as sure as it was of its own", which LRQP's paper asks for. */
export function overAll(edit: ProbeEdit | null, aim: Aim, probe: string, sure: number): Edit {
  const to = (edit?.to ?? aim.to) === "neutral" ? "neutral" : "other";
  if (edit?.kind === "lrqp" || (!edit && aim.method === "lrqp")) {
    const told = edit?.kind === "lrqp" ? edit.log_alpha : null;
    const asked = told != null && to === "other" && !near(told, sure) ? { log_alpha: told } : {};
    return { kind: "lrqp", probe, to, covariance: edit?.kind === "lrqp" ? edit.covariance : aim.covariance, ...asked };
  }
  const method = edit?.kind === "set_concept" ? edit.method : aim.method;
  const dose = edit?.kind === "set_concept" && method === "constant_dose" && edit.dose ? { dose: edit.dose } : {};
  return { kind: "set_concept", probe, to, method, ...dose };
}

const near = (a: number, b: number): boolean => Math.abs(a - b) <= 1e-4 * Math.max(1, Math.abs(b));

/** The same in words. */
export function overAllWords(edit: Edit, classes: string[]): string {
  const label = METHODS.find(({ id }) => id === (edit.kind === "lrqp" ? "lrqp" : edit.method))?.label ?? "Edit";
  const to = edit.to === "neutral" ? "held at the mean's reading" : classes.length > 2 ? "set to the likeliest other class" : "set to the other class";
  if (edit.kind === "lrqp") {
    const how = edit.to === "neutral" ? "" : edit.log_alpha === undefined ? ", as sure as it was of its own, at least e¹⁰" : `, log-odds of at least ${Number(edit.log_alpha).toFixed(1)}`;
    return `${label}, Σ ${String(edit.covariance)}: each prompt ${to}${how}`;
  }
  return `${label}${edit.dose ? ` of ${Number(edit.dose).toFixed(1)}` : ""}: each prompt ${to}`;
}
