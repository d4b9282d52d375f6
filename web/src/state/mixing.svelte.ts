import type { DictionaryInfo, DirectionRef } from "../connect/wire";
import { norm, scaled, type Coordinates, type Gram } from "../lib/algebra";
import { activationOf, fits, isEncoder, unitOf, usual } from "../lib/dictionaries";
import type { StreamUnit } from "../lib/format";
import { apart, asDictionary, asTerm, sourcesOf } from "../lib/mixed";
import { parseTerm, savedName, savedSource, termKey, type Term, type Terms, type Weights } from "../lib/mix";
import type { Names } from "../lib/references";
import { Picks } from "./picks.svelte";
import { askedKey, ProductStore, type Asked } from "./products.svelte";
import { References } from "./references.svelte";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

const CHIPS = 8;

/** What the direction on screen is made of: the chosen dictionary, the others beside it, the weights, and their products. */
export class Mixing {
  readonly references: References;
  private products: ProductStore;
  private picks: Picks;

  private all = $derived.by(() => this.session.model?.dictionaries ?? []);
  private known = $derived.by(() => new Map(this.all.map((info) => [info.id, info])));

  /** Saved directions, each as a dictionary of one. */
  private held = $derived.by(() => new Map((this.session.state?.directions ?? []).map((direction) => [savedSource(direction.name), asDictionary(direction)])));

  /** The dictionary chosen in the toolbar. */
  dictionary: DictionaryInfo | null = $derived.by(() => {
    const model = this.session.model;
    return model ? (this.info(this.view.current.dictionary) ?? usual(this.all, model.n_layers)) : null;
  });
  /** All that can be chosen. */
  choices = $derived.by(() => [...this.known.values(), ...this.held.values()]);

  /** All that may be mixed with the chosen dictionary: of its width, and read as it is. */
  mixable = $derived.by(() => {
    const chosen = this.dictionary;
    return chosen ? [...this.known.values()].filter((info) => fits(info, chosen)) : [];
  });
  saved = $derived.by(() => [...this.held.keys()].filter((source) => this.takesSaved(source)));

  /** What stands among the sliders: the chosen dictionary first. */
  play: string[] = $derived.by(() => {
    const { also, terms } = this.view.current;
    const asked = [...also, ...Object.keys(terms).map((key) => parseTerm(key)?.source ?? "")];
    const there = asked.filter((source) => this.mixable.some(({ id }) => id === source) || this.saved.includes(source));
    return [...new Set([...(this.dictionary ? [this.dictionary.id] : []), ...there])];
  });

  /** What has a weight and is read of other vectors than the chosen one, so that the two have no mix; a link may ask for it. */
  unfit: DictionaryInfo[] = $derived.by(() => {
    const asked = Object.entries(this.view.current.terms).flatMap(([key, weight]) => (weight ? [parseTerm(key)?.source ?? ""] : []));
    return [...new Set(asked)].filter((source) => !this.play.includes(source)).flatMap((source) => this.info(source) ?? []);
  });
  /** Either: nothing is read along, and it is said why. */
  absent = $derived.by(() => this.references.missing.length + this.unfit.length > 0);
  /** The chosen dictionary is not here (yet), and another stands in the pickers: the weights are not of that one. */
  private astray = $derived.by(() => !!this.view.current.dictionary && this.view.current.dictionary !== this.dictionary?.id);
  /** The one component of the chosen dictionary that is looked at. */
  component: number | null = $derived.by(() => (this.astray ? null : this.view.component));

  terms: Term[] = $derived.by(() => {
    const { weights, terms } = this.view.current;
    if (this.absent) return [];
    const own = Object.entries(this.astray ? {} : weights).map(([index, weight]) => ({ source: this.dictionary?.id ?? "", index: Number(index), weight }));
    const others = Object.entries(terms).flatMap(([key, weight]) => ({ ...(parseTerm(key) ?? { source: "", index: 0 }), weight }));
    return [...own, ...others].filter(({ source, index, weight }) => weight !== 0 && index < this.sizeOf(source));
  });

