import { words } from "../connect/connector";
import type { DictionaryDetail, DirectionReading, DirectionRef } from "../connect/wire";
import { labelOf } from "../lib/dictionaries";
import { savedName } from "../lib/mix";
import type { Mixing } from "./mixing.svelte";
import { askedKey } from "./products.svelte";
import type { Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { ViewStore } from "./view.svelte";

const MOST_READ = 200;

/** What is known of the dictionaries and of the direction on screen; asked when a slider rests, never while it moves. */
export class DirectionStore {
  /** What is known of each dictionary in play, by id. */
  dictionaries: Record<string, DictionaryDetail> = $state.raw({});
  reading: DirectionReading | null = $state.raw(null);
  reads = $state("");
  error = $state("");
  private known = new Map<string, DirectionReading>();
  private wanted = "";
  private asked = new Map<string, string>();

  /** The chosen dictionary. */
  basis = $derived.by(() => this.dictionaries[this.mixing.dictionary?.id ?? ""] ?? null);
  ref: DirectionRef | null = $derived.by(() => {
    const metric = this.session.state?.metric;
    if (this.view.current.direction !== "logit") return this.mixing.ref;
    return metric ? { kind: "logit_diff", positive: metric.positive.text, negative: metric.negative.text } : null;
  });

  constructor(
    private session: Session,
    private view: ViewStore,
    private streams: Streams,
    private mixing: Mixing,
  ) {}

  component(source: string, index: number) {
    const all = this.dictionaries[source]?.components ?? [];
    return (all[index]?.index === index ? all[index] : all.find((one) => one.index === index)) ?? null;
  }
  /** What a component, or a saved direction, is called. */
  label(source: string, index: number): string {
    const info = this.mixing.info(source);
    return this.component(source, index)?.label ?? savedName(source) ?? (info ? labelOf(info, index) : source);
  }

  /** Call from an effect: poles, variances and names of all dictionaries in play. */
  followBasis(): void {
    const metric = this.session.state?.metric;
    const about = [this.session.model?.hash, metric?.positive.id, metric?.negative.id].join("|");
    if (!this.streams.settled) return;
    for (const one of this.mixing.asked) {
      const { source: id, indices } = one;
      const key = `${about}|${askedKey(one)}`;
      if (savedName(id) !== null || this.asked.get(id) === key) continue;
      this.asked.set(id, key);
      this.session.connector.query("dictionary", { id, ...(indices ? { indices: [...indices] } : {}) }).then(
        (reading) => this.asked.get(id) === key && (this.dictionaries = { ...this.dictionaries, [id]: reading }),
        (error: unknown) => this.asked.get(id) === key && (this.error = words(error)),
      );
    }
  }

  /** Call from an effect. */
  followReading(): void {
    const ref = this.ref;
    const metric = this.session.state?.metric;
    if (this.view.dragging) return;
    const key = ref ? JSON.stringify([this.session.model?.hash, ref, metric?.positive.id, metric?.negative.id]) : "";
    if (key === this.wanted) return;
    if (!this.streams.settled && !this.known.has(key)) {
      this.reads = "waiting";
      return;
    }
    this.wanted = key;
    this.reads = "";
    this.error = "";
    const known = this.known.get(key);
    if (!ref || known) {
      this.reading = known ?? null;
      return;
    }
    this.reads = "reading";
    this.session.connector.query("read_direction", { direction: ref }).then(
      (reading) => {
        if (this.known.size > MOST_READ) this.known.clear();
        this.known.set(key, reading);
        if (this.wanted === key) [this.reading, this.reads] = [reading, ""];
      },
      (error: unknown) => {
        if (this.wanted === key) [this.error, this.reading, this.reads] = [words(error), null, ""];
      },
    );
  }
}
