import { mount, unmount } from "svelte";
import type { Connector } from "../connect/connector";
import Page from "../Page.svelte";
import "../page.css";
import { Host, WindowHost } from "./host";
import { around, Theme, type ThemeName } from "./root.svelte";

export interface Options {
  /** The page has the window to itself: its address, title, storage and keys. */
  standalone?: boolean;
  /** Chosen for it; else the system's preference. */
  theme?: ThemeName;
  /** Where links to the session lead, once it is known; else to the document. */
  address?: string | (() => string | undefined);
}

/** Puts the page into an element, which it fills; the answer takes it away again. */
export function render(root: HTMLElement, connector: Connector, options: Options = {}): () => void {
  const { address } = options;
  const where = typeof address === "function" ? address : () => address;
  const host = options.standalone ? new WindowHost(root, where) : new Host(root, where);
  const before = { theme: root.dataset.theme, tabIndex: root.getAttribute("tabindex") };
  root.classList.add("residscope");
  if (!options.standalone) {
    root.classList.add("embedded");
    root.dataset.lmSuppressShortcuts = "true"; // Jupyter leaves the keys of such an element alone
    root.tabIndex = -1; // a press on it takes the keys
  }
  const put = () => mount(Page, { target: root, props: { connector }, context: around({ host, theme: new Theme(host, options.theme) }) });
  let [page, left] = [put(), false];
  if (!options.standalone)
    host.again = () =>
      setTimeout(() => { // it is called by the page that is to go: a page put there meanwhile would go with it
        if (left) return;
        void unmount(page);
        page = put();
      });
  return () => {
    left = true;
    void unmount(page);
    root.classList.remove("residscope", "embedded");
    delete root.dataset.lmSuppressShortcuts;
    if (before.theme === undefined) delete root.dataset.theme;
    else root.dataset.theme = before.theme;
    if (before.tabIndex === null) root.removeAttribute("tabindex");
    else root.setAttribute("tabindex", before.tabIndex);
  };
}
