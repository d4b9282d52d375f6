/** What the page may say about an edit, and the edits it offers. */

import type { DirectionRef, Edit, ModelInfo, ShownEdit } from "../connect/wire";

export interface Strength {
  value: number;
  min: number;
  max: number;
  step: number;
  unit: "×" | "σ" | "nats" | "";
}

/** The one number an edit has to turn, if it has one. */
export function strengthOf(edit: Edit): Strength | null {
  if (edit.kind === "scale") return { value: edit.factor, min: Math.min(-1, edit.factor), max: Math.max(3, edit.factor), step: 0.05, unit: "×" };
  if (edit.kind === "lrqp" && edit.to !== "neutral")
    return { value: edit.log_alpha, min: Math.min(-10, edit.log_alpha), max: Math.max(20, edit.log_alpha), step: 0.5, unit: "nats" };
  if (edit.kind !== "steer") return null;
  const far = Math.abs(edit.strength);
  return edit.unit === "sd"
    ? { value: edit.strength, min: -Math.max(8, far), max: Math.max(8, far), step: 0.25, unit: "σ" }
    : { value: edit.strength, min: -Math.max(100, far), max: Math.max(100, far), step: 1, unit: "" };
}

export function withStrength(edit: ShownEdit, value: number): ShownEdit {
  const rounded = Math.round(value * 1000) / 1000;
  if (edit.kind === "scale") return { ...edit, factor: rounded };
  if (edit.kind === "lrqp") return { ...edit, log_alpha: rounded };
  return edit.kind === "steer" ? { ...edit, strength: rounded } : edit;
}

const listed = (name: string, value: number | number[] | null | undefined): string =>
  value === null || value === undefined ? "" : `${name} ${[value].flat().join(", ")}`;

/** Where an edit acts, in a few words. */
export function where(edit: Edit): string {
  if (edit.kind === "freeze") return "at its unedited values";
  if (edit.kind === "lrqp" || edit.kind === "set_concept") return `to ${edit.to}`;
  const parts = [listed("head", edit.head), listed("neuron", edit.neuron), listed("pos", edit.pos) || "all pos"];
  return parts.filter(Boolean).join(" · ");
}

export interface Asked {
  layer: number;
  head: number | null;
  pos: number | null;
  direction: DirectionRef | null;
  /** Of its coordinate, where it is known. */
  sd: number | null;
}

export interface Offer {
  id: string;
  label: string;
  /** What the form has to ask for. */
  needs: { layer?: boolean; head?: boolean; pos?: boolean; direction?: boolean };
  site(asked: Asked): string;
  build(asked: Asked): Edit;
}

const stream = ({ layer }: Asked): string => (layer < 0 ? "embed" : `resid_post.${layer}`);

function offer(id: string, label: string, needs: Offer["needs"], site: Offer["site"], build: (a: Asked, site: string) => Edit): Offer {
  return { id, label, needs, site, build: (asked) => build(asked, site(asked)) };
}

const at = (name: string) => (asked: Asked) => `${name}.${Math.max(asked.layer, 0)}`;

function withPos(edit: Edit, { pos }: Asked): Edit {
  return { ...edit, pos: pos === null ? null : [pos] };
}

export const OFFERS: Offer[] = [
  offer("ablate-head", "Ablate a head", { layer: true, head: true, pos: true }, at("z"), (a, site) =>
    withPos({ kind: "ablate", site, head: a.head ?? 0, to: "zero" }, a)),
  offer("ablate-mlp", "Ablate an MLP", { layer: true, pos: true }, at("mlp_out"), (a, site) =>
    withPos({ kind: "ablate", site, to: "zero" }, a)),
  offer("ablate-attn", "Ablate a layer's attention", { layer: true, pos: true }, at("attn_out"), (a, site) =>
    withPos({ kind: "ablate", site, to: "zero" }, a)),
  offer("ablate-resid", "Ablate the stream", { layer: true, pos: true }, stream, (a, site) =>
    withPos({ kind: "ablate", site, to: "zero" }, a)),
  offer("scale-head", "Scale a head", { layer: true, head: true, pos: true }, at("z"), (a, site) =>
    withPos({ kind: "scale", site, head: a.head ?? 0, factor: 0.5 }, a)),
  offer("scale-mlp", "Scale an MLP", { layer: true, pos: true }, at("mlp_out"), (a, site) =>
    withPos({ kind: "scale", site, factor: 0.5 }, a)),
  offer("steer", "Steer along this direction", { layer: true, pos: true, direction: true }, stream, (a, site) =>
    withPos({ kind: "steer", site, direction: a.direction!, ...steering(a.sd) }, a)),
  offer("project-out", "Project this direction out", { layer: true, pos: true, direction: true }, stream, (a, site) =>
    withPos({ kind: "project_out", site, direction: a.direction! }, a)),
  offer("freeze-pattern", "Freeze attention patterns", { layer: true }, at("pattern"), (_, site) => ({ kind: "freeze", site })),
  offer("freeze-attn-scale", "Freeze the attention norm's scale", { layer: true }, at("attn_scale"), (_, site) => ({ kind: "freeze", site })),
  offer("freeze-mlp-scale", "Freeze the MLP norm's scale", { layer: true }, at("mlp_scale"), (_, site) => ({ kind: "freeze", site })),
  offer("freeze-final-scale", "Freeze the final norm's scale", {}, () => "final_scale", (_, site) => ({ kind: "freeze", site })),
];

/** By standard deviations where the direction's is known; other directions are added by length. */
export const steering = (sd: number | null) => (sd === null ? { strength: 10, unit: "norm" as const } : { strength: 2, unit: "sd" as const });

/** Only what this model has; the reason stays with the server, which refuses in its own words. */
export function offersFor(model: ModelInfo): Offer[] {
  const sites = new Map(model.sites.map((site) => [site.name, site.absent]));
  const has = (name: string) => sites.size === 0 || sites.get(name) === null;
  return OFFERS.filter((offer) => has(offer.site({ layer: 0, head: 0, pos: null, direction: null, sd: null }).split(".")[0]));
}
