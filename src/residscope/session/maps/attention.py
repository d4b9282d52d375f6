"""Patterns of any heads of a run in full: one, or several together; as they are, or as what each pair writes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.layout import weight_in_out
from residscope.engine.recording import Recording
from residscope.errors import AbsentSite, PromptTooLong
from residscope.methods._lib.weights.matrices import check_head

MOST_TOKENS = 2048  # of which a picture is 17 MB
Head = tuple[int, int]


def attention(
    run: Recording, heads: Sequence[Head], *, over: str = "mean", weighted: bool = False
) -> Float[Tensor, "query key"]:
    """The pattern A of a head; of several the mean, or at each pair the largest. weighted: A[q, k] |v_k W_O| in A's place.

    So weighted, a pair is as large as what the head writes at q for k (attention's bias and post-norm left out), in the units of
    the stream: an attention sink, whose value is next to nothing, no longer hides the rest.

    run: by its stream. Raises UnknownLayer, UnknownHead, AbsentSite, PromptTooLong.

    Kobayashi et al. 2020, Attention is Not Only a Weight: Analyzing Transformers with Vector Norms.
    """
    model, (length,) = run.model, run.lengths
    for site in ("pattern", "result") if weighted else ("pattern",):
        if reason := model.sites.absent.get(site):
            raise AbsentSite(f"there is no {site} here: {reason}", received=site, allowed="another model")
        for layer, _ in heads:
            model.sites.parse(f"{site}.{layer}")
    for layer, head in heads:
        check_head(model, layer, head)
    if weighted:
        model.require_plain_mix("a pattern weighted by its values", [layer for layer, _ in heads])
    if length > MOST_TOKENS:
        raise PromptTooLong("its patterns are too large to draw", received=f"{length} tokens", allowed=f"{MOST_TOKENS}")
    whole, found = run.holding(run.sites), None
    for layer in sorted({layer for layer, _ in heads}):
        heads_here = model.heads_at(layer)
        picked = sorted({head for one, head in heads if one == layer})
        at = whole.several([f"pattern.{layer}", *([f"v.{layer}"] if weighted else [])])
        values = {site.name: x for site, x in at.items()}
        pattern = values["pattern"][0, picked].float()
        if weighted:
            v = values["v"][0].float()[:, [head // heads_here.groups for head in picked]]
            W_O = weight_in_out(model.layout.blocks[layer].attn_proj).reshape(
                heads_here.n_heads, heads_here.d_head, -1
            )[picked]
            pattern = pattern * torch.einsum("khd,hdm->hkm", v, W_O.to(v)).norm(dim=-1)[:, None]
        part = pattern.sum(0) if over == "mean" else pattern.amax(0)
        found = part if found is None else found + part if over == "mean" else torch.maximum(found, part)
    assert found is not None
    return found / len({*heads}) if over == "mean" else found
