import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

/** One script and one style, which Python writes into the files that `views.save_html` makes. */
export default defineConfig({
  plugins: [svelte()],
  build: {
    outDir: "../src/residscope/_ui",
    emptyOutDir: false,
    target: "es2022",
    lib: { entry: "src/frozen/main.ts", formats: ["iife"], name: "residscope", fileName: () => "frozen.js", cssFileName: "frozen" },
  },
});
