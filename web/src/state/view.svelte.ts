import type { ReadLink } from "../connect/wire";
import { oneHot, type Terms } from "../lib/mix";
import type { Names } from "../lib/references";
import { decodeView, defaults, encodeView, type Shared, type View } from "./hash";
import { mark } from "./session.svelte";

export interface Cell {
  row: number;
  col: number;
}

/** What only this page knows: how the session is looked at. */
export class ViewStore {
  current: View = $state(defaults());
  hover: Cell | null = $state.raw(null);
  /** A slider is held: nothing may be asked of the server. */
  dragging = $state(false);
  /** The tokens take more room than there is. */
  overflows = $state(false);
  /** What a shared link asks for, until it is restored. */
  shared: Shared | null = $state.raw(null);
  /** A link that somebody is asked about, since it would take the place of what is here. */
  asked: { shared: Shared; told: ReadLink } | null = $state.raw(null);
  /** The link that may be opened. */
  agreed: Shared | null = null;
  /** An address has just been opened: which dictionaries it means is still to be looked at. */
  opened = false;

  /** The component of the chosen dictionary that is looked at, if it is one alone. */
  component = $derived.by(() => {
    const { direction, weights, terms } = this.current;
    return direction === "mix" && !Object.values(terms).some((weight) => weight !== 0) ? oneHot(weights) : null;
  });

  /** By component of the chosen dictionary, or by term. */
  private pending = new Map<number | string, number>();
  private frame = 0;

  /** The tab, the direction and the feature: what Back walks. The mixes of sliders are one place. */
  place = $derived.by(() => {
    const { tab, direction, dictionary, weights, terms, feature } = this.current;
    const [parts, others] = [Object.keys(weights), Object.entries(terms).filter(([, weight]) => weight !== 0)];
    const alone = direction === "logit" ? "" : parts.length + others.length === 1 ? (parts[0] ?? others[0][0]) : "mix";
    return [tab, direction, dictionary, alone, tab === "features" ? feature : ""].join("|");
  });

  constructor(hash: string) {
    this.open(hash);
  }

  /** Takes the view of an address. */
  open(hash: string): void {
    const { view, shared } = decodeView(hash);
    this.current = view;
    this.shared = shared;
    this.asked = null;
    this.opened = true;
  }

  /** names: what the address calls the dictionaries in it. */
  link(shared: Shared | null = null, names: Partial<Names> = {}): string {
    return encodeView({ ...($state.snapshot(this.current) as View), ...names }, shared);
  }

  pickComponent(index: number): void {
    this.current.direction = "mix";
    this.current.weights = { [index]: 1 };
    this.current.terms = {};
  }

  /** Moves one slider: however many events a frame brings, the picture is computed once in it. */
  setWeight(which: number | string, weight: number): void {
    mark("residscope:mix-input");
    this.pending.set(which, weight);
    this.frame ||= requestAnimationFrame(() => this.applyWeights());
  }

  applyWeights(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!this.pending.size) return;
    const weights = { ...this.current.weights };
    const terms: Terms = { ...this.current.terms };
    for (const [which, weight] of this.pending) {
      if (typeof which === "number") put(weights, which, weight);
      else put(terms, which, weight);
    }
    this.pending.clear();
    this.current.weights = weights;
    this.current.terms = terms;
    this.current.direction = "mix";
  }

  resetWeights(): void {
    this.pending.clear();
    this.current.weights = {};
    this.current.terms = {};
  }
}

function put<K extends number | string>(record: Record<K, number>, key: K, weight: number): void {
  if (weight === 0) delete record[key];
  else record[key] = weight;
}
