import type { Edit, ProbeData, ProbeInfo } from "../connect/wire";
import { isProbeEdit, overAll, sureOf, type Aim, type ProbeEdit } from "../lib/probe";
import type { GridView, PlainView, TableView } from "../views/kinds/plain";
import { alike, Measured } from "./measured.svelte";
import type { Session } from "./session.svelte";

/** What the study needs of the tab: the probe that is shown, and the edit that is aimed at. */
export interface Studied {
  readonly shown: ProbeInfo | null;
  readonly edit: Edit | null;
  readonly asked: Aim;
  readonly reading: Parameters<typeof sureOf>[2];
}

/** Where the roles of heads are asked: the indirect object, the subject twice, the end. */
export const ROLE_POSITIONS = ["IO", "S1", "S2", "END"];
const ROLE_PROMPTS = 48;
export const [MOVERS, INHIBITION] = ["name movers", "S-inhibition heads"];

/** An edit over all prompts of a probe, layer by layer, and in later heads: each a method's call. */
export class ProbeStudy {
  /** The edit on the stack, or the one that would be put there, as it is over many prompts. */
  over: Edit | null = $derived.by(() => {
    const { shown, edit, asked, reading } = this.of;
    if (!shown) return null;
    const own = edit && isProbeEdit(edit) ? (edit as ProbeEdit) : null;
    return overAll(own, asked, shown.name, sureOf(shown.classes, own?.to ?? asked.to, reading));
  });
  /** That edit over all prompts which the fit has not seen. */
  readonly intervened: Measured;
  /** The probe's prompts on their first two singular vectors, at every layer. */
  readonly looked: Measured;
  /** Which heads move names, and which tell them where to look: asked of other prompts of the task. */
  readonly roles: Measured;
  /** What these heads report, and where they look, under the edit. */
  readonly later: Measured;
  /** How much of the edit's effect runs through the name movers' attention. */
  readonly mediated: Measured;

  heads: Record<string, string[]> = $derived.by(() => headsIn(this.roles.views));

  constructor(
    session: Session,
    private of: Studied,
  ) {
    const like = (name: string) => (args: Record<string, unknown> | null) => !!this.of.shown && alike(args?.[name], this.part("held_out"));
    this.intervened = new Measured(
      session,
      "intervene",
      () => this.of.shown && this.over && { data: this.part("held_out"), probes: [this.of.shown.name], edits: [this.over], seed: 0 },
      like("data"),
    );
    this.looked = new Measured(session, "look", () => {
      const { shown } = this.of;
      return shown && { data: this.part("all"), label: shown.label, position: shown.position, sites: [shown.site.split(".")[0]], seed: 0 };
    });
    this.roles = new Measured(session, "head-roles", () => this.of.shown && { data: this.elsewhere(), each: 4, prompts: 24 });
    this.later = new Measured(
      session,
      "downstream",
      () => {
        const [shown, readers, movers] = [this.of.shown, this.heads[INHIBITION], this.heads[MOVERS]];
        if (!shown || !this.over || !readers || !movers) return null;
        return { train: this.part("training"), data: this.part("held_out"), edit: [this.over], label: shown.label, readers, movers, seed: 0 };
      },
      like("data"),
    );
    this.mediated = new Measured(
      session,
      "mediation",
      () => (this.over && this.heads[MOVERS] ? { data: this.part("held_out"), edit: [this.over], groups: this.heads[MOVERS], draws: 3, seed: 0 } : null),
      like("data"),
    );
  }

  /** Some of the prompts of the probe that is shown, as a method takes them. */
  private part(part: "held_out" | "training" | "all"): ProbeData {
    return { kind: "probe", probe: this.of.shown?.name ?? "", part };
  }

  /** Prompts that the edit is not measured on: of a task, those of another seed; else those that the probe was fitted to. */
  private elsewhere(): ProbeData {
    const data = this.of.shown?.data;
    return data?.kind === "task" ? { ...data, n: ROLE_PROMPTS, seed: data.seed + 1 } : this.part("training");
  }
}

/** The heads of each role, out of the table of a report on roles. */
export function headsIn(views: PlainView[] | null): Record<string, string[]> {
  const grid = views?.[0] as GridView | undefined;
  const table = grid?.views?.find((view): view is TableView => (view as PlainView).kind === "table");
  const heads: Record<string, string[]> = {};
  for (const [role, head] of table?.rows ?? []) (heads[String(role)] ??= []).push(String(head));
  return heads;
}
