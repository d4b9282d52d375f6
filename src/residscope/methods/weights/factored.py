"""A head's circuits as factored matrices: what it moves, OV, and what it looks for, QK, in the stream and over the vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.flow import scores_factor
from residscope.engine.model import Model
from residscope.errors import BadArguments
from residscope.methods._lib.weights.matrices import check_head, head_matrices
from residscope.methods._lib.weights.vocabulary import called, embedded, extremes, unembedded
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.shown_tokens import visible
from residscope.views import Card, Curve, Grid, Line, Scatter, Table, View

CIRCUITS = ("OV", "QK")
STEPS = 100


@dataclass(frozen=True, eq=False, repr=False)
class Factored(Report):
    """A matrix of the stream, d_model x d_model, as the product of a tall one and a wide one: x `left` `right`.

    OV: left = W_V, right = W_O: what a token's stream becomes where a head moves it. QK: left = W_Q, right = W_K^T: x_query
    `left` `right` x_key is the score before its factor, a form of two streams and no map: its eigenvalues say whether a head
    looks at copies, its eigenvectors nothing.

    singular: of left right, the largest first. highest, lowest [k 2]: pairs of token ids with the largest and the least entry
    over the vocabulary, `high` and `low`; of OV (looked at, raised), in logits times the final norm's divisor, over the mean
    token; of QK (query, key), in scores. texts: those tokens.
    """

    kind: ClassVar[str] = "report:factored"
    main: ClassVar[str] = "singular"
    circuit: str
    layer: int
    head: int
    left: Float[Tensor, "d_model d_head"]
    right: Float[Tensor, "d_head d_model"]
    singular: Result
    highest: Int[Tensor, "k 2"]
    high: Float[Tensor, " k"]
    lowest: Int[Tensor, "k 2"]
    low: Float[Tensor, " k"]
    texts: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def norm(self) -> float:
        """The Frobenius norm of left right."""
        return float(self.singular.values.double().norm())

    @property
    def trace(self) -> float:
        """The sum of the eigenvalues of left right."""
        return float((self.left * self.right.T).sum())

    @property
    def eigenvalues(self) -> Complex[Tensor, " d_head"]:
        """Of left right, those that may not be zero: the eigenvalues of right left; the largest modulus first."""
        values = torch.linalg.eigvals(self.right.double() @ self.left.double())
        return values[values.abs().argsort(descending=True)]

    @property
    def positive(self) -> float:
        """The sum of the eigenvalues over the sum of their moduli, from -1 to 1: in the stream, not over the vocabulary."""
        values = self.eigenvalues
        return float(values.real.sum() / values.abs().sum().clamp_min(1e-300))

    @property
    def product(self) -> Float[Tensor, "d_model d_model"]:
        """left right, written out."""
        return self.left @ self.right

    def svd(self) -> tuple[Float[Tensor, "d_model n"], Float[Tensor, " n"], Float[Tensor, "n d_model"]]:
        """U, S, V^T of left right, without writing it out: U's columns are read, V^T's rows written (of QK: keys that match)."""
        return factored_svd(self.left, self.right)

    @property
    def pairs(self) -> list[tuple[str, str, float]]:
        """The largest entries over the vocabulary, then the least, as text."""
        rows = [*zip(self.highest.tolist(), self.high.tolist(), strict=True)]
        rows += [*zip(self.lowest.tolist(), self.low.tolist(), strict=True)]
        return [(self.texts[a], self.texts[b], value) for (a, b), value in rows]

    def view(self) -> Grid:
        """The circuit in numbers, its singular values, its eigenvalues, and the pairs of tokens at both ends."""
        values, words = self.eigenvalues, ("looked at", "raised") if self.circuit == "OV" else ("query", "key")
        about = {
            "norm": self.norm,
            "trace": self.trace,
            "sum of eigenvalues over sum of moduli": self.positive,
            "largest singular value": float(self.singular.values[0]),
        }
        spectrum = Line("singular value", self.singular.values.tolist())
        views: list[View] = [
            Card(
                f"{self.circuit} of head {self.layer}.{self.head}",
                about,
                note="In the stream, gains of norms folded in.",
            ),
            Curve([*range(len(self.singular.values))], [spectrum], title="Singular values", x_title="direction"),
            Scatter(values.real, values.imag, title="Eigenvalues", x_title="real", y_title="imaginary"),
        ]
        if len(self.high):
            unit = "logits x divisor" if self.circuit == "OV" else "score"
            rows = [[visible(a), visible(b), value] for a, b, value in self.pairs]
            note = "" if self.circuit == "OV" else "Query and key at one position, their biases left out."
            views.append(Table([*words, unit], rows, title="Over the vocabulary: most, then least", note=note))
        return Grid(views, title=f"{self.circuit} of head {self.layer}.{self.head}")

    def __repr__(self) -> str:
        size = f"{len(self.left)} x {self.right.shape[1]}, through {self.left.shape[1]}"
        return f"Factored({self.circuit} of head {self.layer}.{self.head}: {size}; norm {self.norm:.4g})"


def factored_svd(left: Float[Tensor, "a n"], right: Float[Tensor, "n b"]) -> tuple[Tensor, Tensor, Tensor]:
    """U [a m], S [m], V^T [m b] of left right, m the least of a, n and b."""
    Q, R = torch.linalg.qr(left.double())
    P, T = torch.linalg.qr(right.double().T)
    U, S, Vh = torch.linalg.svd(R @ T.T, full_matrices=False)
    return Q @ U, S, Vh @ P.T


def circuit_of(model: Model, layer: int, head: int, circuit: str) -> tuple[Tensor, Tensor]:
    """left [d_model d_head] and right [d_head d_model] of a head's OV or QK, in double precision."""
    W = head_matrices(model, layer)
    pair = (W.need("v")[head], W.o[head]) if circuit == "OV" else (W.need("q")[head], W.need("k")[head].T)
    return pair[0].cpu().double(), pair[1].cpu().double()


