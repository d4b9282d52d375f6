"""Direct logit attribution: what every head adds to a logit difference at every position, by itself."""

from typing import Annotated

import torch

from residscope import directions, fields
from residscope.declare import method
from residscope.engine.model import Model
from residscope.errors import SiteError
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result


@method("head-logits", title="Direct logits of heads", group="sweeps")
def head_logits(
    model: Model,
    prompt: Annotated[object, fields.prompts(one=True)],
    right: Annotated[str, fields.tokens(help="the token whose logit counts, with its space")],
    wrong: Annotated[str, fields.tokens(help="the token whose logit is taken off")],
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """What each head writes, read along the difference of two tokens' logits.

        value[layer, pos, head] = result_{layer,head}[pos] . (gain * (W_U[right] - W_U[wrong])) / sigma[pos]

    sigma is the final norm's own divisor at that position, so that at the last one the heads, the MLPs and the embedding
    add up to logit(right) - logit(wrong), before a cap. In logits.

    Raises:
        UnknownToken. SiteError: a norm stands between the heads and the stream. Cancelled: with the layers that are done.
    """
    if "attn_post_scale" in model.sites.names:
        raise SiteError("a norm stands between this model's heads and the stream", received=model.name)
    read = directions.logit_diff(model, right, wrong, before_cap=True).read
    rec = model.run(prompt, ["result", "final_scale"])
    scale, factor = rec["final_scale"][0].double(), model.layout.factors.residual
    values = torch.full((model.n_layers, len(rec.tokens[0]), model.n_heads), torch.nan, dtype=torch.float64)

    def result() -> Result:
        unit, name = "logits", f"direct logits of {right!r} − {wrong!r}"
        texts = [f"{pos} {text}" for pos, text in enumerate(model.token_texts(rec.tokens[0].tolist()))]
        coords = {"layer": range(model.n_layers), "pos": texts, "head": range(model.n_heads)}
        about = {**model.provenance, "method": "head_logits"}
        return Result(values.clone(), ("layer", "pos", "head"), coords, name=name, unit=unit, provenance=about)

    with stage("Reading heads", model.n_layers, progress, cancel, partial=result) as tell:
        for layer in range(model.n_layers):
            written = rec["result", layer][0].double() * factor
            values[layer] = written @ read.double() / scale.reshape(-1, 1)
            tell(layer + 1)
    return result()
