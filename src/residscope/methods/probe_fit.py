"""Fitting probes: multinomial logistic regression with scikit-learn, C cross-validated, beside a shuffled-label control."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import OneClass, TooFewPrompts, UnseenLabel
from residscope.methods.activations import activations
from residscope.methods.intervals import wilson
from residscope.methods.probe import Probe
from residscope.model.prompts import PromptSet

CS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS, SHUFFLES = 5, 5
_ROW = "row in the whole set"


def fit_probe(
    model: Model,
    data: PromptSet,
    *,
    site: str,
    position: str,
    label: str,
    head: int | None = None,
    held_out: PromptSet | float = 0.5,
    seed: int = 0,
    Cs: Sequence[float] = CS,
) -> Probe:
    """Fit a probe of a label at one site and named position, and test it on prompts it has not seen.

    Inputs are standardised on the training half and the scaling folded back, so that the probe reads raw activations. C is
    the one of `Cs` with the least cross-validated log-loss (5 folds, stratified). held_out: the share of each class kept for
    the test, or other prompts.

        probe = rs.fit_probe(model, rs.tasks.ioi(model), site="resid_mid.6", position="S2", label="order")

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel, UnknownPosition.
    """
    train, test = halves(data, label=label, held_out=held_out, seed=seed, positions=[position])
    seen, unseen = (activations(model, half, [site], [position], head=head)[site, position] for half in (train, test))
    about = {"model": model.hash, "model name": model.name, "data": data.name, "seed": seed}
    return fit(
        seen, unseen, train.label(label), test.label(label), first=_first(train, position), seed=seed, Cs=Cs,
        site=site, position=position, label=label, head=head, provenance=about,
    )  # fmt: skip


def halves(
    data: PromptSet, *, label: str, held_out: PromptSet | float, seed: int, positions: Sequence[str] = ()
) -> tuple[PromptSet, PromptSet]:
    """Training and held-out prompts, each with these positions.

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel. UnknownPosition: by the prompt's number in `data`.
    """
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
    first: Sequence[bool] | None = None,
    seed: int = 0,
    Cs: Sequence[float] = CS,
    **where: Any,
) -> Probe:
    """A probe from vectors and labels: what `fit_probe` does once the model has run. `first`: which stand at position 0."""
    classes = tuple(str(c) for c in _ordered(labels))
    y, y_test = (np.array([classes.index(str(v)) for v in column]) for column in (labels, test_labels))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # products this small lose tenfold to threads that wait for each other
        return _fit(train, test, classes, y, y_test, first, seed, Cs, where)


def count_right(
    train: Float[Tensor, "train d"],
    test: Float[Tensor, "test d"],
    labels: Sequence[object],
    test_labels: Sequence[object],
    *,
    C: float,
) -> int:
    """How many held-out labels a probe of that C reads: `fit` without its clouds and controls, ten times as fast."""
    from threadpoolctl import threadpool_limits

    classes = [str(c) for c in _ordered(labels)]
    y, y_test = (np.array([classes.index(str(v)) for v in column]) for column in (labels, test_labels))
    with threadpool_limits(1, user_api="blas"):
        inputs = _inputs(train.double().numpy(), test.double().numpy())
        weights, bias = _logistic(inputs.train, y, C, len(classes), tol=1e-6)
    return int((np.argmax(inputs.test @ weights.T + bias, 1) == y_test).sum())


class _Inputs(NamedTuple):
    """Standardised activations in `basis`: x = shift + spread * (basis^T r)."""

    train: np.ndarray
    test: np.ndarray
    basis: np.ndarray
    shift: np.ndarray
    spread: np.ndarray


def _inputs(X: np.ndarray, X_test: np.ndarray) -> _Inputs:
    shift, spread = X.mean(0), X.std(0)
    spread = np.where(spread > 1e-12 * max(1.0, float(np.abs(X).max(initial=0))), spread, 1.0)
    Z, Z_test = (X - shift) / spread, (X_test - shift) / spread
    # an L2-penalised fit lies in the span of its rows: n coordinates say as much as d
    _, _, basis = np.linalg.svd(Z, full_matrices=False)
    return _Inputs(Z @ basis.T, Z_test @ basis.T, basis, shift, spread)


def fit_halves(
    x: Float[Tensor, "prompt d"], data: PromptSet, *, label: str, seed: int = 0, Cs: Sequence[float] = CS, **where: Any
) -> Probe:
    """A probe from the vectors of all the prompts: half of them, by `PromptSet.split`, fit it and the others test it."""
    numbered = replace(data, labels={**data.labels, _ROW: tuple(range(len(data)))})
    train, test = halves(numbered, label=label, held_out=0.5, seed=seed)
    seen, unseen = (torch.tensor(half.labels[_ROW]) for half in (train, test))
    first = _first(train, where["position"]) if where.get("position") in data.positions else None
    return fit(
        x[seen], x[unseen], train.label(label), test.label(label), first=first, seed=seed, Cs=Cs, label=label, **where
    )


def _fit(
    train: Tensor,
    test: Tensor,
    classes: tuple[str, ...],
    y: np.ndarray,
    y_test: np.ndarray,
    first: Sequence[bool] | None,
    seed: int,
    Cs: Sequence[float],
    where: dict[str, Any],
) -> Probe:
    X, X_test = (half.double().numpy() for half in (train, test))
    R, R_test, basis, shift, spread = _inputs(X, X_test)
    C = Cs[0] if len(Cs) == 1 else min(Cs, key=lambda c: (_log_loss(R, y, c, len(classes), seed), c))
    weights, bias = _logistic(R, y, C, len(classes), tol=1e-6)
    right = int((np.argmax(R_test @ weights.T + bias, 1) == y_test).sum())
    raw = (weights @ basis) / spread
    bias = bias - raw @ shift
    keep = np.ones(len(X), dtype=bool) if first is None else ~np.array(first)
    means = np.stack([X[y == k].mean(0) for k in range(len(classes))])
    total, within = (
        (_ledoit_wolf(rows[keep]) for rows in (X - X[keep].mean(0), X - means[y])) if keep.sum() > 1 else (None, None)
    )
    if total is None or within is None:
        raise TooFewPrompts(
            "all training activations stand at position 0", fix="choose another position, or add prefixes"
        )
    return Probe(
        classes=classes,
        weights=torch.from_numpy(raw),
        bias=torch.from_numpy(bias),
        C=float(C),
        accuracy=right / len(y_test),
        interval=wilson(right, len(y_test)),
        control=_shuffled(R, R_test, y, y_test, C, len(classes), seed),
        counts=tuple(int((y == k).sum()) for k in range(len(classes))),
        held_out=len(y_test),
        mean=torch.from_numpy(X[keep].mean(0)),
        class_means=torch.from_numpy(means),
        covariance=torch.from_numpy(total),
        within=torch.from_numpy(within),
        log_odds=_percentiles(X @ raw.T + bias, y, len(classes)),
        **({"head": None, "provenance": {}} | where),
    )


def _logistic(X: np.ndarray, y: np.ndarray, C: float, classes: int, tol: float = 1e-4) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of each class; two classes share their one normal, half each."""
    from sklearn.linear_model import LogisticRegression

    found = LogisticRegression(C=C, max_iter=5000, tol=tol).fit(X, y)
    if classes == 2:
        half, bias = found.coef_[0] / 2, found.intercept_[0] / 2
        return np.stack([-half, half]), np.array([-bias, bias])
    return found.coef_, found.intercept_


