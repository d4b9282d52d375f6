import type { DictionaryInfo } from "../connect/wire";
import { parseTerm, savedName } from "../lib/mix";
import { byIdAlone, missing, pinnedNames, resolve, resolved, type Missing, type Names } from "../lib/references";
import type { Session } from "./session.svelte";
import type { ViewStore } from "./view.svelte";

/** The dictionaries that the view names, as a link does and as they are called here. */
export class References {
  private all = $derived.by(() => this.session.model?.dictionaries ?? []);

  constructor(
    private session: Session,
    private view: ViewStore,
    private usual: () => DictionaryInfo | null,
  ) {}

  /** What the view asks for that is not here; a saved direction may still come. */
  missing: Missing[] = $derived.by(() => {
    const { also, terms, dictionary } = this.view.current;
    const asked = [dictionary, ...also, ...Object.keys(terms).map((key) => parseTerm(key)?.source ?? "")];
    const lost = [...new Set(asked)].filter((reference) => reference && savedName(reference) === null && !resolve(reference, this.all));
    return this.session.model ? lost.map((reference) => missing(reference, this.all)) : [];
  });

  /** Call from an effect: what a link calls by id and hash goes by the id it has here, once it is here. */
  follow(): void {
    if (!this.session.model) return;
    const { dictionary, also, terms, weights } = this.view.current;
    if (this.view.opened) {
      this.view.opened = false;
      const alone = byIdAlone({ dictionary, also, terms, weights }, this.view.shared?.edits, this.all, this.usual());
      if (alone.length)
        this.session.notify(`This link names ${alone.join(", ")} without its hash, as links of Residscope 0.1 did. What goes by that name here may be another: the components that ship have been fitted anew since.`, "error");
    }
    const next = resolved({ dictionary, also, terms, weights }, this.all);
    if (next) Object.assign(this.view.current, next);
  }

  /** What a link calls all that is in play, brought dictionaries by their hashes. chosen: the one that the weights are of. */
  names(chosen: DictionaryInfo | null): Names {
    const { dictionary, weights, terms, also } = this.view.current;
    const own = Object.keys(weights).length ? chosen : null;
    return pinnedNames({ dictionary, weights: { ...weights }, terms: { ...terms }, also: [...also] }, this.all, own);
  }
}
