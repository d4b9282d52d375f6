/** Forms drawn from what Python declares: a schema, the values in it, and what is sent. */

import type { ModelInfo, SiteInfo } from "../connect/wire";

/** One argument: JSON Schema, and the `kind` of its field with that kind's own hints. */
export interface Property {
  kind: string;
  argument: string;
  title: string;
  description?: string | null;
  type?: string;
  default?: unknown;
  enum?: string[];
  const?: string;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  when?: [string, string[]];
  unless?: [string, string[]];
  unit?: string;
  /** Of a site. */
  every?: boolean;
  only?: string[];
  groups?: string[];
  usual?: string;
  /** Of heads. */
  axis?: "head" | "kv_head" | "neuron" | "feature";
  /** Of positions, directions, prompts, tokens. */
  named?: boolean;
  known?: string[];
  single?: boolean;
  several?: boolean;
  one?: boolean;
  labelled?: boolean;
  begin?: string;
  of?: string;
}

export interface Schema {
  id: string;
  title: string;
  about: string;
  glyph?: string;
  group?: string;
  properties: Record<string, Property>;
  required: string[];
}

export interface EditSchema extends Schema {
  glyph: string;
}

export interface MethodSchema extends Schema {
  group: string;
  /** The kind of item that it makes, or makes several of. */
  makes: string;
}

export type Values = Record<string, unknown>;

/** Whether an argument means something among these values. */
export function applies({ when, unless }: Property, values: Values): boolean {
  if (when && !when[1].includes(String(values[when[0]]))) return false;
  return !unless || !unless[1].includes(String(values[unless[0]]));
}

/** What a choice may be. */
export const options = (property: Property): string[] => property.enum ?? (property.const === undefined ? [] : [property.const]);

const AXES: Record<string, string> = { head: "head", kv_head: "kv_head", neuron: "d_mlp" };

/** The site of a form, as the model has it: that of the argument named so, or the first there is. */
export function siteIn(schema: Schema, values: Values, model: ModelInfo | null): SiteInfo | null {
  const name = "site" in schema.properties ? "site" : Object.entries(schema.properties).find(([, { kind }]) => kind === "site")?.[0];
  const site = name && typeof values[name] === "string" ? values[name].split(".")[0] : "";
  return model?.sites.find((other) => other.name === site) ?? null;
}

/** Whether a form asks for it: heads only where the site has them, a feature where there is a dictionary. */
export function asked(schema: Schema, name: string, values: Values, model: ModelInfo | null): boolean {
  const property = schema.properties[name];
  if (!applies(property, values)) return false;
  if (property.kind !== "heads" || property.axis === "feature") return property.axis !== "feature" || schema.required.includes(name) || !!values.dictionary;
  const site = name === "sender_head" ? (model?.sites.find((other) => other.name === String(values.sender ?? "").split(".")[0]) ?? null) : siteIn(receiver(schema), values, model);
  return !!site && site.dims.split(" ").includes(AXES[property.axis ?? "head"]);
}

/** Of a path, the heads are the receiver's. */
const receiver = (schema: Schema): Schema =>
  "receiver" in schema.properties ? { ...schema, properties: { site: schema.properties.receiver, receiver: schema.properties.receiver } } : schema;

/** What is sent: without what does not apply, and without what was left empty. */
export function sent(schema: Schema, values: Values, model: ModelInfo | null): Values {
  const kept = Object.keys(schema.properties).filter((name) => asked(schema, name, values, model));
  return Object.fromEntries(kept.map((name) => [name, values[name]]).filter(([, value]) => value !== null && value !== undefined && value !== ""));
}

const both = (value: unknown): unknown => {
  const { first, second } = (value ?? {}) as { first?: unknown; second?: unknown };
  return first && second;
};

/** What is still lacking, in words; empty where nothing is. */
export function lacking(schema: Schema, values: Values, model: ModelInfo | null): string {
  const name = schema.required.find((required) => {
    const value = schema.properties[required].kind === "contrast" ? both(values[required]) : values[required];
    return asked(schema, required, values, model) && (value === null || value === undefined || value === "");
  });
  return name ? `Say the ${schema.properties[name].title}.` : "";
}

/** `3, 5-7, -1` as numbers, or names where they are none; null for nothing. */
export function indices(text: string, named = false): number[] | string | null {
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  if (!parts.length) return null;
  const numbers: number[] = [];
  for (const part of parts) {
    const range = /^(\d+)-(\d+)$/.exec(part);
    if (range) for (let i = Number(range[1]); i <= Number(range[2]); i++) numbers.push(i);
    else if (/^-?\d+$/.test(part)) numbers.push(Number(part));
    else return named ? text.trim() : null;
  }
  return numbers;
}

/** `4:5, 6:7` as pairs of positions, here and in the source; null for nothing, and for what is none. */
export function pairsIn(text: string): number[][] | null {
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  const pairs = parts.map((part) => /^(\d+)\s*:\s*(\d+)$/.exec(part)?.slice(1).map(Number));
  return pairs.length && pairs.every((pair) => pair !== undefined) ? pairs : null;
}

export const pairsWritten = (pairs: number[][]): string => pairs.map((pair) => pair.join(":")).join(", ");

export const listed = (value: unknown): string => (value === null || value === undefined ? "" : [value].flat().join(", "));