  /** The dictionaries that the direction is made of: what its units depend on. */
  units = $derived.by(() => {
    const sources = this.terms.length ? [...new Set(this.terms.map(({ source }) => source))] : this.play.slice(0, 1);
    return sources.flatMap((source) => this.info(source) ?? []);
  });
  unit: StreamUnit = $derived.by(() => unitOf(this.view.current.unit, this.units));

  /** The encoders among what the picture is of: it is then a sum of coordinates, and no inner product with one direction. */
  private encoders = $derived.by(() => [...new Set(this.terms.map(({ source }) => source))].flatMap((source) => this.known.get(source) ?? []).filter(isEncoder));
  encoded = $derived.by(() => this.encoders.length > 0);
  /** The one feature of an encoder that is shown. */
  feature: Term | null = $derived.by(() => (this.encoded && this.terms.length === 1 ? this.terms[0] : null));

  /** Of each source in play what is asked of the server: all of it, or, of a large one, what has a weight or was picked. */
  asked: Asked[] = $derived.by(() => this.play.map((source) => ({ source, indices: this.indicesOf(source) })).filter(({ indices }) => indices === null || indices.length > 0));
  /** A few of the chosen dictionary's directions, for buttons of their own: the first, or of a large one those picked. */
  chips: number[] = $derived.by(() => {
    const info = this.dictionary;
    if (!info || info.kind === "saved") return [];
    return (this.indicesOf(info.id) ?? Array.from({ length: info.n }, (_, i) => i)).slice(0, CHIPS);
  });
  askedKey = $derived.by(() => this.asked.map(askedKey).join());

  /** |sum_i w_i d_i|; null until the products are there. */
  length: number | null = $derived.by(() => {
    if (!this.terms.length) return 0;
    const only = new Set(this.terms.map(({ source }) => source)).size === 1 ? this.known.get(this.terms[0].source) : null;
    if (only?.kind === "pca" && !only.standardised && !isEncoder(only)) return Math.hypot(...this.terms.map(({ weight }) => weight));
    const coordinates = this.coordinates(this.terms);
    return coordinates && norm(this.products.gram!, coordinates);
  });
  /** The weights cancel, or there are none: no direction. */
  private pointless = $derived.by(() => !this.terms.length || (this.length !== null && this.length < 1e-6));
  /** Nor a picture, but of encoders, whose activations add up whatever their rows do. */
  zero = $derived.by(() => (this.encoded ? !this.terms.length : this.pointless));

  /** As the server is told of it. */
  ref: DirectionRef | null = $derived.by(() => {
    if (this.pointless) return null;
    const [first] = this.terms;
    const only = this.terms.every(({ source }) => source === first.source);
    const name = savedName(first.source);
    if (only && name !== null && this.terms.length === 1 && first.weight > 0) return { kind: "saved", name };
    const info = this.known.get(first.source);
    if (only && info && info.id === `pca@${info.site}`)
      return { kind: "pca", site: info.site, weights: Object.fromEntries(this.terms.map(({ index, weight }) => [index, weight])) };
    return { kind: "mix", terms: this.terms.map(asTerm) };
  });
  /** What is on screen, for the lines of Python that give its numbers. */
  picture: DirectionRef | null = $derived.by(() => (this.encoded ? { kind: "mix", terms: this.terms.map(asTerm) } : this.ref));

  constructor(
    private session: Session,
    private view: ViewStore,
  ) {
    this.references = new References(session, view, () => this.dictionary);
    this.products = new ProductStore(session);
    this.picks = new Picks(session);
  }

  get error(): string {
    return this.products.error;
  }

