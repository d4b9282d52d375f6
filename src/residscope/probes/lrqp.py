"""LRQP: the least change, in the cloud's own metric, after which a probe reads what it is told to.

Intervening in the Residual Stream (2023): logistic regression and a quadratic programme.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, isfinite, log
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.edits.base import as_number
from residscope.errors import BadEdit, SingularCovariance, Unreachable, WrongWidth
from residscope.probes.concept_edit import NEUTRAL, OTHER, ConceptEdit, To, check_site, of
from residscope.probes.lrqp_dual import greatest, multipliers
from residscope.probes.probe import Probe

SEED_LOG_ALPHA = 10.0


@dataclass(frozen=True)
class Moved:
    """Where points went, lambda of each constraint (the other classes in their order), and the Mahalanobis length of each
    move."""

    x: Float[Tensor, "batch d"]
    multipliers: Float[Tensor, "batch others"]
    cost: Float[Tensor, "batch"]


@dataclass(frozen=True, eq=False, repr=False)
class LRQP(ConceptEdit):
    """See `lrqp`. `spread` is Sigma W^T, `floor[k, l]` the least log P(k)/P(l) asked for where k is wanted; `mirrored` raises
    it to the log-odds observed the other way round; `instead` is a direction of Mahalanobis length one to go along at the
    same cost."""

    weights: Float[Tensor, "classes d"] = field(default_factory=lambda: torch.empty(0, 0))
    bias: Float[Tensor, "classes"] = field(default_factory=lambda: torch.empty(0))
    spread: Float[Tensor, "d classes"] = field(default_factory=lambda: torch.empty(0, 0))
    mean: Float[Tensor, "d"] = field(default_factory=lambda: torch.empty(0))
    floor: Float[Tensor, "classes classes"] = field(default_factory=lambda: torch.empty(0, 0))
    mirrored: bool = False
    instead: Float[Tensor, "d"] | None = None
    kind: ClassVar[str] = "lrqp"

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = {"weights": ("classes", "d"), "bias": ("classes",), "spread": ("d", "classes"), "mean": ("d",)}
        parts |= {"floor": ("classes", "classes")} | ({} if self.instead is None else {"instead": ("d",)})
        self._check_parts(**parts)

    def moved(self, x: Tensor, target: Tensor, true: Tensor | None) -> Tensor:
        solution = self.solve(x, target, true)
        if self.instead is None:
            return solution.x
        return x.double() + solution.cost[:, None] * self.instead.to(x.device)

    def solve(
        self, x: Float[Tensor, "batch d"], target: Int[Tensor, "batch"], true: Int[Tensor, "batch"] | None = None
    ) -> Moved:
        """Move vectors so that the probe reads each one's target (-1: neutral, -2: the likeliest class but the true one).

        Raises:
            Unreachable: naming the greatest alpha that some activation has. WrongWidth.
        """
        self._check_width(x, self.weights.shape[1])
        x = x.double()
        weights, bias, spread = (part.to(x.device).double() for part in (self.weights, self.bias, self.spread))
        scores = x @ weights.T + bias
        known = scores.argmax(1) if true is None else true
        others = scores.scatter(1, known[:, None], -torch.inf).argmax(1)
        wanted = torch.where(target == OTHER, others, target)
        k = wanted.clamp_min(0)
        rest = _others(len(weights), x.device)[k]
        odds = scores.gather(1, k[:, None]) - scores.gather(1, rest)
        gram = weights @ spread
        M = gram[k, k][:, None, None] - gram[k][torch.arange(len(k))[:, None], rest][:, None, :]
        M = M - gram[:, k].T.gather(1, rest)[:, :, None] + gram[rest[:, :, None], rest[:, None, :]]
        M = (M + M.transpose(1, 2)) / 2
        neutral = wanted == NEUTRAL
        at_mean = self.mean.to(x) @ weights.T + bias
        r = (
            torch.where(neutral[:, None], at_mean[k][:, None] - at_mean[rest], self._floor(scores, k, rest, known))
            - odds
        )
        lambdas, solved = multipliers(M, r)
        if neutral.any():
            lambdas[neutral] = torch.linalg.solve(M[neutral], r[neutral])
        if not (solved | neutral).all():
            self._refuse(int((~(solved | neutral)).nonzero()[0]), k, M, odds, r + odds)
        steps = spread.T[k][:, None, :] - spread.T[rest]
        x = x + torch.einsum("bi,bid->bd", lambdas, steps)
        return Moved(x, lambdas, torch.einsum("bi,bij,bj->b", lambdas, M, lambdas).clamp_min(0).sqrt())

    def _floor(self, scores: Tensor, k: Tensor, rest: Tensor, known: Tensor) -> Tensor:
        floor = self.floor.to(scores).gather(0, k[:, None].expand(-1, self.floor.shape[1])).gather(1, rest)
        if not self.mirrored:
            return floor
        against = scores.gather(1, known[:, None]) - scores.gather(1, k[:, None])
        return torch.maximum(floor, against)

    def _refuse(self, row: int, k: Tensor, M: Tensor, odds: Tensor, floor: Tensor) -> None:
        most = greatest(M[row], odds[row])
        raise Unreachable(
            f"no activation makes the probe of {self.variable} read {self.classes[int(k[row])]} with these odds",
            received=f"alpha = e^{float(floor[row].max()):.4g}",
            allowed=f"alpha up to e^{most:.4g}",
            fix="ask for a smaller alpha=, or fit a probe with more prompts of that class",
        )


@edit(title="Set what a probe reads (LRQP)", glyph="⇥", says="to {to}")
def lrqp(
    probe: Annotated[Probe, fields.probe()],
    to: Annotated[To, fields.name(of="class")] = "other",
    *,
    alpha: float | str = "seed",
    log_alpha: Annotated[
        float | None,
        fields.number(
            low=-700, high=700, strength=True, slide=(-10, 20), step=0.5, unit="nats", unless=("to", ("neutral",))
        ),
    ] = None,
    quantile: float | None = None,
    covariance: Annotated[str | Float[Tensor, "d d"], fields.choice("total", "within")] = "total",
    site: Annotated[str | None, fields.site()] = None,
    pos: Annotated[int | Sequence[int] | None, fields.positions(named=True, live=True, title="positions")] = None,
) -> LRQP:
    """The edit that minimises (x - x0)^T Sigma^-1 (x - x0) subject to P[k|x] >= alpha P[l|x] for all l != k.

    For two classes with normal a: x = x0 + Sigma a max(0, r) / (a^T Sigma a), r = log alpha - (a . x0 + c). More classes: the
    dual in `probes/lrqp_dual.py`.

    to: "true", "other", "neutral" (held at what the mean activation reads, up or down: LEACE, where the probe is LDA), a
    class, or one for each prompt. alpha: how sure the probe is to be; "seed" is max(P[v]/P[k] observed, e^10), v the true
    class. log_alpha: its logarithm instead, in nats. quantile: instead, the log-odds that this share of the class's own
    training prompts stay under. covariance: "total", "within" (class), or a matrix. site: the probe's own; another is refused.
    pos: token positions, for prompts other than a PromptSet.

        model.run(data, edits=rs.lrqp(probe, to="other"))

    Raises:
        SingularCovariance: moving along Sigma a does not change what the probe reads. BadEdit. Unreachable: when it is applied.
    """
    check_site(probe, site)
    if log_alpha is not None:
        alpha = exp(as_number(log_alpha))
    sigma = _covariance(probe, covariance)
    spread = sigma @ probe.weights.T
    _check_movable(probe, spread, sigma)
    return LRQP(
        **of(probe, to, pos), weights=probe.weights, bias=probe.bias, spread=spread, mean=probe.mean,
        floor=_asked(probe, alpha, quantile), mirrored=quantile is None and alpha == "seed",
    )  # fmt: skip


def random_control(edit: LRQP, probe: Probe, *, seed: int, covariance: str | Tensor = "total") -> LRQP:
    """The negative control: as far as the edit would go, in Mahalanobis length, but along one direction drawn from N(0,
    Sigma)."""
    sigma = _covariance(probe, covariance)
    drawn = torch.randn(len(sigma), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return replace(edit, instead=torch.linalg.cholesky(sigma) @ (drawn / drawn.norm()))


def _covariance(probe: Probe, covariance: str | Tensor) -> Tensor:
    if isinstance(covariance, str) and covariance not in ("total", "within"):
        raise BadEdit("no such covariance", received=repr(covariance), allowed='"total", "within" or a matrix')
    sigma = (
        {"total": probe.covariance, "within": probe.within}[covariance] if isinstance(covariance, str) else covariance
    )
    if sigma.shape != probe.covariance.shape:
        raise WrongWidth(
            "the covariance does not fit", received=str(tuple(sigma.shape)), allowed=str(tuple(probe.covariance.shape))
        )
    return sigma.double()


def _check_movable(probe: Probe, spread: Tensor, sigma: Tensor) -> None:
    """Refuse where a normal has no length in the covariance: two classes the cloud does not lie between."""
    gram = probe.weights @ spread
    between = gram.diagonal()[:, None] + gram.diagonal() - gram - gram.T
    normals = torch.cdist(probe.weights, probe.weights) ** 2
    bound = 1e-12 * normals * sigma.diagonal().mean() + torch.eye(len(gram)) * -1
    if not torch.isfinite(sigma).all() or bool((between <= bound).any()):
        raise SingularCovariance(
            f"the activations at {probe.site}, {probe.position} do not vary along what the probe of {probe.label} reads",
            received=f"a covariance of trace {float(sigma.trace()):.3g}",
            allowed="a^T Sigma a > 0 for each two classes",
            fix="choose a later site or another position, or shrink the covariance",
        )


def _asked(probe: Probe, alpha: float | str, quantile: float | None) -> Tensor:
    """floor[k, l]: the least log P(k)/P(l)."""
    n = len(probe.classes)
    if quantile is not None:
        if not 0 <= quantile <= 1:
            raise BadEdit("a quantile is a share", received=f"quantile={quantile}", allowed="0 to 1")
        return probe.log_odds[:, :, round(100 * quantile)].clone()
    if alpha == "seed":
        return torch.full((n, n), SEED_LOG_ALPHA, dtype=torch.float64)
    if isinstance(alpha, str | bool) or not (isfinite(alpha) and alpha > 0):
        raise BadEdit("alpha is a ratio of probabilities", received=f"alpha={alpha!r}", allowed='over 0, or "seed"')
    return torch.full((n, n), log(alpha), dtype=torch.float64)


def _others(n: int, device: torch.device) -> Int[Tensor, "classes others"]:
    """For each class the other ones, in order."""
    return torch.tensor([[other for other in range(n) if other != k] for k in range(n)], device=device)
