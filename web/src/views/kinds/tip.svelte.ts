/** The one pop-up that all pictures of a page share; its anchor moves. */

import { getContext, hasContext, setContext } from "svelte";
import type { Words } from "./scene";

export class Tip {
  words: Words | null = $state.raw(null);
  anchor = $state.raw({ left: 0, top: 0, right: 0, bottom: 0 });
  private owner: object | null = null;

  show(owner: object, words: Words, anchor: { left: number; top: number; right: number; bottom: number }): void {
    [this.owner, this.words, this.anchor] = [owner, words, anchor];
  }

  /** Only who shows it may take it away. */
  hide(owner: object): void {
    if (this.owner === owner) [this.owner, this.words] = [null, null];
  }
}

const KEY = Symbol("tip");

/** The page's pop-up, and whether it was made here, so that this is where it is drawn. */
export function useTip(): { tip: Tip; mine: boolean } {
  if (hasContext(KEY)) return { tip: getContext<Tip>(KEY), mine: false };
  return { tip: setContext(KEY, new Tip()), mine: true };
}
