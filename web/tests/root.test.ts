import { fireEvent } from "@testing-library/svelte";
import { flushSync } from "svelte";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { render, type Options } from "../src/root/render";
import { Fake, state } from "./fake";

/** Two pages side by side in one document, which is somebody else's. */
interface Side {
  root: HTMLElement;
  fake: Fake;
  stopped: ReturnType<typeof vi.fn>;
  stop(): void;
}

const pages: Side[] = [];
const settle = async () => {
  flushSync();
  await new Promise((done) => setTimeout(done, 10));
  flushSync();
};

async function open(options: Options = {}): Promise<Side> {
  const root = document.body.appendChild(document.createElement("div"));
  const fake = new Fake();
  const stopped = vi.fn();
  const subscribe = fake.subscribe;
  fake.subscribe = (listener) => (subscribe(listener), stopped);
  const stop = render(root, fake, options);
  flushSync();
  fake.listener.state(state({}));
  await settle();
  const side = { root, fake, stopped, stop };
  pages.push(side);
  return side;
}

const ids = () => [...document.querySelectorAll("[id]")].map(({ id }) => id);
const press = (target: Element, key: string) => fireEvent.keyDown(target, { key });
const tab = (side: Side) => side.root.querySelector('[role="tab"][aria-selected="true"]')!.textContent;

beforeEach(() => {
  document.title = "a notebook";
  Object.defineProperty(HTMLElement.prototype, "clientWidth", { configurable: true, get: () => 640 });
});
afterEach(() => {
  for (const { stop, root } of pages.splice(0)) {
    stop();
    root.remove();
  }
  vi.restoreAllMocks();
});

describe("two pages in one document", () => {
  it("have no id in common, and every id that one names is its own", async () => {
    const [a, b] = [await open(), await open()];
    expect(new Set(ids()).size).toBe(ids().length);
    expect(ids().length).toBeGreaterThan(6);
    for (const { root } of [a, b])
      for (const name of ["aria-controls", "aria-labelledby", "for"])
        for (const element of root.querySelectorAll(`[${name}]`)) {
          const named = document.getElementById(element.getAttribute(name)!);
          if (named) expect(root.contains(named)).toBe(true);
        }
  });

  it("each have a theme, kept at the root and nowhere else", async () => {
    const before = document.documentElement.outerHTML.slice(0, document.documentElement.outerHTML.indexOf(">"));
    const [a, b] = [await open({ theme: "light" }), await open({ theme: "light" })];
    await fireEvent.click(a.root.querySelector('[data-testid="theme-toggle"]')!);
    expect([a.root.dataset.theme, b.root.dataset.theme]).toEqual(["dark", "light"]);
    expect(document.documentElement.outerHTML.slice(0, document.documentElement.outerHTML.indexOf(">"))).toBe(before);
    expect(localStorage.length).toBe(0);
  });

  it("hear only their own keys", async () => {
    const [a, b] = [await open(), await open()];
    await press(a.root, "2");
    expect([tab(a), tab(b)]).toEqual(["Map", "Stream"]);
    await press(b.root.querySelector("main")!, "/");
    flushSync();
    expect([a.root.querySelectorAll("dialog").length, b.root.querySelectorAll("dialog").length]).toEqual([0, 1]);
    await press(document.body, "b"); // the notebook's own
    flushSync();
    expect(document.querySelectorAll('[data-testid="library"]')).toHaveLength(0);
  });

  it("hear a key that nobody has the focus for while the pointer is over them", async () => {
    const [a, b] = [await open(), await open()];
    vi.spyOn(b.root, "matches").mockImplementation((selector) => selector === ":hover");
    await press(document.body, "2");
    expect([tab(a), tab(b)]).toEqual(["Stream", "Map"]);
  });

  it("tell each their own notices", async () => {
    const [a, b] = [await open(), await open()];
    a.fake.listener.state(state({ notices: ["a file was moved aside"] }));
    flushSync();
    expect(a.root.querySelectorAll('[data-testid="notice"]')).toHaveLength(1);
    expect(b.root.querySelectorAll('[data-testid="notice"]')).toHaveLength(0);
  });

  it("leave title, address and storage to the document", async () => {
    const replace = vi.spyOn(history, "replaceState");
    const a = await open();
    await press(a.root, "2");
    await new Promise((done) => setTimeout(done, 200));
    expect(document.title).toBe("a notebook");
    expect(replace).not.toHaveBeenCalled();
  });
});

