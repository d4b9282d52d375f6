/** The page's types of views, from the schema that `python -m residscope.views.schema` writes. */

import { readFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const SCHEMA = new URL("views.schema.json", import.meta.url);

export const typesOf = () =>
  compile(JSON.parse(readFileSync(SCHEMA, "utf8")), "PlainView", {
    bannerComment: "/** Made by `make view-types` from src/residscope/views: change it there. */",
    additionalProperties: false,
    style: { printWidth: 160 },
  });

if (process.argv[1] === new URL(import.meta.url).pathname) process.stdout.write(await typesOf());
