import type { MapStore } from "./map.svelte";
import { Measured } from "./measured.svelte";
import type { Session } from "./session.svelte";

/** Readers behind which writers can stand, and writers in front of them, by what they are called. */
export const READS = ["q", "k", "v", "mlp_in", "logits"] as const;
export const WRITES = ["embed", "result", "mlp_out"] as const;
const DIRECTIONS = { head: ["OV", "QK"], mlp: ["W_in", "W_out"] };

/** What weights alone say of the selected head, or MLP: each a method's call. */
export class WeightsStore {
  readonly ov: Measured;
  readonly qk: Measured;
  readonly composition: Measured;
  readonly directions: Measured;
  readonly trigrams: Measured;
  readonly path: Measured;
  /** Of composition: what writes, and from which layer; what reads, and in which. */
  writes: (typeof WRITES)[number] = $state("result");
  writesIn: number | null = $state(null);
  reads: (typeof READS)[number] = $state("k");
  readsIn: number | null = $state(null);
  /** Typed tokens; null: the prompt's own. */
  typed: string[] | null = $state.raw(null);
  private side: string = $state("OV");

  private layers = $derived.by(() => this.session.model?.n_layers ?? 1);
  /** Where is written and read, if nobody chose: the layer in front of the selected one, and that one. */
  from = $derived.by(() => Math.min(this.writesIn ?? Math.max(0, this.map.at.layer - 1), this.layers - 1));
  into = $derived.by(() => Math.min(this.readsIn ?? this.map.at.layer, this.layers - 1));
  /** Which matrices have directions. */
  sides = $derived.by(() => (this.map.at.head === null ? DIRECTIONS.mlp : DIRECTIONS.head));
  matrix = $derived.by(() => (this.sides.includes(this.side) ? this.side : this.sides[0]));
  /** The tokens that are read from: those of the prompt once each, unless others are typed. */
  tokens: string[] = $derived.by(() => this.typed ?? [...new Set(this.map.tokens)].slice(0, MOST_TOKENS));

  constructor(
    private session: Session,
    private map: MapStore,
  ) {
    const circuit = (circuit: string) => () => (map.at.head === null ? null : { layer: map.at.layer, head: map.at.head, circuit, k: 20 });
    this.ov = new Measured(session, "factored", circuit("OV"));
    this.qk = new Measured(session, "factored", circuit("QK"));
    this.composition = new Measured(session, "composition", () => ({ writers: [placed(this.writes, this.from)], readers: [placed(this.reads, this.into)], random: 100, seed: 0 }));
    this.directions = new Measured(session, "weight-directions", () => ({ layer: map.at.layer, matrix: this.matrix, head: map.at.head, n: 10, k: 8 }));
    this.trigrams = new Measured(session, "skip-trigrams", () => (map.at.head === null || !this.tokens.length ? null : { layer: map.at.layer, head: map.at.head, sources: this.tokens, k: 5 }));
    this.path = new Measured(session, "direct-path", () => (this.tokens.length ? { tokens: this.tokens, k: 5 } : null));
  }

  choose(side: string): void {
    this.side = side;
  }
}

const MOST_TOKENS = 12;
const placed = (site: string, layer: number): string => (site === "embed" || site === "logits" ? site : `${site}.${layer}`);
