"""What a model's parts read and write, as matrices of the stream: rows of x W, with the norms' gains folded in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.layout import weight_in_out
from residscope.engine.model import Model
from residscope.errors import AbsentSite, UnknownHead, UnknownLayer
from residscope.methods._lib.circuits import folded, head_weights, output_weights

ROWS = 8192  # of a vocabulary, at once


@dataclass(frozen=True)
class HeadMatrices:
    """W_Q, W_K, W_V [head d_model d_head] behind the gain of attention's norm, W_O [head d_head d_model] before its post-norm's.

    Every query head has its own, those of grouped heads are repeated. Those that are absent say why, and are None.
    """

    q: Float[Tensor, "head d_model d_head"] | None
    k: Float[Tensor, "head d_model d_head"] | None
    v: Float[Tensor, "head d_model d_head"] | None
    o: Float[Tensor, "head d_head d_model"]
    absent: Mapping[str, str] = field(default_factory=dict)

    def need(self, name: str) -> Float[Tensor, "head d_model d_head"]:
        """One of q, k and v. Raises AbsentSite."""
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise AbsentSite(
                f"W_{name.upper()} is no matrix of the stream: {self.absent.get(name, '')}",
                received=name,
                allowed=", ".join(x for x in "qkv" if x not in self.absent),
            )
        return found


def head_matrices(model: Model, layer: int) -> HeadMatrices:
    """The matrices of every head of a layer, as the model multiplies by them at one and the same position."""
    found, absent = head_weights(model, layer)
    norm = model.layout.blocks[layer].attn_norm
    shared = model.heads_at(layer).groups
    sizes = {"q": 1, "k": shared, "v": shared}
    read = {n: folded(norm, found[n]).repeat_interleave(times, 0) for n, times in sizes.items() if n in found}
    return HeadMatrices(read.get("q"), read.get("k"), read.get("v"), output_weights(model, layer), absent)


def check_head(model: Model, layer: int, head: int) -> None:
    """Raises UnknownLayer, UnknownHead."""
    check_layer(model, layer)
    if not 0 <= head < (n := model.heads_at(layer).n_heads):
        raise UnknownHead("no such head", received=str(head), allowed=f"0 to {n - 1}")


def check_layer(model: Model, layer: int) -> None:
    """Raises UnknownLayer."""
    if not 0 <= layer < model.n_layers:
        raise UnknownLayer("no such layer", received=str(layer), allowed=f"0 to {model.n_layers - 1}")


def parallel(model: Model) -> bool:
    """Whether a block's MLP reads the stream in front of the block's attention."""
    return "mlp_out" in model.sites.names and "resid_mid" not in model.sites.names


def mlp_reads(model: Model, layer: int) -> Float[Tensor, "d_model part neuron"]:
    """The weights that neurons read the stream by, behind the gain of the MLP's norm: one part, or the gate's and the other.

    Raises AbsentSite: the layer has experts, or no MLP.
    """
    parts = model.layout.blocks[layer]
    _check_neurons(model, layer)
    assert parts.mlp_up is not None
    both = [parts.mlp_up] if parts.mlp_gate in (None, parts.mlp_up) else [parts.mlp_gate, parts.mlp_up]
    W = torch.cat([weight_in_out(one) for one in both if one is not None], 1)
    norm = parts.mlp_norm or (parts.attn_norm if parallel(model) else None)
    return folded(norm, W).reshape(model.d_model, -1, model.d_mlp)


def mlp_writes(model: Model, layer: int) -> Float[Tensor, "neuron d_model"]:
    """What each neuron writes, in front of the gain of the MLP's post-norm where there is one. Raises AbsentSite."""
    parts = model.layout.blocks[layer]
    _check_neurons(model, layer)
    W, post = weight_in_out(parts.mlp_down), parts.mlp_post_norm
    return W if post is None else post.center(W) * post.gain


def _check_neurons(model: Model, layer: int) -> None:
    parts = model.layout.blocks[layer]
    if parts.mlp_up is None or parts.mlp_down is None:
        raise AbsentSite(
            "the layer has no one matrix that neurons read by",
            received=f"mlp_out.{layer}",
            allowed="models whose MLPs are neither absent nor made of experts",
        )


def embeddings(model: Model, ids: Tensor | slice | None = None) -> Float[Tensor, "token d_model"]:
    """Rows of the embedding as they are added to the stream: behind its own norm, times the family's factor; no positions."""
    layout = model.layout
    if not isinstance(ids, Tensor):
        ids = torch.arange(vocabulary(model), device=model.device)[slice(None) if ids is None else ids]
    with torch.no_grad():
        rows = layout.embed(ids.to(model.device))
        if layout.embed_writer is not layout.embed:
            rows = layout.embed_writer(rows)
    return rows * layout.factors.embed


def vocabulary(model: Model) -> int:
    """How many tokens have both an embedding and a logit."""
    return int(min(model.layout.embed.weight.shape[0], model.W_U.shape[1]))


def unembeddings(model: Model, ids: slice) -> Float[Tensor, "d_model token"]:
    """Columns of the unembedding behind the final norm's gain: what is read of the stream, over that norm's divisor."""
    return folded(model.layout.final_norm, model.W_U[:, ids])
