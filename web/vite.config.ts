import { svelte } from "@sveltejs/vite-plugin-svelte";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { brotliCompress, constants } from "node:zlib";
import { defineConfig, type Plugin } from "vite";

const testing = process.env.VITEST !== undefined;

/** Beside each part of the page, the same packed as small as it goes: once here, not at every visit. */
const packed: Plugin = {
  name: "packed",
  async writeBundle({ dir = "" }, bundle) {
    const params = { [constants.BROTLI_PARAM_QUALITY]: constants.BROTLI_MAX_QUALITY };
    for (const name of Object.keys(bundle).filter((name) => /\.(js|css)$/.test(name))) {
      await writeFile(join(dir, `${name}.br`), await promisify(brotliCompress)(await readFile(join(dir, name)), { params }));
    }
  },
};

/** The page's outline is painted before the rest of its styles are there: its own come first, theirs stand after it. */
const outline: Plugin = {
  name: "outline",
  apply: "build",
  async buildStart() {
    this.emitFile({ type: "asset", name: "first.css", source: await readFile("src/root/first.css", "utf8") });
  },
  transformIndexHtml: {
    order: "post",
    handler(html, { bundle = {} }) {
      const first = Object.keys(bundle).find((name) => /first-.*\.css$/.test(name));
      const sheets = html.match(/ *<link rel="stylesheet".*?>\n/g) ?? [];
      const rest = sheets.reduce((page, sheet) => page.replace(sheet, ""), html);
      return rest.replace(/( *)<script/, `$1<link rel="stylesheet" href="./${first}">\n$1<script`).replace("  </body>", `${sheets.join("")}  </body>`);
    },
  },
};

export default defineConfig({
  base: "./", // the page may be served below any path
  plugins: [svelte(), outline, packed],
  resolve: testing ? { conditions: ["browser"] } : {},
  build: {
    outDir: "../src/residscope/_ui",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy allows its own files only
    modulePreload: { polyfill: false },
    rolldownOptions: { output: { codeSplitting: { groups: [{ name: "page", tags: ["$initial"] }] } } }, // what is needed at once comes at once
  },
  // @ts-expect-error vitest reads this key, Vite's own type does not know it
  test: { environment: "happy-dom", include: ["tests/**/*.test.ts"] },
});
