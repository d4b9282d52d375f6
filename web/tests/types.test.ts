// @vitest-environment node
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { typesOf } from "../types.mjs";

it("the types of views are those of the schema that Python writes", { timeout: 30_000 }, async () => {
  expect(readFileSync(new URL("../src/views/kinds/plain.generated.ts", import.meta.url), "utf8")).toBe(await typesOf());
});
