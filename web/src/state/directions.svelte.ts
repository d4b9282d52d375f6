import { words } from "../connect/connector";
import type { DictionaryDetail, DirectionReading, DirectionRef } from "../connect/wire";
import type { Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { ViewStore } from "./view.svelte";

const MOST_READ = 200;

/** What is known of the basis and of the direction on screen; asked when a slider rests, never while it moves. */
export class DirectionStore {
  basis: DictionaryDetail | null = $state.raw(null);
  reading: DirectionReading | null = $state.raw(null);
  reads = $state("");
  error = $state("");
  private known = new Map<string, DirectionReading>();
  private wanted = "";
  private wantedBasis = "";

  ref: DirectionRef | null = $derived.by(() => {
    const { direction, weights } = this.view.current;
    const metric = this.session.state?.metric;
    if (direction === "logit")
      return metric ? { kind: "logit_diff", positive: metric.positive.text, negative: metric.negative.text } : null;
    const used = Object.entries(weights).filter(([, weight]) => weight !== 0);
    return used.length && this.streams.site
      ? { kind: "pca", site: this.streams.site, weights: Object.fromEntries(used) }
      : null;
  });

  constructor(
    private session: Session,
    private view: ViewStore,
    private streams: Streams,
  ) {}

  /** Call from an effect. */
  followBasis(): void {
    const model = this.session.model;
    const metric = this.session.state?.metric;
    const dictionary = this.streams.dictionary;
    const key = dictionary && `${model?.hash}|${dictionary}|${metric?.positive.id}|${metric?.negative.id}`;
    if (key === this.wantedBasis || !this.streams.settled) return;
    this.wantedBasis = key;
    if (!dictionary) this.basis = null;
    else
      this.session.connector.json<DictionaryDetail>(`api/dictionaries?id=${encodeURIComponent(dictionary)}`).then(
        (basis) => this.wantedBasis === key && (this.basis = basis),
        (error: unknown) => this.wantedBasis === key && (this.error = words(error)),
      );
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
    this.session.connector.json<DirectionReading>("api/directions/read", ref).then(
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
