// @vitest-environment node
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { FILES, typesOf } from "../types.mjs";

it.each(FILES)("$types has the types of the schema that Python writes", { timeout: 30_000 }, async (file) => {
  expect(readFileSync(new URL(`../${file.types}`, import.meta.url), "utf8")).toBe(await typesOf(file));
});
