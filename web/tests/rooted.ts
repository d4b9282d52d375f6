/** A root for tests: the document's body, with an address of its own. */

import { render } from "@testing-library/svelte";
import type { Component } from "svelte";
import { Host } from "../src/root/host";
import { around, Theme, type Root } from "../src/root/root.svelte";

class Addressed extends Host {
  constructor(
    root: HTMLElement,
    private readonly at: string,
  ) {
    super(root);
  }
  override get hash(): string {
    return this.at;
  }
}

export function rooted(hash = "", element: HTMLElement = document.body): Root {
  const host = new Addressed(element, hash);
  return { host, theme: new Theme(host) };
}

/** A component as it stands in a page. */
export const shown = <P extends Record<string, any>>(component: Component<P>, props: P) =>
  render(component as Component<any>, { props, context: around(rooted()) });
