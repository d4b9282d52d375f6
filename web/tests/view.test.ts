import { cleanup, fireEvent, screen } from "@testing-library/svelte";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import Frozen from "../src/frozen/Frozen.svelte";
import type { PlainView } from "../src/views/kinds/plain";
import View from "../src/views/kinds/View.svelte";
import { shown } from "./rooted";

const map = {
  kind: "heat_map", values: [[0, null], [-4, 1]], infinite: { "values.0.1": "inf" }, rows: ["r0", "r1"], columns: ["c0", "c1"], title: "Map", row_title: "layer",
  column_title: "pos", unit: "logits", scale: "diverging", limit: 2, low: null, high: null, marks: [], note: "A note.", texts: null, bottom_up: false,
} satisfies PlainView & { infinite: object };
const axes = { title: "", x_title: "x", unit: "", references: [], note: "" };
const drawn = {
  heat_map: map,
  curve: { ...axes, kind: "curve", x: [0, 1], lines: [{ name: "a", y: [1, 2], low: null, high: null, dashed: false }], y_title: "y" },
  histogram: { ...axes, kind: "histogram", edges: [0, 1, 2], series: [{ name: "a", counts: [1, 2], n: 3, mean: 1, left_out: 0 }] },
  scatter: { ...axes, kind: "scatter", x: [0, 1], y: [1, 0], groups: null, texts: null, diagonal: false, y_title: "y" },
  token_strip: { kind: "token_strip", tokens: ["a", " b"], values: [1, -1], title: "", unit: "", scale: "diverging", limit: null, note: "" },
  pattern: { kind: "pattern", tokens: ["a", "b"], weights: [[1, 0], [0.5, 0.5]], title: "", note: "" },
} as Record<string, PlainView>;

beforeEach(() => {
  Object.defineProperty(HTMLElement.prototype, "clientWidth", { configurable: true, get: () => 640 });
});
afterEach(() => {
  cleanup();
  vi.restoreAllMocks();
});

const key = (name: string) => fireEvent.keyDown(screen.getByRole("application"), { key: name });

describe("every kind that is drawn", () => {
  it.each(Object.keys(drawn))("%s: is named, read by key, and has a table", async (kind) => {
    const { container } = shown(View, { view: drawn[kind] });
    const figure = screen.getByTestId(`view-${kind}`);
    expect(screen.getByRole("application").getAttribute("aria-label")).toContain("arrow keys");
    expect(screen.queryByTestId("tip")).toBeNull();
    await key("ArrowRight");
    expect(screen.getByTestId("tip").textContent).not.toBe("");
    expect(container.querySelector("[aria-live]")!.textContent).not.toBe("");
    await key("Escape");
    expect(screen.queryByTestId("tip")).toBeNull();
    await fireEvent.click(screen.getByTestId("view-table"));
    expect(figure.querySelectorAll("tbody tr").length).toBeGreaterThan(1);
    expect(screen.queryByRole("application")).toBeNull();
    await fireEvent.click(screen.getByTestId("view-table"));
    expect(screen.getByRole("application")).toBeTruthy();
  });
});

describe("a picture", () => {
  it("says the value its cursor is on, infinities too", async () => {
    shown(View, { view: map });
    await key("ArrowRight");
    expect(screen.getByTestId("tip").textContent).toContain("layer r0 · pos c0");
    await key("ArrowRight");
    expect(screen.getByTestId("tip").textContent).toContain("+∞ logits");
    await key("ArrowDown");
    expect(screen.getByTestId("tip").textContent).toContain("+1 logits");
  });

  it("keeps the pop-up when it is clicked, until Escape", async () => {
    shown(View, { view: map });
    const picture = screen.getByRole("application");
    const cell = [...picture.querySelectorAll("text")].find((text) => text.textContent === "c0")!;
    const at = { clientX: Number(cell.getAttribute("x")), clientY: Number(cell.getAttribute("y")) + 12 };
    await fireEvent.pointerMove(picture, at);
    expect(screen.getByTestId("tip").textContent).toContain("pos c0");
    await fireEvent.pointerLeave(picture);
    expect(screen.queryByTestId("tip")).toBeNull();
    await fireEvent.click(picture, at);
    await fireEvent.pointerLeave(picture);
    expect(screen.getByTestId("tip")).toBeTruthy();
    await key("Escape");
    expect(screen.queryByTestId("tip")).toBeNull();
  });

  it("saves its numbers in full", async () => {
    const made: Blob[] = [];
    vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => (made.push(blob as Blob), "blob:x"));
    const click = vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(() => {});
    shown(View, { view: map });
    await fireEvent.click(screen.getByTestId("view-save"));
    await fireEvent.click(screen.getByTestId("save-csv"));
    await vi.waitFor(() => expect(click).toHaveBeenCalled());
    expect((click.mock.contexts[0] as HTMLAnchorElement).download).toBe("Map.csv");
    expect(await made[0].text()).toBe("layer,pos,logits\nr0,c0,0\nr0,c1,Infinity\nr1,c0,-4\nr1,c1,1\n");
  });

  it("without values says so, and offers nothing to save", () => {
    shown(View, { view: { ...map, values: [], rows: [], columns: [] } as PlainView });
    expect(screen.getByText(/Nothing to show/)).toBeTruthy();
    expect(screen.queryByTestId("view-save")).toBeNull();
  });
});