def _log_loss(X: np.ndarray, y: np.ndarray, C: float, classes: int, seed: int) -> float:
    """Cross-validated log-loss, in nats a prompt."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(y).min())), shuffle=True, random_state=seed)
    losses = []
    for rows, out in folds.split(X, y):
        weights, bias = _logistic(X[rows], y[rows], C, classes)
        scores = torch.from_numpy(X[out] @ weights.T + bias)
        losses.append(float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(y[out]), reduction="sum")))
    return sum(losses) / len(y)


def _shuffled(
    X: np.ndarray, X_test: np.ndarray, y: np.ndarray, y_test: np.ndarray, C: float, classes: int, seed: int
) -> float:
    """Mean held-out accuracy where training and held-out labels were dealt out again at random."""
    drawn = np.random.default_rng(seed)
    shares = []
    for _ in range(SHUFFLES):
        dealt = drawn.permutation(np.concatenate([y, y_test]))
        a, b = dealt[: len(y)], dealt[len(y) :]
        if len(set(a.tolist())) < classes:
            continue
        weights, bias = _logistic(X, a, C, classes)
        shares.append(float((np.argmax(X_test @ weights.T + bias, 1) == b).mean()))
    return float(np.mean(shares)) if shares else float("nan")


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


def _first(data: PromptSet, position: str) -> list[bool]:
    return [at == 0 for at in data.at(position)]
