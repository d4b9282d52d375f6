/** The page's types of views, of what it asks and of what it is told, from the schemas that `python -m` writes of
 * `residscope.views.schema`, `residscope.server.schema` and `residscope.server.said`. */

import { readFileSync, writeFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

export const FILES = [
  { schema: "views.schema.json", types: "src/views/kinds/plain.generated.ts", name: "PlainView", loose: true, from: "src/residscope/views" },
  { schema: "wire.schema.json", types: "src/connect/asked.generated.ts", name: "Asked", loose: true, from: "the intents and queries" },
  {
    schema: "said.schema.json", types: "src/connect/said.generated.ts", name: "Said", from: "the state and the answers to intents and queries",
    imports: ['import type { PlainView } from "../views/kinds/plain.generated";', 'import type { Tensor } from "./safetensors";'],
  },
];

export const typesOf = ({ schema, name, from, imports = [], loose = false }) =>
  compile(JSON.parse(readFileSync(new URL(schema, import.meta.url), "utf8")), name, {
    bannerComment: [`/** Made by \`make view-types\` from ${from}: change it there. */`, ...imports].join("\n\n"),
    additionalProperties: false,
    unreachableDefinitions: loose,
    style: { printWidth: 160 },
  });

if (process.argv[1] === new URL(import.meta.url).pathname) for (const file of FILES) writeFileSync(new URL(file.types, import.meta.url), await typesOf(file));
