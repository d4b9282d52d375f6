import { expectTypeOf, it } from "vitest";
import type { Connector, IntentAnswers, Intents, Queries, QueryAnswers } from "../src/connect/connector";
import { floats, type Tensor } from "../src/connect/safetensors";
import type { Gram, RefusedEdits, State } from "../src/connect/wire";

/** What `make check-web` says of types; nothing here runs. */
it("is known what each question answers, and no question lacks an answer", () => {
  expectTypeOf<keyof QueryAnswers>().toEqualTypeOf<keyof Queries>();
  expectTypeOf<keyof IntentAnswers>().toEqualTypeOf<keyof Intents>();
  const gram = (connector: Connector) => connector.query("gram", { of: ["pca@resid_post.1"] });
  expectTypeOf(gram).returns.resolves.toEqualTypeOf<Gram>();
  const undo = (connector: Connector) => connector.intent("undo");
  expectTypeOf(undo).returns.resolves.toBeNull();
  expectTypeOf<IntentAnswers["set_edits"]>().toEqualTypeOf<RefusedEdits | null>();
});

it("is known which tensors a file holds, and what of the state may be missing", () => {
  type Coef = QueryAnswers["coef"];
  expectTypeOf<Coef["tensors"]["sink"]>().toEqualTypeOf<Tensor<Uint8Array>>();
  expectTypeOf<Coef["tensors"]["sigma"]>().toEqualTypeOf<Tensor<Float32Array> | undefined>();
  // @ts-expect-error a run's coordinates come without the lengths of its vectors
  void ((file: Coef) => floats(file, "norm"));
  expectTypeOf<State["directions"][number]["norm"]>().toEqualTypeOf<number | null>();
  expectTypeOf<State["jobs"][number]["phase"]>().toEqualTypeOf<"waiting" | "running" | "done" | "failed" | "cancelled">();
});
