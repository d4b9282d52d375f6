import { cleanup, fireEvent, render, screen } from "@testing-library/svelte";
import { afterEach, describe, expect, it, vi } from "vitest";
import GridTable from "../src/views/GridTable.svelte";
import MixSlider from "../src/views/MixSlider.svelte";
import Token from "../src/views/Token.svelte";
import TopTokens from "../src/views/TopTokens.svelte";
import type { Field } from "../src/lib/stream";

afterEach(cleanup);

function grid(rows: number, cols: number): Field {
  const values = Float32Array.from({ length: rows * cols }, (_, i) => i - 3.5);
  return { rows, cols, values, scale: 4, sink: new Uint8Array(rows * cols) };
}

describe("the table beside the picture", () => {
  const props = { tokens: ["When", " John", "\n"], unit: "raw" as const, locked: { row: 0, col: 1 } };

  it("holds every cell's value, the last layer first", async () => {
    const onselect = vi.fn();
    const { container } = render(GridTable, { field: grid(3, 3), ...props, onselect });
    const room = screen.getByTestId("stream-grid");
    expect([room.dataset.rows, room.dataset.cols]).toEqual(["3", "3"]);
    expect([...container.querySelectorAll("tbody th")].map((th) => th.textContent)).toEqual(["resid_post.1", "resid_post.0", "embed"]);
    const cell = container.querySelector<HTMLElement>('[data-row="2"][data-col="1"]')!;
    expect(Number(cell.dataset.value)).toBe(3.5);
    expect(cell.textContent?.trim()).toBe("+3.5");
    await fireEvent.click(cell.querySelector("button")!);
    expect(onselect).toHaveBeenCalledWith({ row: 2, col: 1 });
    expect(container.querySelector("thead")!.textContent).toContain("2 ↵");
  });

  it("shows a long prompt a page at a time", async () => {
    const { container } = render(GridTable, { field: grid(2, 300), ...props, onselect: () => {} });
    expect(container.querySelectorAll("tbody tr:first-child td")).toHaveLength(128);
    await fireEvent.click(screen.getByText("Later"));
    await fireEvent.click(screen.getByText("Later"));
    expect(container.querySelector('[data-col="299"]')).not.toBeNull();
    expect(container.querySelectorAll("tbody tr:first-child td")).toHaveLength(44);
  });
});

describe("a mix slider", () => {
  it("says its component, gives its weight, and tells when it rests", async () => {
    const [oninput, onrelease] = [vi.fn(), vi.fn()];
    render(MixSlider, { index: 7, weight: 0.5, low: "ulumi", high: " Mary", oninput, onrelease });
    const slider = screen.getByTestId<HTMLInputElement>("mix-slider-7");
    expect(slider.getAttribute("aria-label")).toBe("Weight of PC 7");
    expect(slider.value).toBe("0.5");
    await fireEvent.input(slider, { target: { value: "-0.35" } });
    expect(oninput).toHaveBeenCalledWith(-0.35);
    expect(onrelease).not.toHaveBeenCalled();
    await fireEvent.change(slider);
    expect(onrelease).toHaveBeenCalled();
  });
});

describe("tokens", () => {
  it("are text, never markup", () => {
    const { container } = render(Token, { text: " <img src=x onerror=alert(1)>\n" });
    expect(container.querySelector("img")).toBeNull();
    expect(container.textContent).toContain("·<img·src=x·onerror=alert(1)>↵");
  });

  it("of two runs stand side by side, the likeliest first", () => {
    const { container } = render(TopTokens, {
      a: [{ id: 1, text: " Mary", p: 0.93 }, { id: 2, text: " John", p: 0.01 }],
      b: [{ id: 2, text: " John", p: 0.56 }, { id: 1, text: " Mary", p: 0.27 }],
    });
    const rows = [...container.querySelectorAll(".t5:not(.head)")].map((row) => row.textContent?.replace(/\s+/g, " ").trim());
    expect(rows).toEqual(["·Mary .93 .27", "·John .01 .56"]);
  });
});
