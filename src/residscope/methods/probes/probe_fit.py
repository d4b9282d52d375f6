"""Fitting probes: multinomial logistic regression with scikit-learn, C cross-validated, beside a shuffled-label control."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import OneClass, TooFewPrompts, UnseenLabel
from residscope.methods._lib.activations import recorded_halves
from residscope.methods._lib.intervals import wilson
from residscope.model.prompts import PromptSet, require_set
from residscope.probes.logistic import CS, SHUFFLES, choose, logistic, shuffled_accuracy
from residscope.probes.probe import EDGE, Probe, warn_of_edges
from residscope.probes.selection import Mask, selected
from residscope.progress import Cancel, Progress, Tell, stage

_ROW = "row in the whole set"


@method("fit-probe", title="Fit a probe", group="probes")
def fit_probe(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    site: Annotated[str, fields.site(usual="resid_mid")],
    position: Annotated[str, fields.name(of="position")],
    label: Annotated[str, fields.name(of="label")],
    head: Annotated[int | None, fields.heads(single=True)] = None,
    held_out: PromptSet | float = 0.5,
    seed: Annotated[int, fields.seed()] = 0,
    Cs: Sequence[float] = CS,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Probe:
    """Fit a probe of a label at one site and named position, and test it on prompts it has not seen.

    Inputs are standardised on the training half and the scaling folded back, so that the probe reads raw activations. C is
    the one with the least cross-validated log-loss (5 folds, stratified), of `Cs` and, where an end of it is best, of the
    decades beyond, from 1e-8 to 100; where it ends there a `GridEdge` warning says so. Cs of one value fixes it. Training
    prompts whose token stands at position 0 or is an attention sink are left out of all that is estimated; accuracy is over all
    held-out prompts. held_out: the share of each class kept for the test, or other prompts.

        probe = rs.fit_probe(model, rs.tasks.ioi(model), site="resid_mid.6", position="S2", label="order")

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel, UnknownPosition, Cancelled.
    """
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    train, test = halves(data, label=label, held_out=held_out, seed=seed, positions=[position])
    at = (site, position)
    seen, unseen = recorded_halves(model, train, test, [site], [position], head=head, **watch)
    about = {"model": model.hash, "model name": model.name, "data": data.name, "seed": seed}
    return fit(
        seen.vectors[at], unseen.vectors[at], train.label(label), test.label(label), **seen.left_out(at), seed=seed, Cs=Cs,
        **watch, site=site, position=position, label=label, head=head, provenance=about,
    )  # fmt: skip


def halves(
    data: PromptSet, *, label: str, held_out: PromptSet | float, seed: int, positions: Sequence[str] = ()
) -> tuple[PromptSet, PromptSet]:
    """Training and held-out prompts, each with these positions.

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel. UnknownPosition: by the prompt's number in `data`.
    """
    require_set(data)
    for position in positions:
        data.at(position)
    values = Counter(map(str, data.label(label)))
    if len(values) < 2:
        raise OneClass(
            f"every prompt has the same {label}",
            received=", ".join(values) or "no prompts",
            allowed="two classes or more",
        )
    train, test = (data, held_out) if isinstance(held_out, PromptSet) else data.split(held_out, seed=seed, by=label)
    counts = Counter(map(str, train.label(label)))
    unseen = sorted({str(value) for value in test.label(label)} - counts.keys())
    if unseen:
        raise UnseenLabel(
            f"held-out prompts have a {label} that no training prompt has",
            received=", ".join(unseen),
            allowed=", ".join(counts),
            fix="give more prompts of it, or leave them out with data.subset",
        )
    rarest, least = min(counts.items(), key=lambda item: item[1])
    if least < 2 or not len(test):
        raise TooFewPrompts(
            f"too few training prompts with {label} {rarest}",
            received=f"{least} for training, {len(test)} held out",
            allowed="2 or more of every class for training, 1 or more held out",
        )
    return train, test


def fit(
    train: Float[Tensor, "train d"],
    test: Float[Tensor, "test d"],
    labels: Sequence[object],
    test_labels: Sequence[object],
    *,
    first: Mask = None,
    sinks: Mask = None,
    seed: int = 0,
    Cs: Sequence[float] = CS,
    progress: Progress = None,
    cancel: Cancel = None,
    **where: Any,
) -> Probe:
    """A probe from vectors and labels: what `fit_probe` does once the model has run.

    first, sinks: which training vectors stand at position 0, or are attention sinks: all that is estimated leaves them out
    (`Recorded.left_out`). Warns (`GridEdge`) where C ends at an end of the widened grid.

    Raises:
        TooFewPrompts: a class has fewer than two training prompts, or has none left. Cancelled.
    """
    how: dict[str, Any] = {"seed": seed, "progress": progress, "cancel": cancel, **where}
    (probe,) = fit_each(train, test, labels, test_labels, [Cs], first=first, sinks=sinks, **how)
    warn_of_edges([probe])
    return probe


def fit_each(
    train: Float[Tensor, "train d"],
    test: Float[Tensor, "test d"],
    labels: Sequence[object],
    test_labels: Sequence[object],
    grids: Sequence[Sequence[float]],
    *,
    first: Mask = None,
    sinks: Mask = None,
    seed: int = 0,
    progress: Progress = None,
    cancel: Cancel = None,
    **where: Any,
) -> tuple[Probe, ...]:
    """A probe for each grid of C, the cloud's statistics computed once; without a warning. A grid of one C fixes it.

    Raises TooFewPrompts, Cancelled.
    """
    classes = tuple(str(c) for c in _ordered(labels))
    y, y_test = (np.array([classes.index(str(v)) for v in column]) for column in (labels, test_labels))
    keep, left_out = selected(first, sinks, y, classes, where)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # products this small lose tenfold to threads that wait for each other
        X, X_test = (half.double().numpy() for half in (train, test))
        cloud = _Cloud.of(X[keep], X_test, y[keep], y_test, classes)
        about = {**where.pop("provenance", {}), "left out": left_out}
        where["provenance"] = about
        probes: list[Probe] = []
        each = 1 + SHUFFLES
        with stage("Fitting the probe", each * len(grids), progress, cancel) as tell:
            for number, Cs in enumerate(grids):

                def within(shuffle: int | None = None, start: int = each * number) -> None:
                    tell(None if shuffle is None else start + 1 + shuffle)

                probes.append(_fitted(cloud, Cs, seed, where, within))
                tell(each * len(probes))
        return tuple(probes)


def count_right(
    train: Float[Tensor, "train d"],
    test: Float[Tensor, "test d"],
    labels: Sequence[object],
    test_labels: Sequence[object],
    *,
    C: float,
    first: Mask = None,
    sinks: Mask = None,
) -> int:
    """How many held-out labels a probe of that C reads: `fit` without its clouds and controls, ten times as fast.

    Raises:
        TooFewPrompts: as `fit`.
    """
    from threadpoolctl import threadpool_limits

    classes = tuple(str(c) for c in _ordered(labels))
    y, y_test = (np.array([classes.index(str(v)) for v in column]) for column in (labels, test_labels))
    keep, _ = selected(first, sinks, y, classes, {})
    with threadpool_limits(1, user_api="blas"):
        inputs = _inputs(train.double().numpy()[keep], test.double().numpy())
        weights, bias = logistic(inputs.train, y[keep], C, len(classes))
    return int((np.argmax(inputs.test @ weights.T + bias, 1) == y_test).sum())


@dataclass(frozen=True)
class _Cloud:
    """The training vectors in use and what is estimated from them, all from the same rows; every held-out vector."""

    X: np.ndarray
    y: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    inputs: "_Inputs"
    means: np.ndarray
    total: np.ndarray
    within: np.ndarray

    @classmethod
    def of(
        cls, X: np.ndarray, X_test: np.ndarray, y: np.ndarray, y_test: np.ndarray, classes: tuple[str, ...]
    ) -> "_Cloud":
        means = np.stack([X[y == k].mean(0) for k in range(len(classes))])
        total, within = (_ledoit_wolf(rows) for rows in (X - X.mean(0), X - means[y]))
        return cls(X, y, y_test, classes, _inputs(X, X_test), means, total, within)


class _Inputs(NamedTuple):
    """Standardised activations in `basis`: x = shift + spread * (basis^T r)."""

    train: np.ndarray
    test: np.ndarray
    basis: np.ndarray
    shift: np.ndarray
    spread: np.ndarray


def _inputs(X: np.ndarray, X_test: np.ndarray) -> _Inputs:
    shift, spread = X.mean(0), X.std(0)
    varies = spread > 1e-12 * max(1.0, float(np.abs(X).max(initial=0)))  # by more than rounding
    spread = np.where(varies, spread, 1.0)
    Z, Z_test = (varies * (half - shift) / spread for half in (X, X_test))
    # an L2-penalised fit lies in the span of its rows: n coordinates say as much as d
    _, sizes, basis = np.linalg.svd(Z, full_matrices=False)
    basis = basis[sizes > 1e-12 * sizes[0]] if sizes[0] > 0 else basis[:1]
    return _Inputs(Z @ basis.T, Z_test @ basis.T, basis, shift, spread)


def fit_halves(
    x: Float[Tensor, "prompt d"],
    data: PromptSet,
    *,
    label: str,
    first: Mask = None,
    sinks: Mask = None,
    seed: int = 0,
    Cs: Sequence[float] = CS,
    progress: Progress = None,
    cancel: Cancel = None,
    **where: Any,
) -> Probe:
    """A probe from the vectors of all the prompts: half of them, by `PromptSet.split`, fit it and the others test it.

    first, sinks: of all the prompts. `first` is that of the position, where the prompts name it, unless given.
    """
    numbered = replace(data, labels={**data.labels, _ROW: tuple(range(len(data)))})
    train, test = halves(numbered, label=label, held_out=0.5, seed=seed)
    seen, unseen = (torch.tensor(half.labels[_ROW]) for half in (train, test))
    if first is None and where.get("position") in data.positions:
        first = [at == 0 for at in data.at(where["position"])]
    masks = {name: None if m is None else torch.as_tensor(m)[seen] for name, m in (("first", first), ("sinks", sinks))}
    how: dict[str, Any] = {"seed": seed, "Cs": Cs, "progress": progress, "cancel": cancel, **masks}
    return fit(x[seen], x[unseen], train.label(label), test.label(label), **how, label=label, **where)


def _fitted(cloud: _Cloud, Cs: Sequence[float], seed: int, where: dict[str, Any], tell: Tell) -> Probe:
    (R, R_test, basis, shift, spread), n = cloud.inputs, len(cloud.classes)
    chosen = choose(R, cloud.y, Cs, n, seed=seed, tell=tell)
    weights, bias = logistic(R, cloud.y, chosen.C, n)
    right = int((np.argmax(R_test @ weights.T + bias, 1) == cloud.y_test).sum())
    raw = (weights @ basis) / spread
    bias = bias - raw @ shift
    about = {**where["provenance"], "C tried": list(chosen.tried)} | (
        {} if chosen.edge is None else {EDGE: chosen.edge}
    )
    return Probe(
        classes=cloud.classes,
        weights=torch.from_numpy(raw),
        bias=torch.from_numpy(bias),
        C=chosen.C,
        accuracy=right / len(cloud.y_test),
        interval=wilson(right, len(cloud.y_test)),
        control=shuffled_accuracy(R, R_test, cloud.y, cloud.y_test, Cs, n, seed=seed, tell=tell),
        counts=tuple(int((cloud.y == k).sum()) for k in range(n)),
        held_out=len(cloud.y_test),
        mean=torch.from_numpy(cloud.X.mean(0)),
        class_means=torch.from_numpy(cloud.means),
        covariance=torch.from_numpy(cloud.total),
        within=torch.from_numpy(cloud.within),
        log_odds=_percentiles(cloud.X @ raw.T + bias, cloud.y, n),
        **({"head": None} | where | {"provenance": about}),
    )


def _ledoit_wolf(rows: np.ndarray) -> np.ndarray:
    from sklearn.covariance import ledoit_wolf

    shrunk, _ = ledoit_wolf(rows, assume_centered=True)
    return np.asarray(shrunk)


def _percentiles(scores: np.ndarray, y: np.ndarray, classes: int) -> Float[Tensor, "classes classes 101"]:
    table = np.zeros((classes, classes, 101))
    for k in range(classes):
        own = scores[y == k]
        table[k] = np.percentile(own[:, [k]] - own, range(101), axis=0).T
    return torch.from_numpy(table)


def _ordered(labels: Sequence[object]) -> list[object]:
    try:
        return sorted(set(labels))  # type: ignore[type-var]
    except TypeError:
        return sorted(set(labels), key=str)
