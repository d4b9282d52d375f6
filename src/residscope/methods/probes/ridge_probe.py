"""Ridge probes: a number read off the stream by penalised least squares, beside the same fit to shuffled labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import NotNumbers, OneClass, TooFewPrompts, WrongWidth
from residscope.methods._lib.activations import recorded_halves
from residscope.model.prompts import PromptSet, require_set
from residscope.probes.selection import selected
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Card, Grid, Scatter

ALPHAS = tuple(10.0**k for k in range(-3, 8))
SHUFFLES = 20
RESAMPLES = 1000
LEAST = 3  # prompts of each half


@dataclass(frozen=True, eq=False, repr=False)
class RidgeProbe(Report):
    """y(x) = weights . x + bias, in raw space, at a site and a named position; y in the label's unit.

    r2: 1 - residual / total sum of squares over held-out prompts, 0 for a probe that says their mean; interval: the bootstrap's
    95 %. controls: the same of probes fitted to labels dealt out again at random. correlation: Pearson's, of label and
    prediction. alpha: the penalty, on standardised inputs. write: covariance (Ledoit and Wolf's) times the weights, over its
    variance along them: adding it raises y by 1 at the least Mahalanobis cost. scale: the standard deviation of y over training
    prompts. predictions[read, prompt]: the held-out labels and what the probe reads.
    """

    kind: ClassVar[str] = "report:ridge_probe"
    main: ClassVar[str] = "predictions"
    weights: Float[Tensor, " d"]
    bias: float
    write: Float[Tensor, " d"]
    scale: float
    site: str
    position: str
    label: str
    head: int | None
    alpha: float
    r2: float
    interval: tuple[float, float]
    controls: tuple[float, ...]
    correlation: float
    training: int
    predictions: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch"]:
        """What the probe reads in each vector, in float64. Raises WrongWidth."""
        if x.shape[-1] != len(self.weights):
            raise WrongWidth(f"the probe reads {self.site}", received=f"{x.shape[-1]}", allowed=f"{len(self.weights)}")
        return x.double() @ self.weights.to(x.device) + self.bias

    @property
    def direction(self) -> Direction:
        """The direction whose coordinate is the predicted label; `write` raises it by 1."""
        return Direction(
            read=self.weights, write=self.write, site=self.site, offset=-self.bias, scale=self.scale or None,
            name=f"{self.label} (ridge)", space="centred", head=self.head,
            provenance={"probe": self.label, "position": self.position, "alpha": self.alpha, **self.provenance},
        )  # fmt: skip

    def view(self) -> Grid:
        """R² beside its controls, and each held-out prompt's label against what is read."""
        place = self.site if self.head is None else f"{self.site} head {self.head}"
        low, high = self.interval
        card = Card(
            f"{self.label} at {place}, {self.position}",
            {
                "held-out R²": round(self.r2, 4), "95 % interval": f"{low:.3f} to {high:.3f}",
                "correlation": round(self.correlation, 4), "shuffled labels, mean R²": round(_mean(self.controls), 4),
                "shuffled labels, highest R²": round(max(self.controls), 4), "alpha": self.alpha,
                "training prompts": self.training, "held-out prompts": self.predictions.sizes["prompt"],
            },
        )  # fmt: skip
        true, read = (row.tolist() for row in self.predictions.values)
        points = Scatter(true, read, diagonal=True, title="Held out", x_title=self.label, y_title="read")
        return Grid([card, points], columns=2, title="Ridge probe")

    def __repr__(self) -> str:
        return f"RidgeProbe({self.label} at {self.site}, {self.position}: R² {self.r2:.3f}, shuffled {_mean(self.controls):.3f})"


@method("ridge-probe", title="Fit a ridge probe", group="probes")
def ridge_probe(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    site: Annotated[str, fields.site(usual="resid_mid")],
    position: Annotated[str, fields.name(of="position")],
    label: Annotated[str, fields.name(of="label")],
    head: Annotated[int | None, fields.heads(single=True)] = None,
    held_out: PromptSet | float = 0.5,
    seed: Annotated[int, fields.seed()] = 0,
    alphas: Sequence[float] = ALPHAS,
    progress: Progress = None,
    cancel: Cancel = None,
) -> RidgeProbe:
    """Read a number (a year, a place in a list, a log-probability) off one site and named position, by ridge regression.

        w, b = argmin sum_i (y_i - w . z_i - b)^2 + alpha |w|^2,    z the activations standardised on the training half

    The scaling is folded back, so the probe reads raw activations. alpha is the one of `alphas` with the least exact
    leave-one-out error. Training prompts whose token stands at position 0 or is an attention sink are left out of all that is
    estimated; R² is over all held-out prompts. held_out: their share, or other prompts. Controls are twenty fits, each with an
    alpha of its own, to labels dealt out again over both halves: R² above all of them is p < 0.05.

        rs.ridge_probe(model, rs.tasks.greater_than(model), site="resid_post.15", position="YEAR", label="start").r2

    Raises:
        NotNumbers, OneClass (all labels alike), TooFewPrompts, MissingLabel, UnknownPosition, SiteError, Cancelled.

    Hoerl and Kennard 1970; Hewitt and Liang 2019 (1909.03368) on controls.
    """
    require_set(data)
    data.at(position)
    train, test = (data, held_out) if isinstance(held_out, PromptSet) else data.split(held_out, seed=seed)
    y, y_test = (_numbers(half, label) for half in (train, test))
    if len({*y, *y_test}) < 2:
        raise OneClass(f"every prompt has the same {label}", received=f"{y[0]:g}" if len(y) else "no prompts")
    at = (site, position)
    seen, unseen = recorded_halves(model, train, test, [site], [position], head=head, progress=progress, cancel=cancel)
    keep, left_out = selected(**seen.left_out(at), y=np.zeros(len(y), dtype=int), classes=(), where={})
    X, X_test = (half.vectors[at].double().numpy() for half in (seen, unseen))
    X, y = X[keep], y[keep]
    if min(len(y), len(y_test)) < LEAST:
        raise TooFewPrompts(
            "too few prompts to fit a line and to test it", received=f"{len(y)} usable for training, {len(y_test)} held out",
            allowed=f"{LEAST} or more of each",
        )  # fmt: skip
    with stage("Fitting the probe", 1 + SHUFFLES, progress, cancel) as tell:
        lines = _Lines(X)
        fitted = lines.fit(y, alphas)
        tell(1)
        drawn, controls = np.random.default_rng(seed), []
        for shuffle in range(SHUFFLES):
            dealt = drawn.permutation(np.concatenate([y, y_test]))
            control = lines.fit(dealt[: len(y)], alphas)
            controls.append(_r2(dealt[len(y) :], X_test @ control.weights + control.bias))
            tell(2 + shuffle)
    read = X_test @ fitted.weights + fitted.bias
    write, variance = _cheapest(X, fitted.weights)
    about = {
        **model.provenance, **data.provenance, "method": "ridge probe", "seed": seed, "left out of training": left_out,
        "alphas tried": [*alphas],
    }  # fmt: skip
    if len(alphas) > 1 and fitted.alpha in (min(alphas), max(alphas)):
        about["alpha at an end of the grid"] = "lower" if fitted.alpha == min(alphas) else "upper"
    predictions = Result(
        torch.tensor(np.stack([y_test, read])), ("read", "prompt"), {"read": ("label", "predicted")},
        name=f"{label}, held out", unit=label, provenance=about,
    )  # fmt: skip
    return RidgeProbe(
        torch.from_numpy(fitted.weights), fitted.bias, torch.from_numpy(write), float(variance**0.5), site, position, label, head,
        fitted.alpha, _r2(y_test, read), _interval(y_test, read, seed), tuple(controls), _correlation(y_test, read), len(y),
        predictions, about,
    )  # fmt: skip


class _Fitted(NamedTuple):
    weights: np.ndarray
    bias: float
    alpha: float


class _Lines:
    """Ridge fits of many labels to the same vectors, from one singular value decomposition of the standardised ones."""

    def __init__(self, X: np.ndarray) -> None:
        self.shift, spread = X.mean(0), X.std(0)
        varies = spread > 1e-12 * max(1.0, float(np.abs(X).max(initial=0)))
        self.spread = np.where(varies, spread, 1.0)
        self.U, self.s, self.Vt = np.linalg.svd(varies * (X - self.shift) / self.spread, full_matrices=False)

    def fit(self, y: np.ndarray, alphas: Sequence[float]) -> _Fitted:
        """The alpha of least leave-one-out error, e_i = (y_i - y(x_i)) / (1 - h_ii), and its line; of equal ones the largest."""
        centre = float(y.mean())
        along = self.U.T @ (y - centre)

        def error(alpha: float) -> float:
            share = self.s**2 / (self.s**2 + alpha)
            leverage = 1 / len(y) + (self.U**2) @ share
            return float((((y - centre - self.U @ (share * along)) / (1 - leverage)) ** 2).mean())

        alpha = min(alphas, key=lambda one: (error(one), -one))
        weights = self.Vt.T @ (self.s / (self.s**2 + alpha) * along) / self.spread
        return _Fitted(weights, centre - float(weights @ self.shift), float(alpha))


def _numbers(data: PromptSet, label: str) -> np.ndarray:
    """The labels as numbers. Raises MissingLabel, NotNumbers."""
    found = []
    for value in data.label(label):
        try:
            found.append(float(str(value)))
        except ValueError:
            found.append(float("nan"))
        if not np.isfinite(found[-1]):
            raise NotNumbers(
                f"a ridge probe reads numbers, and {label} is not one", received=repr(value), allowed="finite numbers",
                fix="rs.fit_probe tells classes apart",
            )  # fmt: skip
    return np.array(found)


def _r2(y: np.ndarray, read: np.ndarray) -> float:
    """1 - SS_residual / SS_total; NaN where the labels do not vary."""
    total = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - read) ** 2).sum()) / total if total else float("nan")


def _correlation(y: np.ndarray, read: np.ndarray) -> float:
    return float(np.corrcoef(y, read)[0, 1]) if y.std() and read.std() else float("nan")


def _interval(y: np.ndarray, read: np.ndarray, seed: int) -> tuple[float, float]:
    """The bootstrap's 95 % interval of R², over held-out prompts."""
    rows = np.random.default_rng(seed).integers(len(y), size=(RESAMPLES, len(y)))
    low, high = np.nanquantile([_r2(y[own], read[own]) for own in rows], (0.025, 0.975))
    return float(low), float(high)


def _cheapest(X: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float]:
    """Covariance times the weights over the variance along them, and that variance."""
    from sklearn.covariance import ledoit_wolf

    covariance = np.asarray(ledoit_wolf(X - X.mean(0), assume_centered=True)[0])
    variance = float(weights @ covariance @ weights)
    return covariance @ weights / (variance or 1.0), variance


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