  /** What a direction is read before, such as "ReLU", where it is of encoders; empty where it is what its picture is. */
  beforeOf(ref: DirectionRef | null): string {
    const encoders = sourcesOf(ref).flatMap((source) => this.known.get(source) ?? []).filter(isEncoder);
    return [...new Set(encoders.map(activationOf))].join(" and the ");
  }

  info(source: string): DictionaryInfo | null {
    return this.known.get(source) ?? this.held.get(source) ?? null;
  }
  sizeOf(source: string): number {
    return this.info(source)?.n ?? 0;
  }
  private takesSaved(source: string): boolean {
    const [direction, chosen] = [this.held.get(source), this.dictionary];
    return !!direction && !!chosen && fits(direction, chosen);
  }

  /** The view asks for a saved direction already, alone or among others. */
  asksFor(name: string): boolean {
    const { dictionary, terms } = this.view.current;
    return dictionary === savedSource(name) || savedSource(name) in terms;
  }

  /** A saved direction alone: beside the chosen dictionary where they can be mixed, else in its place. */
  showSaved(name: string): void {
    const source = savedSource(name);
    const current = this.view.current;
    current.direction = "mix";
    if (this.dictionary?.id !== source && this.takesSaved(source)) [current.weights, current.terms, current.also] = [{}, { [source]: 1 }, []];
    else [current.dictionary, current.weights, current.terms, current.also] = [source, { 0: 1 }, {}, []];
  }

  weightOf(source: string, index: number): number {
    const { weights, terms } = this.view.current;
    return (source === this.dictionary?.id ? weights[index] : terms[termKey(source, index)]) ?? 0;
  }
  setWeight(source: string, index: number, weight: number): void {
    this.settle();
    this.pick(source, index); // so that its slider stays where it comes to zero
    this.view.setWeight(source === this.dictionary?.id ? index : termKey(source, index), weight);
  }

  /** Which directions of a source the server is asked for; null: all of them. */
  indicesOf(source: string): number[] | null {
    return this.picks.of(this.info(source), this.weighted(source));
  }
  /** Puts one of a large dictionary among those that are asked for; of a small one all are. Answers whether it is there. */
  pick(source: string, index: number): boolean {
    return this.picks.pick(this.info(source), index, this.weighted(source));
  }
  /** Those without a weight leave again. */
  unpick(source: string): void {
    this.picks.clear(source);
  }
  private weighted(source: string): number[] {
    return this.terms.filter((term) => term.source === source).map(({ index }) => index);
  }
  /** One direction of the chosen dictionary alone. */
  show(index: number): void {
    this.settle();
    if (this.dictionary && this.pick(this.dictionary.id, index)) this.view.pickComponent(index);
  }
  /** What is chosen now is of the dictionary in the pickers; what was of one that is not here goes. */
  private settle(): void {
    if (this.astray && this.dictionary) Object.assign(this.view.current, { dictionary: this.dictionary.id, weights: {} });
  }

  /** One component alone counts in its own units, several at length one (of encoders as they are); null while the length is not known. */
  private divisor = $derived.by(() => {
    if (this.terms.length === 1 && this.unit !== "cos") return Math.abs(this.terms[0].weight);
    return this.encoded ? 1 : this.length;
  });
  ready = $derived.by(() => this.divisor !== null);

  /** What the coordinate of each of a source's components counts for, of those at `indices` in their order. */
  shares(source: string, indices: readonly number[] | null = null): Float64Array {
    const shares = new Float64Array(indices?.length ?? this.sizeOf(source));
    const at = indices && new Map(indices.map((index, i) => [index, i]));
    for (const term of this.terms) {
      const place = at ? at.get(term.index) : term.index;
      if (term.source === source && place !== undefined) shares[place] = term.weight / this.divisor!;
    }
    return shares;
  }
  /** Whether coordinates that were asked for are of all that has a weight. */
  covers(source: string, held: { indices: readonly number[] | null } | undefined): boolean {
    return !!held && (!held.indices || this.terms.every((term) => term.source !== source || held.indices!.includes(term.index)));
  }

