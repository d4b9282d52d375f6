/** The glossary's word for what a number on the page is. */

import type { ValueUnit } from "./format";

export const OF_UNIT: Record<ValueUnit, string> = {
  centred: "centred coordinate", standardised: "standard deviation", raw: "centred coordinate", cos: "cosine similarity", folded: "folding LayerNorm", "folded-centred": "folding LayerNorm",
  logit: "logit difference", "logit-centred": "logit difference", activation: "activation", mixed: "mix", "mixed-raw": "mix",
  probability: "softmax", rank: "rank of the answer", nats: "entropy", share: "activation patching", metric: "metric",
};

/** Of what heads are coloured by. */
export const OF_MEASURE: Record<string, string> = {
  direct: "direct logit attribution", ablation: "zero ablation", attention: "attention pattern", copying: "copying score", weights: "model diffing",
  "previous-token": "previous-token head", "current-token": "attention head", "first-token": "attention sink", "duplicate-token": "duplicate-token head", induction: "induction head",
};

/** Of what the lens shows. */
export const OF_LENS: Record<string, string> = { top: "logit lens", chance: "log-probability", rank: "rank of the answer", kl: "KL divergence", entropy: "entropy" };
