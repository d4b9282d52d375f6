import { describe, expect, it, vi } from "vitest";
import { named, nameOf, search, type TermForm } from "../src/lib/terms";
import { GlossaryStore } from "../src/state/glossary.svelte";

const term = (name: string, more: Partial<TermForm> = {}): TermForm => ({ term: name, group: "attention", what: "", trap: "", source: "", also: [], formula: "", see: [], show: [], names: [], ...more });
const ALL = [
  term("attention head", { also: ["head", "attn_out"], what: "Moves what stands elsewhere." }),
  term("composition", { what: "What one head writes another reads." }),
  term("K-composition", { also: ["key composition"], what: "Through the keys." }),
  term("induction head", { what: "Finds the token after the same one, by K-composition." }),
  term("logit lens", { also: ["lens"], trap: "Early rows may speak another language." }),
  term("tuned lens", { also: ["affine lens"] }),
];
const terms = (query: string) => search(ALL, query).map(({ term }) => term);

describe("finding a word", () => {
  it.each([
    ["K-composition", "K-composition"], ["k composition", "K-composition"], ["KEY_COMPOSITION", "K-composition"], ["composition", "composition"], ["lens", "logit lens"], ["attn_out", "attention head"],
    ["heads", "attention head"], ["induction heads", "induction head"], ["language", "logit lens"], ["tun", "tuned lens"],
  ])("by %s", (query, wanted) => expect(terms(query)[0]).toBe(wanted));

  it("puts names before what is only said of a word", () => {
    expect(terms("K-composition")).toEqual(["K-composition", "induction head"]);
    expect(terms("composition")).toEqual(["composition", "K-composition", "induction head"]);
  });

  it("finds nothing where no entry has all the words", () => {
    expect(terms("lens zebra")).toEqual([]);
    expect(search([], "lens")).toEqual([]);
    expect(terms("zebras")).toEqual([]);
  });

  it("knows an entry by each of its names, however written", () => {
    const index = named(ALL);
    for (const name of ["K-composition", "key composition", "k_composition", " Key  Composition "]) expect(index.get(nameOf(name))?.term).toBe("K-composition");
    expect(index.get(nameOf("compositions"))).toBeUndefined();
  });
});

describe("the page's glossary", () => {
  const store = (query: () => Promise<unknown>) => new GlossaryStore({ connector: { query } } as never);

  it("is asked for once, when it is first wanted", async () => {
    const query = vi.fn(async () => ({ groups: { attention: "Attention" }, entries: ALL }));
    const glossary = store(query);
    expect(query).not.toHaveBeenCalled();
    await Promise.all([glossary.load(), glossary.load()]);
    await glossary.load();
    expect(query.mock.calls).toEqual([["glossary"]]);
    expect([glossary.find("lens")?.term, glossary.find("nothing"), glossary.groups]).toEqual(["logit lens", null, { attention: "Attention" }]);
  });

  it("says why it did not come, and can be asked for again", async () => {
    const query = vi.fn().mockRejectedValueOnce(new Error("gone")).mockResolvedValue({ groups: {}, entries: ALL });
    const glossary = store(query);
    await glossary.load();
    expect([glossary.error, glossary.entries]).toEqual(["gone", []]);
    await glossary.load();
    expect([glossary.error, glossary.entries.length]).toEqual(["", ALL.length]);
  });
});
