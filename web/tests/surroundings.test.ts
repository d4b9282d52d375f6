import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it } from "vitest";

/** What a page may ask of its surroundings, and where: root/host.ts alone, and the style sheets of the two pages that have a window to themselves. */
const FORBIDDEN: Record<string, RegExp> = {
  surroundings: /(?<![\w.$"'`-])(document|window|globalThis|location|history|navigator|localStorage|sessionStorage)(?=\s*(\.(?!\.)|\[|\?\.|[),;]))(?!\s*[,)]\s*=)/,
  "sizes of the window": /(?<![\w.$])(innerWidth|innerHeight|outerWidth|outerHeight|devicePixelRatio|visualViewport|matchMedia|scrollX|scrollY)\b(?=\s*[^:\w\s'"`])/,
  "listening there": /<svelte:(window|document|body|head)\b|(?<![\w.])addEventListener\(/,
  "the whole document by id": /getElementById|querySelector.*documentElement/,
  "a modal over everything": /showModal\(/,
  "units of the window": /\d(vh|vw|vmin|vmax|[sld]v[hw])\b/,
  "sizes asked by media": /@media[^{]*(width|height|orientation)/,
  "a place in the window": /position:\s*fixed/,
  "styles of the document": /:root\b|:global\((html|body)|(^|[\s,}])(html|body)\s*(,[^;{}]*)?\{/m,
};
const ALLOWED = /^root\/(host\.ts|(standalone|first)\.css|frozen\.css)$/;

const strip = (text: string): string => text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/<!--[\s\S]*?-->/g, "").replace(/(^|\s)\/\/.*$/gm, "");
const SRC = join(import.meta.dirname, "../src");

function filesIn(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => (entry.isDirectory() ? filesIn(join(folder, entry.name)) : [join(folder, entry.name)]));
}

function faults(text: string): string[] {
  const code = strip(text);
  return Object.entries(FORBIDDEN).flatMap(([what, pattern]) =>
    [...code.matchAll(new RegExp(pattern, pattern.flags.replace("g", "") + "g"))].map((match) => `${what}: ${match[0].trim()}`),
  );
}

describe("the page's surroundings", () => {
  it("are asked in one place", () => {
    const found = filesIn(SRC)
      .map((file) => relative(SRC, file))
      .filter((file) => /\.(ts|svelte|css)$/.test(file) && !ALLOWED.test(file))
      .flatMap((file) => faults(readFileSync(join(SRC, file), "utf8")).map((fault) => `${file}: ${fault}`));
    expect(found).toEqual([]);
  });

  it.each([
    "document.body.append(x)", "window.addEventListener('keydown', f)", "const { top } = window;", "f(document)", "location.href", "history.replaceState(a)", "navigator.clipboard",
    "localStorage.getItem(a)", "matchMedia('x')", "Math.min(innerWidth - 4)", "globalThis.devicePixelRatio", "<svelte:window onkeydown={f} />", "addEventListener('x', f)",
    "dialog.showModal()", "a { height: 100vh; }", "a { width: calc(100vw - 2px); }", "a { max-height: 50dvh; }", "@media (max-width: 640px) { a {} }", "a { position: fixed; }",
    ":root { --x: 1 }", "body { margin: 0 }", ":global(body) { margin: 0 }", "new URL('x', document.baseURI)", "document.getElementById('a')",
  ])("are seen in %s", (line) => expect(faults(line)).not.toEqual([]));

  it.each(["the document's title", "// window.x", "/* position: fixed */", "ask({ method, body, signal })", "row.top", "app.session.history", "@media (prefers-reduced-motion: reduce) {}", "tbody { margin: 0 }"])(
    "are not seen in %s",
    (line) => expect(faults(line)).toEqual([]),
  );
});
