import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";

/** Whatever is asked past the three verbs cannot be asked over a notebook's comm: requests are made in one place, and links lead to files. */
const SRC = join(import.meta.dirname, "../src");
const DOOR = "connect/socket.ts";
const REQUEST = /\bfetch\(|new (XMLHttpRequest|WebSocket|EventSource)\b|sendBeacon\(/g;
const ADDRESS = /(?<!href="|connector\.link\(`)\bapi\/[a-z]+/g;

const strip = (text: string): string => text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/<!--[\s\S]*?-->/g, "").replace(/(^|\s)\/\/.*$/gm, "");
const asked = (text: string): string[] => [REQUEST, ADDRESS].flatMap((pattern) => [...strip(text).matchAll(pattern)].map(([found]) => found));

function filesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? filesIn(join(folder, entry.name)) : [join(folder, entry.name)]));
}

describe("what the page asks", () => {
  it("goes through the connector, all of it", () => {
    const found = filesIn(SRC)
      .filter((file) => /\.(ts|svelte)$/.test(file) && relative(SRC, file) !== DOOR)
      .flatMap((file) => asked(readFileSync(file, "utf8")).map((each) => `${relative(SRC, file)}: ${each}`));
    expect(found).toEqual([]);
    expect(asked(readFileSync(join(SRC, DOOR), "utf8"))).not.toEqual([]);
  });

  it.each(["await fetch(url)", "new WebSocket(url)", 'json(`api/items/import?name=x`, file)', 'const BASE = "api/library/";', 'src="api/x"'])("is seen in %s", (line) =>
    expect(asked(line)).not.toEqual([]),
  );
  it.each(['<a href="api/items/file?name=x">', "// api/items", "fetcher(url)"])("is not seen in %s", (line) => expect(asked(line)).toEqual([]));
});
