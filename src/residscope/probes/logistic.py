"""Multinomial logistic regression with scikit-learn, and how its C is found: by cross-validation over decades."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from residscope.progress import Tell

CS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
C_LEAST, C_MOST = 1e-8, 1e2
FOLDS, CONTROL_FOLDS, SHUFFLES = 5, 3, 5
WEAK, NEWTON = (
    1e-2,
    400,
)  # from this C on, and up to so many unknowns, Newton's few steps are cheaper than L-BFGS's many


class Chosen(NamedTuple):
    """The C with the least loss, those that were tried, and the end of the grid that it stands at ("upper", "lower"), if any."""

    C: float
    tried: tuple[float, ...]
    edge: str | None


def logistic(X: np.ndarray, y: np.ndarray, C: float, classes: int, tol: float = 1e-8) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of each class; two classes share their one normal, half each."""
    fitted = _regression(X, classes, C, tol).fit(X, y)
    if classes == 2:
        half, bias = fitted.coef_[0] / 2, fitted.intercept_[0] / 2
        return np.stack([-half, half]), np.array([-bias, bias])
    return fitted.coef_, fitted.intercept_


def choose(
    X: np.ndarray,
    y: np.ndarray,
    Cs: Sequence[float],
    classes: int,
    *,
    seed: int,
    folds: int = FOLDS,
    tell: Tell = lambda: None,
) -> Chosen:
    """The C of the least cross-validated log-loss, of equal ones the least.

    Where that is the first or the last of `Cs`, the grid goes on by decades in that direction, to `C_LEAST` or `C_MOST`. One C
    alone is taken as it is. tell: asked between fits whether to stop.
    """
    if len(Cs) == 1:
        return Chosen(float(Cs[0]), (float(Cs[0]),), None)
    path = _Path(X, y, classes, seed, folds, tell)
    losses = {float(C): path.loss(C) for C in sorted(Cs)}

    def best() -> float:
        return min(losses, key=lambda C: (losses[C], C))

    while best() == max(losses) and 10 * best() <= C_MOST * 1.001:
        losses[_decade(10 * best())] = path.loss(10 * best())
    while best() == min(losses) and best() / 10 >= C_LEAST * 0.999:
        losses[_decade(best() / 10)] = path.loss(best() / 10)
    edge = "upper" if best() == max(losses) else "lower" if best() == min(losses) else None
    return Chosen(best(), tuple(sorted(losses)), edge)


def shuffled_accuracy(
    X: np.ndarray,
    X_test: np.ndarray,
    y: np.ndarray,
    y_test: np.ndarray,
    Cs: Sequence[float],
    classes: int,
    *,
    seed: int,
    tell: Tell = lambda: None,
) -> float:
    """Mean held-out accuracy where training and held-out labels were dealt out again at random, C chosen for these labels."""
    drawn = np.random.default_rng(seed)
    shares = []
    for shuffle in range(SHUFFLES):
        tell(shuffle)
        dealt = drawn.permutation(np.concatenate([y, y_test]))
        a, b = dealt[: len(y)], dealt[len(y) :]
        if np.bincount(a, minlength=classes).min() < (1 if len(Cs) == 1 else 2):
            continue
        C = choose(X, a, Cs, classes, seed=seed, folds=CONTROL_FOLDS, tell=tell).C
        weights, bias = logistic(X, a, C, classes, tol=1e-6)
        shares.append(float((np.argmax(X_test @ weights.T + bias, 1) == b).mean()))
    return float(np.mean(shares)) if shares else float("nan")


class _Path:
    """Cross-validated log-loss along C, in nats a prompt; each fold's fit starts from the one before."""

    def __init__(self, X: np.ndarray, y: np.ndarray, classes: int, seed: int, folds: int, tell: Tell) -> None:
        from sklearn.model_selection import StratifiedKFold

        split = StratifiedKFold(min(folds, int(np.bincount(y).min())), shuffle=True, random_state=seed)
        self.X, self.y, self.classes, self.tell = X, y, classes, tell
        self.folds = [
            (rows, out, _regression(X, classes, 1.0, 1e-6, warm_start=True)) for rows, out in split.split(X, y)
        ]

    def loss(self, C: float) -> float:
        total = 0.0
        for rows, out, fold in self.folds:
            self.tell()
            fold.set_params(C=C, solver=_solver(self.X, self.classes, C)).fit(self.X[rows], self.y[rows])
            scores = fold.decision_function(self.X[out])
            scores = np.stack([-scores / 2, scores / 2], 1) if scores.ndim == 1 else scores
            own = scores[np.arange(len(out)), self.y[out]]
            total += float((np.logaddexp.reduce(scores, 1) - own).sum())
        return total / len(self.y)


def _regression(X: np.ndarray, classes: int, C: float, tol: float, *, warm_start: bool = False) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, solver=_solver(X, classes, C), tol=tol, max_iter=5000, warm_start=warm_start)


def _solver(X: np.ndarray, classes: int, C: float) -> str:
    """L-BFGS needs few steps where the penalty is strong, hundreds (and stops short of the optimum) where it is weak."""
    unknowns = X.shape[1] * (1 if classes == 2 else classes)
    return "newton-cholesky" if C >= WEAK and unknowns <= NEWTON and X.any() else "lbfgs"


def _decade(C: float) -> float:
    """1e-6 rather than 1.0000000000000002e-06."""
    return float(f"{C:.6g}")
