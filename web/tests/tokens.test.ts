import { readFileSync } from "node:fs";
import { describe as group, expect, it } from "vitest";
import { apart, asLabel, characters, describe, inline, oneLine, pieces, together, tokenTyped, visible } from "../src/lib/tokens";

/** What `visible` of shown_tokens.py makes of the same names. */
const CASES = JSON.parse(readFileSync("../tests/shown_tokens.json", "utf8")) as { name: string; shown: string }[];

/** What `as_label` makes of the same texts. */
const LABELS = JSON.parse(readFileSync("../tests/labels.json", "utf8")) as { text: string; label: string }[];

group("tokens", () => {
  it("are shown as Python shows them, no two alike, and typed back", () => {
    for (const { name, shown } of CASES) expect([visible(name), tokenTyped(shown)]).toEqual([shown, name]);
    expect(new Set(CASES.map(({ shown }) => shown)).size).toBe(CASES.length);
    expect(CASES.length).toBeGreaterThan(60);
  });

  it("and words are labels as Python writes them, with nothing hidden", () => {
    for (const { text, label } of LABELS) expect(asLabel(text)).toBe(label);
  });

  it("come in parts of one kind each", () => {
    expect(pieces(" a<0xE2><0x80>\u200b")).toEqual([
      { kind: "space", shown: "·" }, { kind: "text", shown: "a" }, { kind: "bytes", shown: "⟨xE280⟩" }, { kind: "hidden", shown: "⟨200b⟩" },
    ]);
    expect(pieces("<id 7>")).toEqual([{ kind: "id", shown: "<id 7>" }]);
  });

  it("keep their spaces in running text, and nothing that reorders it", () => {
    expect(inline(" a\u202eb")).toBe(" a⟨202e⟩b");
    expect(inline("\r\n\t")).toBe("␍↵⇥");
    expect(oneLine("a · b\n\n c\u202e\u200b 👩\u200d👩")).toBe("a · b ↵ c⟨202e⟩⟨200b⟩ 👩\u200d👩");
  });

  it("say which character their bytes are part of", () => {
    expect(characters(["I", " <0xF0><0x9F>", "<0x91>", "<0xA9>", "<0xE2><0x80>", "<0x8D>"])).toEqual([null, "👩", "👩", "👩", "\u200d", "\u200d"]);
    expect(characters(["<0xD9>", "<0x83><0xD9>", "<0x85>"])).toEqual(["ك", "كم", "م"]);
    expect(characters(["<0xD9>", "a", "<0x83>", "<0xF0><0x9F>"])).toEqual([null, null, null, null]);
    expect(describe("<0x91>", { of: "👩" })).toBe("bytes 91, of 👩 (U+1F469)");
    expect(describe("<0x8D>", { of: "\u200d" })).toBe("bytes 8D, of ⟨200d⟩ (U+200D)");
    expect(describe(" <0xF0><0x9F>")).toBe("·⟨xF09F⟩: bytes F0 9F, no whole character");
    expect(describe("<|im_end|>", { special: true })).toBe("Special token <|im_end|>");
    expect(describe("<id 49160>")).toBe("Token 49160, which has no text of its own");
  });

  it("leave the order of a sentence as it is", () => {
    expect([apart("Mary"), apart("مر")]).toEqual(["Mary", "\u2068مر\u2069"]);
    expect(together(`${apart("مر")} − a`)).toBe("مر − a");
  });
});