def _refuse(model: Model, layer: int, head: int, circuit: str = "OV", **_: Any) -> None:
    model.require_exact_weights("a head's matrices")
    check_head(model, layer, head)
    if circuit not in CIRCUITS:
        raise BadArguments("a head has two circuits", received=repr(circuit), allowed=", ".join(CIRCUITS))


def _price(model: Model, *, k: int = 20, **_: Any) -> float:
    """W_Q, W_K and W_V are read off a pass of d_model tokens; the largest pairs cost about what so many tokens more do."""
    return float(model.d_model + (20 * model.d_model if k else 0))


@method("factored", title="A head's OV or QK", group="weights", refuse=_refuse, tokens=_price)
def factored(
    model: Model,
    layer: Annotated[int, fields.count(low=0, high=10_000)],
    head: Annotated[int, fields.heads(single=True)],
    circuit: Annotated[str, fields.choice(*CIRCUITS, help="what it moves, or what it looks for")] = "OV",
    *,
    k: Annotated[int, fields.count(low=0, high=1000)] = 20,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Factored:
    """A head's OV or QK circuit as two factors, with its norm, trace, eigenvalues, singular values, and largest pairs of tokens.

        OV = G W_V W_O G'        QK = G W_Q (G W_K)^T        score = c x_query QK x_key

    G is the gain of the norm in front of attention (of LayerNorm, the mean taken off too), G' attention's post-norm's; c the
    model's own factor, mostly 1 / sqrt(d_head). Over the vocabulary the circuits are d_vocab x d_vocab,

        E W_V W_O G' G'' W_U        c E W_Q W_K^T E^T

    whose largest and least entries are found a block at a time: E is each token's embedding as the head reads a stream that is
    nothing else, through the norm with the divisor it has for it; G'' the final norm's gain, its divisor left out. So of a first
    layer's head these are the model's own numbers, of a later one its direct path alone.

    Biases and positions are left out: with rotary embeddings QK is what it is for a key that stands where its query does. Heads
    that share keys and values have one W_K and W_V. k: how many pairs of each end; 0 for none.

        rs.factored(model, 18, 6, "OV").pairs

    Raises:
        UnknownLayer, UnknownHead, BadArguments. AbsentSite: a norm of queries and keys makes no matrix of these two.
        QuantisedModel, Cancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits.
    """
    _refuse(model, layer, head, circuit)
    with stage("Reading a circuit", STEPS + 1, progress, cancel) as tell, torch.no_grad():
        left, right = circuit_of(model, layer, head, circuit)
        _, S, _ = factored_svd(left, right)
        tell(1)
        rows, columns = _over_tokens(model, layer, circuit, left, right) if k else (left[:0], left[:0])
        found = extremes(rows, columns, k, lambda share: tell(1 + int(STEPS * share)))
    ids = torch.cat([found.highest, found.lowest])
    about = {
        **model.provenance, "method": "factored", "circuit": circuit, "layer": layer, "head": head,
        "folded": "gains of the norms; biases and positions are left out",
    }  # fmt: skip
    singular = Result(S.float(), ("direction",), name="singular values", unit="singular value", provenance=about)
    return Factored(
        circuit, layer, head, left.float(), right.float(), singular,
        found.highest.cpu(), found.high.float().cpu(), found.lowest.cpu(), found.low.float().cpu(), called(model, ids), about,
    )  # fmt: skip


def _over_tokens(
    model: Model, layer: int, circuit: str, left: Tensor, right: Tensor
) -> tuple[Float[Tensor, "token d_head"], Float[Tensor, "token d_head"]]:
    """Both factors over the vocabulary: rows columns^T is the circuit's own d_vocab x d_vocab."""
    norm = model.layout.blocks[layer].attn_norm
    wide = torch.promote_types(model.dtype, torch.float32)
    read, write = left.to(model.device, wide), right.to(model.device, wide)
    rows = embedded(model, norm, read)
    if circuit == "OV":
        return rows, unembedded(model, write) * model.layout.factors.residual
    return rows * scores_factor(model.layout, layer), embedded(model, norm, write.T)
