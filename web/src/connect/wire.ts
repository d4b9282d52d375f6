/** What the server says to the page, made from the Python (`make view-types`), and the few types that are the page's own. */

import type { MixRef } from "./asked.generated";
import type * as said from "./said.generated";

export type * from "./said.generated";
export type { DirectionRef, TextRef } from "./asked.generated";

/** One direction of a mix; the sum of weight times direction is brought to unit length. */
export type MixTerm = MixRef["terms"][number];

/** A refusal: the server's, or the page's own, of a connection that was lost. */
export type ErrorBody = Pick<said.ErrorBody, "type" | "message"> & Partial<said.ErrorBody>;

/** A dictionary of the model, or a saved direction, which the page takes for a dictionary of one (kind "saved"): that has no hash. */
export type DictionaryInfo = Omit<said.DictionaryInfo, OfTheModel> & Partial<Pick<said.DictionaryInfo, OfTheModel>>;
type OfTheModel = "hash" | "write_site" | "linear" | "beside_stream" | "activation";

/** An edit as it is sent: its kind, and what that kind takes, as the manifest says. */
export interface Edit {
  id?: string;
  enabled?: boolean;
  kind: string;
  [argument: string]: unknown;
}

/** All that a probe depends on, beside the model. */
export type ProbeRecipe = Pick<said.ProbeInfo, "site" | "position" | "label"> & { data: ProbeData };

/** Names for parts of what is said. */
export type Kind = DictionaryInfo["kind"];
export type Space = DictionaryInfo["space"];
export type ProbeData = NonNullable<said.ProbeInfo["data"]>;
export type ConceptMethod = keyof said.ProbeMoves;
export type Covariance = keyof said.ProbeSteps;
