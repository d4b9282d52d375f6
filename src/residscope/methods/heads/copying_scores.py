"""Copying scores: whether a head raises the logit of the very token that it looks at, from its weights alone."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import UnknownLayer
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.circuits import embedding_to_logits, output_weights, value_weights
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result


def _price(model: Model, **_: Any) -> float:
    """W_U W_E costs about what so many tokens do; W_V is read off a pass of d_model tokens through each layer's projections."""
    return float(model.d_model)


@method("copying-scores", title="Copying scores", group="heads", tokens=_price)
def copying_scores(
    model: Model,
    *,
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """How far each head's full OV circuit maps tokens to themselves: the sum of its eigenvalues over the sum of their moduli.

        score = sum(Re l_i) / sum(|l_i|),    l the eigenvalues of W_E G W_V W_O G' W_U    [d_vocab x d_vocab]

    1: whatever token the head looks at, it raises that token's logit; -1: it lowers it; near 0: neither. The eigenvalues that
    are not zero are those of the small matrix W_O G' (W_U W_E) G W_V, d_head x d_head, which is what is computed.

    G and G' are the norm in front of the head's values and, after it, attention's post-norm where there is one and the final
    norm: their gains, and for LayerNorm the mean taken off. Their divisors are left out, which differ from token to token, and
    so are biases, positions and everything that the layers between do: it is the direct path from a token's embedding through one
    head to the logits. Query heads that share values have one W_V.

    layers: some of them only. Returns a `Result` over layer and head, from -1 to 1.

        rs.copying_scores(model).values.argmax()

    Raises:
        UnknownLayer. QuantisedModel: the weights are not at hand. Cancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits ("detecting copying behaviour").
    """
    model.require_exact_weights("the OV circuit")
    scores: list[Tensor] = []
    n = model.n_layers
    chosen = [*range(n)] if layers is None else [*layers]
    strange = {*chosen} - {*range(n)}
    if strange or not chosen:
        raise UnknownLayer(
            f"the model has {n} layers", received=str(sorted(strange) or "none"), allowed=f"0 to {n - 1}"
        )
    with stage("Reading OV circuits", len(chosen), progress, cancel) as tell, torch.no_grad():
        middle = embedding_to_logits(model)  # after the final norm's gain: [d_model d_model]
        for done, layer in enumerate(chosen):
            tell(done)
            W_V = value_weights(model, layer).to(middle).repeat_interleave(model.heads_at(layer).groups, 0)
            W_O = output_weights(model, layer).to(middle)
            scores.append(_score(W_O @ middle @ W_V))
    about = {
        **model.provenance,
        "method": "copying scores",
        "folded": "gains of the norms; their divisors are left out",
    }
    return Result(
        stacked(scores), ("layer", "head"), {"layer": chosen}, name="copying score", unit="share", provenance=about
    )


def _score(circuits: Float[Tensor, "*some d_head d_head"]) -> Float[Tensor, "*some"]:
    values = torch.linalg.eigvals(circuits.double())
    return values.real.sum(-1) / values.abs().sum(-1)