  /** Another dictionary: a component alone becomes the same one there; a mix stays what it is, if it can. */
  choose(id: string): void {
    if (this.info(id)) this.settle();
    const [old, next] = [this.dictionary, this.info(id)];
    const current = this.view.current;
    if (!next || next.id === old?.id) return;
    const one = this.component;
    if (old && !fits(old, next)) {
      if (this.terms.length && one === null)
        this.session.notify(next.width === old.width ? apart(old, next) : `The mix was put away: directions of ${next.place} are ${next.width} wide, those of the mix ${old.width}.`);
      [current.weights, current.terms, current.also] = [one === null ? {} : { [Math.min(one, next.n - 1)]: 1 }, {}, []];
    } else if (one !== null) current.weights = { [Math.min(one, next.n - 1)]: 1 };
    else if (old) this.rebase(old, next);
    current.dictionary = next.id;
  }

  private rebase(old: DictionaryInfo, next: DictionaryInfo): void {
    const current = this.view.current;
    const terms: Terms = { ...current.terms };
    for (const [index, weight] of Object.entries(current.weights)) terms[termKey(old.id, Number(index))] = weight;
    const weights: Weights = {};
    for (const [key, weight] of Object.entries(terms)) {
      const term = parseTerm(key);
      if (term?.source !== next.id) continue;
      weights[term.index] = weight;
      delete terms[key];
    }
    [current.weights, current.terms] = [weights, terms];
    current.also = current.also.filter((source) => source !== next.id);
  }

  include(source: string): void {
    if (!this.play.includes(source)) this.view.current.also = [...this.view.current.also, source];
    if (savedName(source) !== null && this.weightOf(source, 0) === 0 && !this.terms.length) this.setWeight(source, 0, 1);
  }
  leaveOut(source: string): void {
    const current = this.view.current;
    current.also = current.also.filter((other) => other !== source);
    current.terms = Object.fromEntries(Object.entries(current.terms).filter(([key]) => parseTerm(key)?.source !== source));
  }

  // ── products ────────────────────────────────────────────────────────────────────────────────────────────

  get gram(): Gram | null {
    return this.products.gram;
  }

  coordinates(terms: readonly Term[]): Coordinates | null {
    return this.products.coordinates(terms);
  }

  /** Weights over everything in play become the mix. */
  adopt(coordinates: Coordinates): void {
    this.settle();
    const weights: Weights = {};
    const terms: Terms = {};
    const at = scaled(coordinates);
    this.products.of.forEach(([source, index], place) => {
      const weight = at[place];
      if (Math.abs(weight) < 1e-9) return;
      if (source === this.dictionary?.id) weights[index] = weight;
      else terms[termKey(source, index)] = weight;
    });
    Object.assign(this.view.current, { weights, terms, direction: "mix" });
  }

  /** Call from an effect, when nothing more urgent is on its way: the products of all that is in play. */
  followProducts(settled: boolean): void {
    if (settled) this.products.follow(this.asked);
  }

  /** What a link calls all that is in play. */
  get names(): Names {
    return this.references.names(this.known.get(this.dictionary?.id ?? "") ?? null);
  }
  /** Goes on without what is not here. */
  leaveOutMissing(): void {
    const current = this.view.current;
    const here = (source: string): boolean => savedName(source) !== null || this.play.includes(source);
    if (this.astray) [current.dictionary, current.weights] = ["", {}];
    current.also = current.also.filter(here);
    current.terms = Object.fromEntries(Object.entries(current.terms).filter(([key]) => here(parseTerm(key)?.source ?? "")));
  }
  /** A dictionary that is forgotten here is looked at no more. */
  letGo(id: string): void {
    const current = this.view.current;
    if (current.dictionary === id) [current.dictionary, current.weights] = ["", {}];
    this.leaveOut(id);
  }
}
