import { describe, expect, it } from "vitest";
import { emptyText, formOf, textRef, type TextForm } from "../src/lib/texts";

const why = (more: Partial<TextForm>, which?: string) => (textRef({ ...emptyText(), ...more }, which) as { why?: string }).why;

describe("a text", () => {
  it("is the built-in one until somebody says otherwise", () => {
    expect(textRef(emptyText())).toEqual({ kind: "builtin", name: "python-docs" });
  });

  it("comes back as the form that sent it", () => {
    const forms: Partial<TextForm>[] = [
      {},
      { kind: "typed", typed: "a\n\nb" },
      { kind: "file", file: { name: "b.jsonl", text: '{"text":"b"}' } },
      { kind: "hub", hub: "org/data@abc", field: "body" },
    ];
    for (const more of forms) {
      const form = { ...emptyText(), ...more };
      const made = textRef(form);
      expect("why" in made ? null : formOf(made)).toEqual(form);
    }
    expect(formOf(null, "typed").kind).toBe("typed");
  });

  it("is refused in words where it cannot be sent", () => {
    expect(why({ kind: "typed", typed: " \n" })).toBe("Type the text first");
    expect(why({ kind: "typed" }, "second text")).toBe("Type the second text first");
    expect(why({ kind: "hub", hub: "nobody" })).toContain("owner/name");
    expect(why({ kind: "file" })).toContain("file first");
    expect(why({ kind: "file", file: { name: "a.pdf", text: "" } })).toContain("neither .txt");
    expect(why({ kind: "file", file: { name: "big.txt", text: "é".repeat(1.1 * 1024 * 1024) } })).toContain("big.txt is 2.2 MiB");
  });
});
