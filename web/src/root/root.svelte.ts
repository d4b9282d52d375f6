/** What every part of one page shares, and no part of another: where it stands, and its light. */

import { getContext, setContext } from "svelte";
import type { Host } from "./host";

const STORED = "residscope:theme";
const KEY = Symbol("residscope root");
export type ThemeName = "light" | "dark";

/** Light or dark: the system's preference until one is chosen by hand. */
export class Theme {
  name: ThemeName = $state("light");

  constructor(
    private host: Host,
    private chosen: ThemeName | null = null,
  ) {}

  start(): () => void {
    return this.host.ondark((dark) => this.show(this.stored() ?? (dark ? "dark" : "light")));
  }

  toggle(): void {
    this.chosen = this.name === "dark" ? "light" : "dark";
    this.host.store(STORED, this.chosen);
    this.show(this.chosen);
  }

  private stored(): ThemeName | null {
    const value = this.host.stored(STORED) ?? this.chosen;
    return value === "light" || value === "dark" ? value : null;
  }

  private show(name: ThemeName): void {
    this.host.root.dataset.theme = name;
    this.name = name;
  }
}

export interface Root {
  host: Host;
  theme: Theme;
}

/** The context that a page is mounted with. */
export const around = (root: Root): Map<unknown, unknown> => new Map([[KEY, root]]);
export const provideRoot = (root: Root): Root => setContext(KEY, root);
export const useRoot = (): Root => getContext<Root>(KEY);
