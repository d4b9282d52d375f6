import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

/** What a notebook shows: the page as one module with one style, and with `--mode loader` the few lines that ask for it. */
export default defineConfig(({ mode }) => ({
  plugins: [svelte()],
  define: { "process.env.NODE_ENV": '"production"' },
  build: {
    outDir: "../src/residscope/_ui",
    emptyOutDir: false,
    target: "es2022",
    minify: true,
    lib:
      mode === "loader"
        ? { entry: "src/widget/loader.ts", formats: ["es"], fileName: () => "loader.js" }
        : { entry: "src/widget/main.ts", formats: ["es"], fileName: () => "widget.js", cssFileName: "widget" },
    rolldownOptions: { output: { codeSplitting: false } },
  },
}));
