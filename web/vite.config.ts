import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

const testing = process.env.VITEST !== undefined;

export default defineConfig({
  base: "./", // the page may be served below any path
  plugins: [svelte()],
  resolve: testing ? { conditions: ["browser"] } : {},
  build: {
    outDir: "../src/residscope/_ui",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy allows its own files only
    modulePreload: { polyfill: false },
  },
  // @ts-expect-error vitest reads this key, Vite's own type does not know it
  test: { environment: "happy-dom", include: ["tests/**/*.test.ts"] },
});
