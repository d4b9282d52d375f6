import { words } from "../connect/connector";
import type { DictionaryInfo, DirectionRef, MixTerm, SavedDirection } from "../connect/wire";
import { gramOf, norm, scaled, type Coordinates, type Gram } from "../lib/algebra";
import { nearest, unitOf, usual } from "../lib/dictionaries";
import type { ValueUnit } from "../lib/format";
import { parseTerm, savedName, savedSource, termKey, type Term, type Terms, type Weights } from "../lib/mix";
import { place } from "../lib/people";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

/** What the direction on screen is made of: the chosen dictionary, the others beside it, the weights, and their products. */
export class Mixing {
  error = $state("");
  private products: { key: string; gram: Gram; start: Map<string, number> } | null = $state.raw(null);
  private wanted = "";

  /** Those that are read linearly: of a mix with an encoder's features, picture and direction would be two things. */
  private linear = $derived.by(() => (this.session.model?.dictionaries ?? []).filter((info) => info.linear !== false));
  private known = $derived.by(() => new Map(this.linear.map((info) => [info.id, info])));

  /** Saved directions, each as a dictionary of one. */
  private held = $derived.by(() => new Map((this.session.state?.directions ?? []).map((direction) => [savedSource(direction.name), asDictionary(direction)])));

  /** The dictionary chosen in the toolbar. */
  dictionary: DictionaryInfo | null = $derived.by(() => {
    const model = this.session.model;
    return model ? (this.info(this.view.current.dictionary) ?? usual(this.linear, model.n_layers)) : null;
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

  terms: Term[] = $derived.by(() => {
    const { weights, terms } = this.view.current;
    const own = Object.entries(weights).map(([index, weight]) => ({ source: this.dictionary?.id ?? "", index: Number(index), weight }));
    const others = Object.entries(terms).flatMap(([key, weight]) => ({ ...(parseTerm(key) ?? { source: "", index: 0 }), weight }));
    return [...own, ...others].filter(({ source, index, weight }) => weight !== 0 && index < this.sizeOf(source));
  });

  /** The dictionaries that the direction is made of: what its units depend on. */
  units = $derived.by(() => {
    const sources = this.terms.length ? [...new Set(this.terms.map(({ source }) => source))] : this.play.slice(0, 1);
    return sources.flatMap((source) => this.info(source) ?? []);
  });
  unit: ValueUnit = $derived.by(() => unitOf(this.view.current.unit, this.units));

  /** |sum_i w_i d_i|; null until the products are there. */
  length: number | null = $derived.by(() => {
    if (!this.terms.length) return 0;
    const only = new Set(this.terms.map(({ source }) => source)).size === 1 ? this.known.get(this.terms[0].source) : null;
    if (only?.kind === "pca" && !only.standardised) return Math.hypot(...this.terms.map(({ weight }) => weight));
    const coordinates = this.coordinates(this.terms);
    return coordinates && norm(this.products!.gram, coordinates);
  });
  /** The weights cancel, or there are none: no direction. */
  zero = $derived.by(() => !this.terms.length || (this.length !== null && this.length < 1e-6));

  /** As the server is told of it. */
  ref: DirectionRef | null = $derived.by(() => {
    if (this.zero) return null;
    const [first] = this.terms;
    const only = this.terms.every(({ source }) => source === first.source);
    const name = savedName(first.source);
    if (only && name !== null && this.terms.length === 1 && first.weight > 0) return { kind: "saved", name };
    const info = this.known.get(first.source);
    if (only && info && info.id === `pca@${info.site}`)
      return { kind: "pca", site: info.site, weights: Object.fromEntries(this.terms.map(({ index, weight }) => [index, weight])) };
    return { kind: "mix", terms: this.terms.map(asTerm) };
  });

  constructor(
    private session: Session,
    private view: ViewStore,
  ) {}

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
    this.view.setWeight(source === this.dictionary?.id ? index : termKey(source, index), weight);
  }

  /** One component alone counts in its own units, several at length one; null while the length is not known. */
  private divisor = $derived.by(() => (this.terms.length === 1 && this.view.current.unit !== "cos" ? Math.abs(this.terms[0].weight) : this.length));
  ready = $derived.by(() => this.divisor !== null);

  /** What the coordinate of each of a source's components counts for. */
  shares(source: string): Float64Array {
    const shares = new Float64Array(this.sizeOf(source));
    for (const term of this.terms) if (term.source === source) shares[term.index] = term.weight / this.divisor!;
    return shares;
  }

  /** Another dictionary: a component alone becomes the same one there; a mix stays what it is, if it can. */
  choose(id: string): void {
    const [old, next] = [this.dictionary, this.info(id)];
    const current = this.view.current;
    if (!next || next.id === old?.id) return;
    const one = this.view.component;
    if (old && !fits(old, next)) {
      if (this.terms.length && one === null)
        this.session.notify(next.width === old.width ? "The mix was put away: unembedding rows are read through the final norm, and mix with each other only." : `The mix was put away: directions of ${next.place} are ${next.width} wide, those of the mix ${old.width}.`);
      [current.weights, current.terms, current.also] = [one === null ? {} : { [Math.min(one, next.n - 1)]: 1 }, {}, []];
    } else if (one !== null) current.weights = { [Math.min(one, next.n - 1)]: 1 };
    else if (old) this.rebase(old, next);
    current.dictionary = next.id;
  }
  /** The nearest of another family. */
  chooseFamily(family: string): void {
    const found = nearest(this.choices, family, this.dictionary);
    if (found) this.choose(found.id);
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
    return this.products?.gram ?? null;
  }

  /** Terms as weights over everything in play; null until the products of all of it are there. */
  coordinates(terms: readonly Term[]): Coordinates | null {
    const products = this.products;
    if (!products) return null;
    const found = new Float64Array(products.gram.n);
    for (const { source, index, weight } of terms) {
      const start = products.start.get(source);
      if (start === undefined) return null;
      found[start + index] += weight;
    }
    return found;
  }

  /** Weights over everything in play become the mix. */
  adopt(coordinates: Coordinates): void {
    const weights: Weights = {};
    const terms: Terms = {};
    const at = scaled(coordinates);
    for (const [source, start] of this.products?.start ?? [])
      for (let index = 0; index < this.sizeOf(source); index++) {
        const weight = at[start + index];
        if (Math.abs(weight) < 1e-9) continue;
        if (source === this.dictionary?.id) weights[index] = weight;
        else terms[termKey(source, index)] = weight;
      }
    Object.assign(this.view.current, { weights, terms, direction: "mix" });
  }

  /** Call from an effect, when nothing more urgent is on its way: the products of all that is in play. */
  followProducts(settled: boolean): void {
    const key = [this.session.model?.hash, ...this.play].join("|");
    if (!this.play.length || key === this.wanted || !settled) return;
    this.wanted = key;
    this.session.connector.query("gram", { of: [...this.play] }).then(
      ({ of, gram }) => {
        if (this.wanted !== key) return;
        const start = new Map<string, number>();
        of.forEach(([source], at) => start.has(source) || start.set(source, at));
        this.products = { key, gram: gramOf(gram), start };
        this.error = "";
      },
      (error: unknown) => {
        if (this.wanted === key) this.error = words(error);
      },
    );
  }
}

const fits = (a: DictionaryInfo, b: DictionaryInfo): boolean => a.width === b.width && (a.space === "lens") === (b.space === "lens");

const asDictionary = ({ name, site, head, space, width }: SavedDirection): DictionaryInfo => ({
  id: savedSource(name), site, head, place: place({ site, head }), kind: "saved", n: 1, space,
  standardised: false, fitted_on: "", tokens: 0, shipped: false, width,
});

function asTerm({ source, index, weight }: Term): MixTerm {
  const name = savedName(source);
  return name === null ? { dictionary: source, index, weight } : { saved: name, weight };
}
