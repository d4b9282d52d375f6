"""The directions of a weight matrix, by its singular values, read as tokens: what it reads of the stream, and what it writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import BadArguments, UnknownHead
from residscope.methods._lib.weights.matrices import check_head, check_layer, mlp_reads, mlp_writes, parallel
from residscope.methods._lib.weights.vocabulary import called, embedded, ends, unembedded
from residscope.methods.weights.factored import circuit_of, factored_svd
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.shown_tokens import visible
from residscope.views import Curve, Grid, Line, Table

SIDES = {"OV": ("read", "written"), "QK": ("query", "key"), "W_in": ("read",), "W_out": ("written",)}


@dataclass(frozen=True, eq=False, repr=False)
class WeightDirections(Report):
    """The first singular directions of a matrix of the stream, with the tokens at their two ends.

    singular: its singular values, all but those that are zero. vectors[side, direction, d_model], of unit length: of OV what is
    read, then what is written; of QK a query's and a key's; of W_in what is read, of W_out what is written. ids, values[side,
    direction, end, k]: the tokens whose embeddings are furthest along what is read, over their norm's divisor, or whose logits
    what is written raises most; then the least. The ends of the two sides belong together: high is written where high is read.
    """

    kind: ClassVar[str] = "report:weight_directions"
    main: ClassVar[str] = "singular"
    matrix: str
    sides: tuple[str, ...]
    singular: Result
    vectors: Float[Tensor, "side direction d_model"]
    ids: Int[Tensor, "side direction end k"]
    values: Float[Tensor, "side direction end k"]
    texts: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def tokens(self, direction: int, side: str | None = None) -> tuple[list[str], list[str]]:
        """The tokens at the high and at the low end of one direction; of the last side unless said."""
        if side not in (None, *self.sides):
            raise BadArguments("the matrix has no such side", received=repr(side), allowed=", ".join(self.sides))
        ids = self.ids[-1 if side is None else self.sides.index(side), direction].tolist()
        return [self.texts[i] for i in ids[0]], [self.texts[i] for i in ids[1]]

    def view(self) -> Grid:
        """The spectrum, and each direction's tokens at both ends of each side."""
        values = self.singular.values.tolist()
        spectrum = Curve(
            [*range(len(values))], [Line("singular value", values)], title="Singular values", x_title="direction"
        )
        columns = ["direction", "singular value", *(f"{side}, {end}" for side in self.sides for end in ("high", "low"))]
        rows: list[list[Any]] = []
        for i in range(self.ids.shape[1]):
            cells = [" ".join(map(visible, end)) for side in self.sides for end in self.tokens(i, side)]
            rows.append([i, values[i], *cells])
        return Grid(
            [spectrum, Table(columns, rows, title="As tokens")], columns=1, title=f"Directions of {self.matrix}"
        )

    def __repr__(self) -> str:
        high, low = (", ".join(map(repr, end[:3])) for end in self.tokens(0))
        return f"WeightDirections({self.matrix}: {self.ids.shape[1]} directions; first {self.sides[-1]}: {high} against {low})"


def _refuse(model: Model, layer: int, matrix: str = "W_out", *, head: int | None = None, **_: Any) -> None:
    model.require_exact_weights("a matrix's directions")
    check_layer(model, layer)
    if matrix not in SIDES:
        raise BadArguments("there is no such matrix", received=repr(matrix), allowed=", ".join(SIDES))
    if matrix in ("OV", "QK"):
        if head is None:
            raise UnknownHead(
                f"{matrix} is a head's: say which",
                received="no head",
                allowed=f"0 to {model.heads_at(layer).n_heads - 1}",
            )
        check_head(model, layer, head)
    elif head is not None:
        raise BadArguments(f"{matrix} is the MLP's, and has no heads", received=f"head={head}", allowed="no head")


