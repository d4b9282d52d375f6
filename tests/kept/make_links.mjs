// Writes v0_1/links.json: links as version 0.1's page made them, by its own code. Run once, from web/, after make.py.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const { createServer } = await import(createRequire(process.cwd() + "/").resolve("vite").replace(/index\.cjs$/, "dist/node/index.js"));
const folder = new URL("./v0_1/", import.meta.url);
const out = new URL("links.json", folder);
if (existsSync(out)) throw new Error("links.json is version 0.1's, and is there already");
const state = JSON.parse(readFileSync(new URL("state.json", folder)));
const numbers = JSON.parse(readFileSync(new URL("numbers.json", folder)));

const server = await createServer({ server: { middlewareMode: true }, appType: "custom", logLevel: "error" });
const { encodeView, decodeView, defaults } = await server.ssrLoadModule("/src/state/hash.ts");
const { bare } = await server.ssrLoadModule("/src/state/session.svelte.ts");

/** What `shareLink` puts beside the view. */
const sharedOf = ({ model, prompt, metric, edits, probes }) => {
  const used = new Set(edits.map(({ probe }) => probe ?? ""));
  return {
    model: model.name, hash: model.hash, prompt: prompt.text, bos: prompt.bos,
    metric: metric?.chosen ? { positive: metric.positive.text, negative: metric.negative.text } : null,
    edits: edits.map(bare),
    probes: probes.filter(({ name }) => used.has(name)).map(({ name, data, site, position, label }) => ({ name, data, site, position, label })),
  };
};
const mixed = {
  tab: "probe", direction: "mix", weights: { 0: 1, 2: -1 / 3 }, terms: { "svd@resid_pre.2/1": 0.25, "saved:kept for good/0": -1 },
  also: ["nmf@mlp_post.2", "saved:kept for good"], dictionary: "pca@resid_post.1", unit: "cos", logits: "centred", mode: "delta",
  locks: { cos: 0.25, logit: 14, "logit-centred": 2.5 }, numbers: true, table: true, fit: true, selection: { layer: -1, pos: 3 },
};
// a link's page fits the probes of tasks again; those of files it cannot, so their edits are not in this one
const ofTasks = { ...state, edits: state.edits.filter(({ probe }) => !probe || state.probes.some(({ name, data }) => name === probe && data.kind === "task")) };
const [prompt, metric, edits] = numbers.smollm2.lines.map(({ args }) => args);
const smol = { model: { name: "smollm2-135m", hash: numbers.smollm2.hash }, prompt, metric: { positive: { text: metric.positive }, negative: { text: metric.negative }, chosen: true }, edits: edits.edits, probes: [] };
const saved = numbers.library.whole.find(({ entry }) => entry.name === "kept for good").entry.id;
const links = [
  ["everything", mixed, sharedOf(ofTasks), `?direction=${encodeURIComponent(saved)}`],
  ["with a file's probe", { selection: { layer: 2, pos: 5 } }, sharedOf(state), ""],
  ["the default model", { direction: "mix", weights: { 7: 1, 3: -0.5 }, dictionary: "pca@resid_post.12", unit: "raw", selection: { layer: 12, pos: 15 } }, sharedOf(smol), ""],
  ["no answers chosen", {}, { ...sharedOf({ ...ofTasks, metric: { ...state.metric, chosen: false }, edits: [] }), prompt: " John & Mary = 100%\n#2 <b> ünï" }, ""],
  ["a view alone", { tab: "prompts", direction: "mix", weights: { 7: 1 }, dictionary: "pca@resid_post.12", mode: "edit", selection: { layer: 4, pos: 0 } }, null, ""],
].map(([name, view, shared, query]) => {
  const hash = encodeView({ ...defaults(), ...view }, shared);
  return { name, query, hash, view: { ...decodeView(hash).view }, shared };
});
writeFileSync(out, JSON.stringify(links, null, 1) + "\n");
await server.close();
