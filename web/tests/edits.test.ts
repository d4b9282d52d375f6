import { cleanup, fireEvent, render, screen } from "@testing-library/svelte";
import { afterEach, expect, it, vi } from "vitest";
import EditRow from "../src/frame/EditRow.svelte";
import type { ShownEdit } from "../src/connect/wire";

afterEach(cleanup);

it("a strength slider asks for nothing while it moves, and once when it rests", async () => {
  const edit = { id: "e1", kind: "scale", site: "mlp_out.4", factor: 0.5, enabled: true, label: "scale", glyph: "×", beside: "all pos", at: { layer: 4, pos: null }, slider: { name: "factor", value: 0.5, min: -1, max: 3, step: 0.05, unit: "×" }, delta: null, inert: null, error: null } as ShownEdit;
  let accept = () => {};
  const onchange = vi.fn(() => new Promise<void>((done) => (accept = done)));
  render(EditRow, { edit, index: 0, count: 1, current: true, onchange, onremove() {}, onmove() {}, onpick() {} });
  const slider = screen.getByTestId<HTMLInputElement>("edit-strength");
  for (const value of ["0.6", "0.9", "1.2"]) await fireEvent.input(slider, { target: { value } });
  expect(onchange).not.toHaveBeenCalled();
  await fireEvent.change(slider);
  expect(onchange).toHaveBeenCalledExactlyOnceWith({ ...edit, factor: 1.2 });
  expect(slider.value, "it stays where it was let go until the answer is there").toBe("1.2");
  accept();
});
