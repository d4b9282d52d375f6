/** What the page asks of its surroundings. No other file names `document`, `window`, the address, the clipboard or the storage. */

export interface Box {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

type Stop = () => void;

function listen<K extends keyof WindowEventMap>(name: K, listener: (event: WindowEventMap[K]) => void, capture = false): Stop {
  window.addEventListener(name, listener, capture);
  return () => window.removeEventListener(name, listener, capture);
}

/**
 * A page inside another document, such as a notebook's: it keeps to its root. It has no address, title or storage of its own, and
 * hears the keys that are pressed in it, or while the pointer is over it and nothing else has the focus.
 */
export class Host {
  private readonly prefix = `r${Math.random().toString(36).slice(2, 10)}-`;

  /** address: where the page's relative addresses begin, if anywhere: it may come later. */
  constructor(
    readonly root: HTMLElement,
    private readonly address: () => string | undefined = () => undefined,
  ) {}

  get base(): string {
    return this.address() ?? baseAddress();
  }

  /** Whether an address opens the page, so that a link to it leads somewhere. */
  get linked(): boolean {
    return this.address() !== undefined;
  }

  /** Begins the page anew, with the view that its address keeps; whoever put it there says how. */
  again: () => void = () => {};

  /** An id that no other page in the document has. */
  id(name: string): string {
    return this.prefix + name;
  }

  /** What stands after # and ? in the page's address. */
  get hash(): string {
    return "";
  }
  get query(): string {
    return "";
  }

  /** Keeps the view in the address, where the page has one. step: one that Back comes back from. */
  keep(_hash: string, _step = false): void {}

  /** Told when the address is another than was kept: by Back, or by a link put into it. */
  onaddress(_listener: (hash: string) => void): Stop {
    return () => {};
  }

  /** The address that opens the page with these. */
  link(query: string, hash: string): string {
    const url = new URL(this.base);
    [url.search, url.hash] = [query, hash];
    return url.href;
  }

  title(_text: string): void {}

  /** What is stored is there the next time. */
  get remembers(): boolean {
    return false;
  }
  stored(_key: string): string | null {
    return null;
  }
  store(_key: string, _value: string): void {}

  /** Key presses that are the page's, once its parts have left them alone. */
  onkey(listener: (event: KeyboardEvent) => void): Stop {
    const inside = (event: KeyboardEvent) => {
      if (!event.cancelBubble) listener(event); // a part that stopped it is heard at this very element
    };
    const nowhere = (event: KeyboardEvent) => {
      if (event.target === document.body && this.root.matches(":hover")) listener(event);
    };
    this.root.addEventListener("keydown", inside);
    const stop = listen("keydown", nowhere);
    return () => {
      this.root.removeEventListener("keydown", inside);
      stop();
    };
  }

  onmove(listener: (event: PointerEvent) => void): Stop {
    this.root.addEventListener("pointermove", listener);
    return () => this.root.removeEventListener("pointermove", listener);
  }

  /** A press of the pointer anywhere but in an element, also outside the page. */
  onpressbeside(element: HTMLElement, listener: () => void): Stop {
    return listen("pointerdown", (event) => void (event.composedPath().includes(element) || listener()));
  }

  /** Whatever scrolls, in the page or around it. */
  onscroll(listener: () => void): Stop {
    return listen("scroll", listener, true);
  }

  /** Told at once, and whenever it changes, whether what it stands in is dark, or else the system prefers that. */
  ondark(listener: (dark: boolean) => void): Stop {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => listener(this.around() ?? system.matches);
    const watch = new MutationObserver(follow);
    watch.observe(document.body, { attributes: true, attributeFilter: ["class", "data-jp-theme-light", "data-vscode-theme-kind"] });
    follow();
    system.addEventListener("change", follow);
    return () => {
      watch.disconnect();
      system.removeEventListener("change", follow);
    };
  }

  /** Whether the notebook around it is dark, where it says so: Jupyter, VS Code, marimo. */
  protected around(): boolean | null {
    const { dataset, classList } = document.body;
    if (dataset.jpThemeLight !== undefined) return dataset.jpThemeLight === "false";
    if (dataset.vscodeThemeKind !== undefined) return !dataset.vscodeThemeKind.includes("light");
    return classList.contains("dark") ? true : classList.contains("light") ? false : null;
  }

