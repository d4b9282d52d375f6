"""Weight difference: what a fine-tune changed, matrix by matrix and head by head."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.alike import require_alike
from residscope.engine.model import Model
from residscope.engine.parameters import in_memory
from residscope.methods._lib.circuits import head_weights
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Table, View

OUTSIDE = ("embed", "pos_embed", "final_norm", "unembed")
PARTS = "By head and MLP"
LARGEST = 4  # singular values kept of each difference


@dataclass(frozen=True, eq=False, repr=False)
class WeightDifference(Report):
    """What another model's weights are more than this one's, D = W' - W.

    share: |D|_F / |W|_F, over layer and weight, 0 where the weights are the same. norm: |D|_F. rank: the effective rank of D,
    NaN where it is zero or no matrix. singular: its largest singular values. heads: share by weight (q, k, v, o), layer and
    head, NaN where there is none. parts: share by layer and part: each head's weights together (k and v of its group), and the
    MLP's. outside: share of what is in no layer, over weight. absent: why weights have no heads.
    """

    kind: ClassVar[str] = "report:weight_difference"
    main: ClassVar[str] = "share"
    share: Result
    norm: Result
    rank: Result
    singular: Result
    heads: Result
    parts: Result
    outside: Result
    absent: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """Shares by layer and weight, effective ranks, a map of heads for each of q, k, v and o, and what is in no layer."""
        views: list[View] = [_shown(self.share, "Share of each weight"), _shown(self.rank, "Effective rank")]
        views.append(_shown(self.parts, PARTS))
        for name in self.heads.coords["weight"]:
            one = self.heads.select(weight=name)
            if not bool(one.values.isnan().all()):
                views.append(_shown(one, f"{name} by head"))
        rows = [[name, float(x)] for name, x in zip(self.outside.coords["weight"], self.outside.values, strict=True)]
        note = " ".join(f"{name} by head: {reason}." for name, reason in self.absent.items())
        views.append(Table(["weight", "share"], rows, title="In no layer", note=note))
        return Grid(views, columns=1, title=self.share.name)

    @property
    def blanks(self) -> int:
        """Weights that have not changed have no rank, and grouped heads share keys and values."""
        return sum(int(one.values.isnan().sum()) for one in (self.share, self.norm, self.rank, self.heads, self.parts))

    def __repr__(self) -> str:
        changed = int((self.norm.values > 0).sum())
        return f"WeightDifference({self.share.name}: {changed} of {self.norm.values.numel()} weights differ)"


def _shown(result: Result, title: str) -> HeatMap:
    """As a map, shares in percent; weights by the last part of their names, where that is enough."""
    percent = result.unit == "share"
    scaled = replace(result, values=100 * result.values, unit="%") if percent else result
    shown = scaled.view()
    assert isinstance(shown, HeatMap)
    last = [name.rpartition(".")[2] for name in shown.columns]
    columns = last if len({*last}) == len(last) else shown.columns
    return replace(shown, title=title, columns=columns, scale="sequential", bottom_up=True)


def _price(model: Model, **_: Any) -> float:
    """Gram matrices of every weight and their eigenvalues: about what so many tokens cost."""
    return float(8 * model.d_model)


def _refuse(model: Model, **_: Any) -> None:
    model.require_exact_weights("the difference of two models' weights")


@method("weight-difference", title="Difference of weights", group="comparison", tokens=_price, refuse=_refuse)
def weight_difference(
    model: Model,
    other: Annotated[Model, fields.model()],
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> WeightDifference:
    """What another model of the same shapes has in each weight that this one has not: D = W' - W.

        share = |D|_F / |W|_F        effective rank = exp(-sum p_i log p_i),  p_i = s_i / sum s

    s are the singular values of D, from the eigenvalues of its Gram matrix in double precision. Weights are called as the model's
    own modules are, without their layer. By head: W_Q, W_K, W_V are read off the model, however it packs them, as what q, k and
    v are of an input that is one entry alone at the first position; W_O is its output's rows.

        rs.weight_difference(model, rs.load("smollm2-135m+repeated-name")).share

    How large a change is does not say how much it matters: see `rs.layer_swap`.

    Raises:
        OtherModel: shapes, sites or tokens differ. QuantisedModel, Cancelled.

    Roy & Vetterli 2007, The effective rank; Hu et al. 2021 (2106.09685) for differences of low rank.
    """
    _refuse(model)
    _refuse(other)
    require_alike(model, other)
    n, names = model.n_layers, _names(model)
    norm, base = torch.zeros(n, len(names)), torch.zeros(n, len(names))
    rank = torch.full((n, len(names)), torch.nan)
    singular = torch.zeros(n, len(names), LARGEST)
    sizes = ("q", "k", "v", "o")
    heads = torch.full((len(sizes), n, model.n_heads), torch.nan)
    parts = torch.full((n, model.n_heads + 1), torch.nan)
    absent: dict[str, str] = {}
    with stage("Comparing weights", n + 1, progress, cancel) as tell, torch.no_grad():
        for layer in range(n):
            tell(layer)
            own, theirs = (_weights(m.layout.blocks[layer].block) for m in (model, other))
            for at, name in enumerate(names):
                if name in own and name in theirs:
                    base[layer, at], norm[layer, at], rank[layer, at], singular[layer, at] = _difference(
                        own[name], theirs[name]
                    )
                else:
                    base[layer, at] = norm[layer, at] = torch.nan
            (ours, why), (others, _) = head_weights(model, layer), head_weights(other, layer)
            absent |= why
            squares = torch.zeros(2, n_heads := model.heads_at(layer).n_heads, dtype=torch.float64)
            for at, name in enumerate(sizes):
                if name in ours:
                    W, D = ours[name].double(), others[name].double() - ours[name].double()
                    both = torch.stack([x.flatten(1).square().sum(1).cpu() for x in (D, W)])  # difference, own: by head
                    heads[at, layer, : both.shape[1]] = _share(both).float()
                    squares += both.repeat_interleave(n_heads // both.shape[1], 1)
            parts[layer, :n_heads] = _share(squares).float()
            parts[layer, -1] = _mlp(model, other, layer)
        tell(n)
        rest = {name: _outside(model, other, name) for name in OUTSIDE}
    kept = {name: x for name, x in rest.items() if x is not None}
    about = {
        **model.provenance,
        "method": "weight difference",
        "other": {"model": other.name, "hash": other.fingerprint() if other.hash else ""},
    }
    title, dims, coords = f"{other.name} − {model.name}", ("layer", "weight"), {"weight": names}

    def result(values: Tensor, unit: str, name: str, dims: tuple[str, ...] = dims, **more: Any) -> Result:
        own = {name: labels for name, labels in coords.items() if name in dims}
        return Result(values, dims, own | more, name=name, unit=unit, provenance=about)

    return WeightDifference(
        share=result(norm / base.clamp_min(1e-30), "share", title),
        norm=result(norm, "Frobenius norm", f"norm of {title}"),
        rank=result(rank, "effective rank", f"effective rank of {title}"),
        singular=result(singular, "singular value", f"singular values of {title}", (*dims, "largest")),
        heads=result(heads, "share", f"{title}, by head", ("weight", "layer", "head"), weight=[*sizes]),
        parts=result(parts, "share", title, ("layer", "part"), part=[*map(str, range(model.n_heads)), "MLP"]),
        outside=result(torch.tensor([*kept.values()]), "share", title, ("weight",), weight=[*kept]),
        absent=absent,
        provenance=about,
    )


def _share(squares: Float[Tensor, "2 head"]) -> Float[Tensor, "head"]:
    return (squares[0] / squares[1].clamp_min(1e-60)).sqrt()


def _mlp(model: Model, other: Model, layer: int) -> float:
    """The share of everything that an MLP, or its experts, multiplies by; NaN where there is none."""
    squares = [0.0, 0.0]
    both = [m.layout.blocks[layer] for m in (model, other)]
    names = [name for name in ("mlp", "mlp_up", "mlp_gate", "mlp_down", "experts", "router") if getattr(both[0], name)]
    pairs = {
        id(own): (own, theirs)
        for name in names
        for own, theirs in zip(*(getattr(block, name).modules() for block in both), strict=True)
    }
    for own, theirs in pairs.values():
        for name, _ in own.named_parameters(recurse=False):
            W, V = in_memory(own, name), in_memory(theirs, name)
            if W is not None and V is not None:
                squares[0] += float((V.double() - W.double()).square().sum())
                squares[1] += float(W.double().square().sum())
    return (squares[0] / squares[1]) ** 0.5 if squares[1] else float("nan")


def _names(model: Model) -> list[str]:
    """Every weight that a block has, as its modules are called."""
    return [*dict.fromkeys(name for parts in model.layout.blocks for name in _weights(parts.block))]


def _weights(block: Any) -> dict[str, Tensor]:
    """The parameters of a block, in memory, by their names less `.weight`."""
    found: dict[str, Tensor] = {}
    for name, _ in block.named_parameters():
        owner, _, last = name.rpartition(".")
        weight = in_memory(block.get_submodule(owner), last)
        if weight is not None:
            found[name.removesuffix(".weight")] = weight
    return found


def _difference(W: Tensor, theirs: Tensor) -> tuple[float, float, float, Tensor]:
    """|W|, |D|, the effective rank of D, and its largest singular values. A stack of matrices counts as one tall one."""
    wide, D = W.double(), theirs.to(W.device).double() - W.double()
    largest = torch.zeros(LARGEST)
    if not bool(D.any()):
        return float(wide.norm()), 0.0, float("nan"), largest
    if D.ndim < 2:
        return float(wide.norm()), float(D.norm()), float("nan"), largest
    s = _singular(D.reshape(-1, D.shape[-1]))
    first = s[:LARGEST].float().cpu()
    largest[: len(first)] = first
    p = s[s > 0] / s.sum()
    return float(wide.norm()), float(D.norm()), float((-(p * p.log()).sum()).exp()), largest


def _singular(D: Float[Tensor, "rows columns"]) -> Float[Tensor, " value"]:
    """Singular values, the largest first, of the smaller Gram matrix: below 1e-7 of the largest they are rounding, and zero."""
    gram = D.T @ D if D.shape[0] >= D.shape[1] else D @ D.T
    s = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).sqrt()
    return torch.where(s > 1e-7 * s[0], s, torch.zeros_like(s))


def _outside(model: Model, other: Model, name: str) -> float | None:
    """The share of one that is in no layer; None where there is none, or where the unembedding is the embedding."""
    own, theirs = (getattr(m.layout, name) for m in (model, other))
    if own is None:
        return None
    own, theirs = (getattr(part, "module", part) for part in (own, theirs))
    if name == "unembed" and own.weight is model.layout.embed.weight and theirs.weight is other.layout.embed.weight:
        return None
    W, V = in_memory(own, "weight"), in_memory(theirs, "weight")
    if W is None or V is None:
        return None
    return float((V.double() - W.double()).norm() / W.double().norm().clamp_min(1e-30))
