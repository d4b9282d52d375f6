import { expect, test } from "vitest";
import { besideName, relatives } from "../src/lib/models";

test.each([
  ["smollm2-135m+repeated-name", "smollm2-135m", "+repeated-name"],
  ["smollm2-135m", "smollm2-135m+repeated-name", "smollm2-135m"],
  ["owner/base", "gpt2", "base"],
  ["/home/me/models/tuned/", "gpt2", "tuned"],
  ["gpt2+/home/me/lora", "gpt2-medium", "gpt2+lora"],
])("%s beside %s is %s", (name, other, called) => expect(besideName(name, other)).toBe(called));

test("relatives share a base", () => {
  const offers = ["a", "a+x", "a+y", "b"].map((name) => ({ name }));
  expect(relatives(offers, "a").map(({ name }) => name)).toEqual(["a+x", "a+y"]);
  expect(relatives(offers, "a+x").map(({ name }) => name)).toEqual(["a", "a+y"]);
});
