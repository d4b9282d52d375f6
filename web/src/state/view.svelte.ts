import { oneHot, type Weights } from "../lib/mix";
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

  component = $derived(this.current.direction === "mix" ? oneHot(this.current.weights) : null);

  private pending: Weights = {};
  private frame = 0;

  constructor(hash: string) {
    const { view, shared } = decodeView(hash);
    this.current = view;
    this.shared = shared;
  }

  link(shared: Shared | null = null): string {
    return encodeView($state.snapshot(this.current) as View, shared);
  }

  pickComponent(index: number): void {
    this.current.direction = "mix";
    this.current.weights = { [index]: 1 };
  }

  /** Moves one slider: however many events a frame brings, the picture is computed once in it. */
  setWeight(index: number, weight: number): void {
    mark("residscope:mix-input");
    this.pending[index] = weight;
    this.frame ||= requestAnimationFrame(() => this.applyWeights());
  }

  applyWeights(): void {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    if (!Object.keys(this.pending).length) return;
    const mixed = Object.entries({ ...this.current.weights, ...this.pending }).filter(([, weight]) => weight !== 0);
    this.current.weights = Object.fromEntries(mixed);
    this.current.direction = "mix";
    this.pending = {};
  }

  resetWeights(): void {
    this.pending = {};
    this.current.weights = {};
  }
}