  get focused(): HTMLElement | null {
    const active = (this.root.getRootNode() as Document | ShadowRoot).activeElement;
    return active instanceof HTMLElement ? active : null;
  }

  /** What of the page is in sight, in the coordinates of pointer events. */
  sight(): Box {
    const { left, top, right, bottom } = this.root.getBoundingClientRect();
    return { left: Math.max(left, 0), top: Math.max(top, 0), right: Math.min(right, innerWidth), bottom: Math.min(bottom, innerHeight) };
  }

  /** From those coordinates to the root's own. */
  within(x: number, y: number): { x: number; y: number } {
    const { left, top } = this.root.getBoundingClientRect();
    return { x: x - left - this.root.clientLeft, y: y - top - this.root.clientTop };
  }
}

/** A page that has the browser's window to itself. */
export class WindowHost extends Host {
  override id(name: string): string {
    return name;
  }
  override get linked(): boolean {
    return true;
  }
  protected override around(): boolean | null {
    return null;
  }
  override again = (): void => location.reload(); // the server may bring another version of the page
  override get hash(): string {
    return location.hash;
  }
  override get query(): string {
    return location.search;
  }
  override keep(hash: string, step = false): void {
    const address = hash ? `#${hash}` : location.pathname + location.search;
    if (step) history.pushState(null, "", address);
    else history.replaceState(null, "", address);
  }
  override onaddress(listener: (hash: string) => void): Stop {
    return listen("popstate", () => listener(this.hash));
  }
  override link(query: string, hash: string): string {
    const url = new URL(location.href);
    [url.search, url.hash] = [query, hash];
    return url.href;
  }
  override title(text: string): void {
    document.title = text;
  }
  override get remembers(): boolean {
    return true;
  }
  override stored(key: string): string | null {
    try {
      return localStorage.getItem(key);
    } catch {
      return null; // storage may be forbidden
    }
  }
  override store(key: string, value: string): void {
    try {
      localStorage.setItem(key, value);
    } catch {
      // it holds for this page only
    }
  }
  override onkey(listener: (event: KeyboardEvent) => void): Stop {
    return listen("keydown", listener);
  }
}

const SECRET = "page"; // as connect/secret.ts says it again

/** Out of the address, where a link has just led here, and kept for this server's pages; else what was kept. */
export function takeSecret(base: string): string {
  const here = new URL(location.href);
  const told = here.searchParams.get(SECRET);
  const place = `residscope-page:${new URL(base).pathname}`; // several servers may share an origin, behind a proxy
  if (told !== null) {
    here.searchParams.delete(SECRET);
    history.replaceState(history.state, "", here.href);
    keep(place, told);
    return told;
  }
  try {
    return localStorage.getItem(place) ?? "";
  } catch {
    return "";
  }
}

function keep(place: string, secret: string): void {
  try {
    localStorage.setItem(place, secret);
  } catch {
    // a browser that keeps nothing is let in by the link each time
  }
}

export function baseAddress(): string {
  return document.baseURI;
}

/** Gives an element's page its style, once in the document and once in each shadow that hides it from the document's. */
export function addStyle(element: HTMLElement, css: string, name: string): void {
  const root = element.getRootNode();
  for (const place of [document.head, root instanceof ShadowRoot ? root : null]) {
    if (!place || place.querySelector(`style[data-residscope="${name}"]`)) continue;
    const style = document.createElement("style");
    style.dataset.residscope = name;
    style.textContent = css;
    place.append(style);
  }
}

/** An element that hides what a selector finds in the document for as long as it stands there. */
export function hiding(selector: string): HTMLElement {
  const style = document.createElement("style");
  style.textContent = `${selector}, .jp-OutputArea-child:has(${selector}) { display: none; }`;
  return style;
}

export const newElement = (): HTMLElement => document.createElement("div");

export const elementOf = (id: string): HTMLElement => document.getElementById(id)!;

export function newCanvas(): HTMLCanvasElement {
  return document.createElement("canvas");
}

/** Pixels of the screen to one of CSS. */
export function sharpness(): number {
  return globalThis.devicePixelRatio || 1;
}

/** Throws where the browser does not allow it. */
export function toClipboard(text: string): Promise<void> {
  return navigator.clipboard.writeText(text);
}

export function download(blob: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