describe("what is read", () => {
  it("a table pages long data", async () => {
    const rows = Array.from({ length: 150 }, (_, i) => [`row ${i}`, i === 3 ? null : i / 2]);
    const { container } = shown(View, { view: { kind: "table", columns: ["name", "x"], rows, title: "T", note: "" } as PlainView });
    expect(container.querySelectorAll("tbody tr")).toHaveLength(100);
    expect(container.querySelectorAll("tbody td")[7].textContent).toBe("–");
    await fireEvent.click(screen.getByText("Later"));
    expect(container.querySelector("tbody tr:last-child td")!.textContent).toBe("row 149");
  });

  it("a card shows failed as plainly as passed, and an open claim without a verdict", () => {
    const card = (verdict: "passed" | "failed" | null) => ({ kind: "card" as const, title: "claim", fields: { effect: -2.5 }, verdict, note: "" });
    shown(View, { view: { kind: "grid", columns: 3, title: "", views: [card("passed"), card("failed"), card(null)] } as PlainView });
    expect(screen.getAllByTestId("view-card").map((one) => one.textContent!.match(/passed|failed/)?.[0])).toEqual(["passed", "failed", undefined]);
    expect(screen.getAllByText("−2.500")).toHaveLength(3);
  });

  it("a card saves its evidence with its verdict", async () => {
    const made: Blob[] = [];
    vi.spyOn(URL, "createObjectURL").mockImplementation((blob) => (made.push(blob as Blob), "blob:x"));
    vi.spyOn(HTMLAnchorElement.prototype, "click").mockImplementation(() => {});
    shown(View, { view: { kind: "card", title: "claim", fields: { effect: -2.5, control: null }, verdict: "failed", note: "" } as PlainView });
    await fireEvent.click(screen.getByTestId("view-save"));
    await fireEvent.click(screen.getByTestId("save-csv"));
    await vi.waitFor(() => expect(made).toHaveLength(1));
    expect(await made[0].text()).toBe("field,value\nverdict,failed\neffect,-2.5\ncontrol,\n");
  });

  it("text is never markup", () => {
    const { container } = shown(View, { view: { kind: "text", title: "<b>T</b>", paragraphs: ["<img src=x onerror=alert(1)>"] } as PlainView });
    expect(container.querySelector("img, b")).toBeNull();
    expect(container.textContent).toContain("<img");
  });
});

describe("what cannot be drawn", () => {
  it("an unknown kind says which", () => {
    shown(View, { view: { kind: "hologram" } });
    expect(screen.getByTestId("view-unknown").textContent).toContain("“hologram”");
  });

  it("damaged data fails by itself, with its words, beside views that do not", () => {
    const broken = { ...map, values: null } as unknown as PlainView;
    shown(Frozen, { title: "T", views: [broken, drawn.curve] });
    expect(screen.getByRole("alert").textContent).toContain("could not be drawn");
    expect(screen.getByTestId("view-curve")).toBeTruthy();
  });
});

describe("a frozen page", () => {
  it("has one pop-up for all its pictures", async () => {
    shown(Frozen, { title: "All", views: [{ kind: "grid", columns: 2, title: "", views: Object.values(drawn) }, map] });
    for (const picture of screen.getAllByRole("application")) {
      await fireEvent.keyDown(picture, { key: "ArrowRight" });
      expect(screen.getAllByTestId("tip")).toHaveLength(1);
      await fireEvent.keyDown(picture, { key: "Escape" });
    }
  });

  it("changes its theme", async () => {
    shown(Frozen, { title: "T", views: [] });
    const before = document.body.dataset.theme;
    await fireEvent.click(screen.getByTestId("theme"));
    expect(document.body.dataset.theme).not.toBe(before);
    expect(screen.getByText("This page holds no views.")).toBeTruthy();
  });
});
