/** The page's types of views and of what it asks, from the schemas that `python -m residscope.views.schema` and `residscope.server.schema` write. */

import { readFileSync, writeFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

export const FILES = [
  { schema: "views.schema.json", types: "src/views/kinds/plain.generated.ts", name: "PlainView", from: "src/residscope/views" },
  { schema: "wire.schema.json", types: "src/connect/asked.generated.ts", name: "Asked", from: "the intents and queries" },
];

export const typesOf = ({ schema, name, from }) =>
  compile(JSON.parse(readFileSync(new URL(schema, import.meta.url), "utf8")), name, {
    bannerComment: `/** Made by \`make view-types\` from ${from}: change it there. */`,
    additionalProperties: false,
    unreachableDefinitions: true,
    style: { printWidth: 160 },
  });

if (process.argv[1] === new URL(import.meta.url).pathname) for (const file of FILES) writeFileSync(new URL(file.types, import.meta.url), await typesOf(file));
