"""What the map's queries answer with."""

from typing import Literal, NotRequired, TypedDict

from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from residscope.session.compute import TensorFile
from residscope.session.wire import TokenP


class MapTensors(TypedDict):
    """Direct effects in logits at one position, and patterns made small.

    looks: A[pos, k]. thumbs: 255 A[q, k], each cell the largest of its block of tokens, rounded up.
    What is left out, the model has no sites for.
    """

    attn: Float32[Tensor, "layer"]
    heads: Float32[Tensor, "layer head"]
    attn_bias: Float32[Tensor, "layer"]
    mlp: NotRequired[Float32[Tensor, "layer"]]
    looks: NotRequired[Float32[Tensor, "layer head key"]]
    thumbs: NotRequired[UInt8[Tensor, "layer head row col"]]


class MapFile(TensorFile[MapTensors, Literal["pos", "metric", "terms", "absent"]]):
    """pos: the position. metric: that of the run's own logits there. terms: the effects beside layers, by name: `embed`, edits of
    the stream, biases. absent: why there are no patterns, or null."""


class LayerTensors(TypedDict):
    """pattern: attention probabilities of a layer, in full; of a long prompt not at all. z_norm: the lengths of z.
    neuron: those of the largest direct effects on the metric, which are neuron_effect, in logits."""

    z_norm: Float32[Tensor, "head"]
    pattern: NotRequired[Float32[Tensor, "head query key"]]
    neuron: NotRequired[Int64[Tensor, "k"]]
    neuron_effect: NotRequired[Float32[Tensor, "k"]]


class SiteRow(TypedDict):
    """A site of a layer: where it comes from, and what stands there at the position.

    norm: the length; null of what has none. values: lengths, of attention and a router the largest value, and `where` the
    key or expert that has it; by head where the site has heads. equation, reads, same: as `engine.flow.Step`.
    site: empty where no site shows the part.
    """

    site: str
    place: str
    shape: dict[str, int]
    about: str
    norm: float | None
    values: list[float]
    where: list[int] | None
    equation: str
    reads: list[str]
    same: str | None


class LayerFile(TensorFile[LayerTensors, Literal["pos", "sites", "absent"]]):
    """sites: the steps of the layer in their order, as [SiteRow]. absent: why there are no neurons, or null."""


class AttentionTensors(TypedDict):
    """pattern: of the heads together; weighted, |A v W_O|."""

    pattern: Float32[Tensor, "query key"]


class AttentionFile(TensorFile[AttentionTensors, Literal["heads"]]):
    """heads: of which, as [[layer, head]]."""


class RowsLens(TypedDict):
    """The logit lens at one position, row by row: `embed`, then what each layer leaves."""

    top: list[TokenP]


class Stopped(TypedDict):
    """stopped: how many were waiting for a map."""

    stopped: int
