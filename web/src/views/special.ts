/** Which tokens of the model are special (the end of a turn, the beginning of a text ...), by their names, which are theirs alone. */

import { getContext, setContext } from "svelte";

const KEY = Symbol("special tokens");
const NONE: ReadonlySet<string> = new Set();

type Names = () => ReadonlySet<string>;

export const provideSpecial = (names: Names): Names => setContext(KEY, names);
export const useSpecial = (): Names => getContext<Names | undefined>(KEY) ?? (() => NONE);
