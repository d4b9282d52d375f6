import { words } from "../connect/connector";
import { readLayer, type LayerData } from "../lib/map";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

interface Wanted {
  run: string;
  layer: number;
  positive: number;
  negative: number;
}
type Once = <T>(key: string, load: () => Promise<T>) => Promise<T>;

const PAUSE = 90;

/** One layer in full, at a position. */
class Followed {
  data: LayerData | null = $state.raw(null);
  error = $state("");
  private wanted = "";

  constructor(private session: Session) {}

  /** neurons: whether they are wanted too. */
  follow(wanted: Wanted, pos: number, neurons: boolean, once: Once): (() => void) | undefined {
    const key = `${wanted.run}|${wanted.positive} ${wanted.negative}|layer ${wanted.layer} at ${pos} ${neurons}`;
    if (key === this.wanted) return;
    const timer = setTimeout(() => {
      this.wanted = key;
      once(key, async () => readLayer(await this.session.connector.query("map_layer", { ...wanted, pos, neurons }), wanted.layer, wanted.run)).then(
        (layer) => this.wanted === key && ([this.data, this.error] = [layer, ""]),
        (error: unknown) => this.wanted === key && ([this.data, this.error] = [null, words(error)]),
      );
    }, PAUSE);
    return () => clearTimeout(timer);
  }

  retry(): void {
    [this.wanted, this.error] = ["", ""];
  }
}

/** The layer of the map that is open: at the metric's position, and drawn from within at any. */
export class OpenLayer {
  private row: Followed;
  private elsewhere: Followed;

  constructor(
    session: Session,
    private view: ViewStore,
  ) {
    this.row = new Followed(session);
    this.elsewhere = new Followed(session);
  }

  get unfolded(): boolean {
    return this.view.current.map.inside;
  }
  set unfolded(inside: boolean) {
    this.view.current.map.inside = inside;
  }
  /** The position whose values the drawing shows; null: the metric's. */
  get pos(): number | null {
    return this.view.current.map.pos;
  }
  set pos(pos: number | null) {
    this.view.current.map.pos = pos;
  }
  get data(): LayerData | null {
    return this.row.data;
  }
  get error(): string {
    return this.row.error || (this.pos === null ? "" : this.elsewhere.error);
  }
  /** What the drawing shows. */
  get drawn(): LayerData | null {
    return this.pos === null ? this.row.data : this.elsewhere.data;
  }

  /** Call from an effect. at: the metric's position. once: asks for what is not held yet. */
  follow(wanted: Wanted, at: number, length: number, once: Once): () => void {
    if (this.pos !== null && (this.pos === at || this.pos >= length)) this.pos = null;
    const stops = [this.row.follow(wanted, at, true, once), this.pos !== null && this.unfolded ? this.elsewhere.follow(wanted, this.pos, false, once) : undefined];
    return () => stops.forEach((stop) => stop?.());
  }

  /** Tries once more what failed. */
  retry(): void {
    this.row.retry();
    this.elsewhere.retry();
  }
}