describe("what lies over a page", () => {
  it("lies inside its root, and gives the focus back", async () => {
    const a = await open();
    const share = a.root.querySelector<HTMLElement>('[data-testid="theme-toggle"]')!;
    share.focus();
    await press(share, "/");
    flushSync();
    const dialog = a.root.querySelector("dialog")!;
    expect(dialog.contains(document.activeElement)).toBe(true);
    expect(a.root.querySelector<HTMLElement>(".page")!.inert).toBe(true);
    expect(a.root.querySelectorAll(".page dialog")).toHaveLength(0); // nothing clips it
    await press(document.activeElement!, "2"); // typed, not a command
    expect(tab(a)).toBe("Stream");
    await press(document.activeElement!, "Escape");
    flushSync();
    expect(a.root.querySelector("dialog")).toBeNull();
    expect(a.root.querySelector<HTMLElement>(".page")!.inert).toBe(false);
    expect(document.activeElement).toBe(share);
  });

  it("goes by a press beside the palette", async () => {
    const a = await open();
    await press(a.root, "/");
    flushSync();
    await fireEvent.click(a.root.querySelector("dialog input")!);
    expect(a.root.querySelector("dialog")).not.toBeNull();
    await fireEvent.click(a.root.querySelector(".veil")!);
    flushSync();
    expect(a.root.querySelector("dialog")).toBeNull();
  });
});

describe("taking a page away", () => {
  it("leaves nothing of it: no element, class or listener, and its session is let go", async () => {
    const [added, removed] = [vi.spyOn(window, "addEventListener"), vi.spyOn(window, "removeEventListener")];
    const names = (spy: { mock: { calls: unknown[][] } }) => spy.mock.calls.map(([name]) => String(name)).sort();
    const a = await open();
    await press(a.root, "/");
    flushSync();
    expect(names(added)).toContain("keydown");
    pages.pop();
    a.stop();
    flushSync();
    expect(names(removed)).toEqual(names(added));
    expect(a.root.outerHTML).toBe(a.root.getAttribute("class") === null ? "<div></div>" : '<div class=""></div>');
    expect(a.stopped).toHaveBeenCalledOnce();
    a.root.remove();
  });
});

describe("a page that has the window", () => {
  it("names itself, keeps its view in the address and its theme in the storage, and hears every key", async () => {
    const a = await open({ standalone: true });
    expect(document.title).toBe("Residscope · m");
    await press(document.body, "2");
    await new Promise((done) => setTimeout(done, 200));
    expect(location.hash).toContain("tab=map");
    expect(a.root.querySelector("#inspector")).not.toBeNull();
    await fireEvent.click(a.root.querySelector('[data-testid="theme-toggle"]')!);
    expect(localStorage.getItem("residscope:theme")).toBe(a.root.dataset.theme);
    localStorage.clear();
    history.replaceState(null, "", location.pathname);
  });
});

describe("a page in a notebook", () => {
  it("has no link to give until there is an address, which may come later", async () => {
    let address: string | undefined;
    const written: string[] = [];
    Object.defineProperty(navigator, "clipboard", { configurable: true, value: { writeText: async (text: string) => void written.push(text) } });
    const { root } = await open({ address: () => address });
    const share = () => fireEvent.click(root.querySelector<HTMLButtonElement>('[data-testid="share"]')!);
    root.querySelector<HTMLButtonElement>('[data-testid="share"]')!.disabled = false;
    await share();
    await settle();
    expect([written, root.textContent?.includes("wb.open()")]).toEqual([[], true]);
    address = "http://127.0.0.1:8765/";
    await share();
    await settle();
    expect(written).toHaveLength(1);
    expect(written[0].startsWith(address)).toBe(true);
  });

  it("is dark where the notebook around it is, and follows it", async () => {
    document.body.dataset.jpThemeLight = "false";
    const { root } = await open();
    expect(root.dataset.theme).toBe("dark");
    document.body.dataset.jpThemeLight = "true";
    await settle();
    expect(root.dataset.theme).toBe("light");
    delete document.body.dataset.jpThemeLight;
  });
});