@method("weight-directions", title="Directions of a weight", group="weights", refuse=_refuse)
def weight_directions(
    model: Model,
    layer: Annotated[int, fields.count(low=0, high=10_000)],
    matrix: Annotated[
        str, fields.choice(*SIDES, help="of a head what it moves or looks for; of the MLP what it reads or writes")
    ] = "W_out",
    *,
    head: Annotated[int | None, fields.heads(single=True)] = None,
    n: Annotated[int, fields.count(low=1, high=1000)] = 10,
    k: Annotated[int, fields.count(low=1, high=100)] = 8,
    progress: Progress = None,
    cancel: Cancel = None,
) -> WeightDirections:
    """The singular directions of a head's OV or QK, or of the MLP's W_in or W_out, each read as the tokens at its two ends.

        W = U S V^T        read: (E / sigma) u        written: v G'' W_U, less the mean over tokens

    E the embedding, sigma the divisor of the norm in front for each token alone, G'' the final norm's gain; the norms' gains are
    folded into W, divisors, biases and rotary embeddings left out. A gated MLP reads by two matrices, which are taken side by
    side. A direction and its opposite are one: the sign is that at which the largest value of the last side is positive. Where
    two singular values are nearly the same, so is any mix of their directions.

    n: directions, the largest singular values first. k: tokens at each end.

        rs.weight_directions(model, 23, "OV", head=3).tokens(0)

    Raises:
        UnknownLayer, UnknownHead, BadArguments. AbsentSite: the layer has no such one matrix. QuantisedModel, Cancelled.

    Millidge & Black 2022, The singular value decompositions of transformer weight matrices are highly interpretable.
    """
    _refuse(model, layer, matrix, head=head)
    sides = SIDES[matrix]
    with stage("Reading directions", 1 + len(sides), progress, cancel) as tell, torch.no_grad():
        S, both = _directions(model, layer, matrix, head)
        n = min(n, len(S))
        tell(1)
        along = [_read(model, layer, matrix, side, both[side][:n]) for side in sides]
        signs = _signs(along[-1])
        found = [ends(x * signs, k) for x in along]
    ids, values = (torch.stack([part[i] for part in found]).cpu() for i in range(2))
    name = f"{matrix} of {f'head {layer}.{head}' if head is not None else f'MLP {layer}'}"
    about = {
        **model.provenance, "method": "weight directions", "matrix": name,
        "folded": "gains of the norms; divisors, biases and rotary embeddings are left out",
    }  # fmt: skip
    singular = Result(S.float(), ("direction",), name="singular values", unit="singular value", provenance=about)
    vectors = torch.stack([both[side][:n] * signs.cpu().double()[:, None] for side in sides])
    return WeightDirections(name, sides, singular, vectors.float(), ids, values.float(), called(model, ids), about)


def _directions(
    model: Model, layer: int, matrix: str, head: int | None
) -> tuple[Float[Tensor, " direction"], dict[str, Float[Tensor, "direction d_model"]]]:
    """Singular values that are not zero, and the stream's directions of each side, a row each, in double precision."""
    if head is not None:
        U, S, Vh = factored_svd(*circuit_of(model, layer, head, matrix))
        both = dict(zip(SIDES[matrix], (U.T, Vh), strict=True))
    else:
        W = mlp_reads(model, layer).flatten(1).mT if matrix == "W_in" else mlp_writes(model, layer)
        W = W.cpu().double()
        squares, vectors = torch.linalg.eigh(W.T @ W)
        S, both = squares.flip(0).clamp_min(0).sqrt(), {SIDES[matrix][0]: vectors.T.flip(0)}
    kept = int((S / S[0].clamp_min(1e-300) > 1e-6).sum())
    return S[:kept], {side: rows[:kept] for side, rows in both.items()}


def _read(
    model: Model, layer: int, matrix: str, side: str, rows: Float[Tensor, "direction d_model"]
) -> Float[Tensor, "token direction"]:
    """How far every token is along each direction."""
    rows = rows.to(model.device, torch.promote_types(model.dtype, torch.float32))
    if side == "written":
        return unembedded(model, rows)
    parts = model.layout.blocks[layer]
    norm = parts.attn_norm if matrix != "W_in" or (parallel(model) and parts.mlp_norm is None) else parts.mlp_norm
    return embedded(model, norm, rows.T)


def _signs(along: Float[Tensor, "token direction"]) -> Float[Tensor, " direction"]:
    """The sign of each direction's largest value."""
    return along.gather(0, along.abs().argmax(0)[None])[0].sign()
