"""TCAV: whether a metric rises along a concept's direction, prompt by prompt, beside the directions of random splits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.vectors import PLACES, one_vector
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, NoGradient, SweepCancelled, SweepInterrupted, UnknownPosition, ZeroDirection
from residscope.methods._lib.intervals import by_rank, middle, wilson
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site
from residscope.probes.logistic import CS, choose, logistic
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Histogram, Reference, Table, View

Position = int | str
FOLDS = 5
MOVED = ("position", "all")
LEAST = 5  # prompts of each kind
CHECKED = 10  # random splits whose accuracy is cross-validated


@dataclass(frozen=True, eq=False, repr=False)
class Tcav(Report):
    """How a metric moves along a concept's direction, to first order, and along directions fitted to random splits.

    derivatives: over prompt, the metric's units for one unit of length along `direction` (the concept activation vector). score:
    the share of prompts where that is positive; interval: Wilson's 95 %, over prompts. mean: of the derivatives; mean_interval:
    the middle 95 % of the means along vectors fitted to resampled examples. random: over control (score, mean) and draw, the same
    of vectors fitted to the same examples dealt out at random. p, p_mean: the share of the draws, with the concept in it, at
    least as far from 1/2, from 0. accuracy, random_accuracy: cross-validated, of the concept's probe and of the random splits'.
    """

    kind: ClassVar[str] = "report:tcav"
    main: ClassVar[str] = "derivatives"
    derivatives: Result
    random: Result
    direction: Direction
    score: float
    interval: tuple[float, float]
    mean: float
    mean_interval: tuple[float, float]
    p: float
    p_mean: float
    accuracy: float
    random_accuracy: float
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """The numbers beside those of random splits, the derivatives, and where the concept stands among the random means."""
        unit, (scores, means) = self.derivatives.unit, self.random.values
        rows: list[list[Any]] = [
            ["share of prompts that rise", self.score, float(scores.mean()), self.p],
            ["mean derivative", self.mean, float(means.mean()), self.p_mean],
            ["accuracy of the probe", self.accuracy, self.random_accuracy, None],
        ]
        low, high = self.interval
        note = f"95 % of the share over prompts: {low:.2f} to {high:.2f}; of the mean over examples: "
        note += " to ".join(f"{x:.3g}" for x in self.mean_interval)
        table = Table(["", "concept", f"mean of {len(means)} random splits", "p"], rows, title="TCAV", note=note)
        zero = [Reference(0.0)]
        shown = Histogram({"prompts": self.derivatives.values}, title=self.derivatives.name, unit=unit, references=zero)
        beside = Histogram(
            {"random splits": means}, title="Mean derivative", unit=unit, references=[Reference(self.mean, "concept")]
        )
        return Grid([table, shown, beside], columns=1, title=f"TCAV at {self.direction.place}")

    def __repr__(self) -> str:
        return (
            f"Tcav({self.direction.place}: {self.score:.2f} of {len(self.derivatives.values)} prompts rise, p {self.p:.2g}; "
            f"probe {self.accuracy:.2f} against {self.random_accuracy:.2f})"
        )


def _price(model: Model, *, concept_prompts: Prompt, other_prompts: Prompt, prompts: Prompt, **_: Any) -> float:
    """Tokens through the whole model: the examples once, the prompts with a backward pass."""
    each = [sum(model.batch(one).lengths) for one in (concept_prompts, other_prompts, prompts)]
    return float(each[0] + each[1] + 3 * each[2])


def _refuse(model: Model, *, site: str, head: int | None = None, **_: Any) -> None:
    model.require_exact_weights("gradients")
    one_vector(model, site, head)


@method("tcav", title="TCAV", group="attribution", tokens=_price, refuse=_refuse)
def tcav(
    model: Model,
    concept_prompts: Annotated[Prompt, fields.prompts(title="with the concept", begin="typed")],
    other_prompts: Annotated[Prompt, fields.prompts(title="without it", begin="typed")],
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    site: Annotated[str, fields.site(only=PLACES, usual="resid_post")],
    head: Annotated[int | None, fields.heads(single=True)] = None,
    position: Annotated[Position, fields.positions(single=True, named=True)] = -1,
    moved: Annotated[str, fields.choice(*MOVED)] = "position",
    draws: Annotated[int, fields.count(low=1, high=1000)] = 100,
    seed: Annotated[int, fields.seed()] = 0,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    batch: int = 16,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Tcav:
    """Whether the metric rises along a concept's direction: a probe's normal, and the metric's derivative along it.

        v = w / |w|, w the normal of a linear probe between the examples of the two kinds, towards the concept
        S(prompt) = dm/dx . v        score = share of prompts with S > 0

    x is the site's value at `position`, of the examples and of the prompts alike; moved="all": the prompts' derivative is of the
    same step at every position. The probe is logistic, on standardised inputs, its C cross-validated.

    The sign says little by itself: in a late layer all gradients are alike, and any vector scores 0 or 1. So the same is done
    for `draws` vectors fitted to the same examples with their labels dealt out at random; p is the concept's rank among them.
    accuracy says whether there is a direction to speak of. A derivative is first order: `rs.dose_response` takes the step.

        rs.tcav(model, french, english, prompts, rs.logit_diff(" le", " the"), site="resid_post.12").score

    Raises:
        BadSweep (under 5 examples of a kind), NoVectors, SiteError, UnknownPosition, ZeroDirection (the examples are the same),
        NoGradient, QuantisedModel, PromptError, SweepCancelled.

    Kim et al. 2018, Interpretability Beyond Feature Attribution (1711.11279), where the null is a t-test over random concepts.
    """
    if moved not in MOVED:
        raise BadSweep("no such move", received=repr(moved), allowed=" or ".join(map(repr, MOVED)))
    place = one_vector(model, site, head)
    where = {name: _where(model, given, position) for name, given in _sets(concept_prompts, other_prompts, prompts)}
    examples = []
    for name, given in (("concept", concept_prompts), ("others", other_prompts)):
        reading = _VectorsAt(place, where[name], head, (str(place),))
        what = "Recording the concept's examples" if name == "concept" else "Recording the other examples"
        plan = sweep(model, given, [()], reading, background, batch=batch)
        examples.append(plan.run(progress, cancel, what=what).values[0].double().cpu())
    if (least := min(map(len, examples))) < LEAST:
        raise BadSweep("a probe needs examples", received=f"{least} of one kind", allowed=f"{LEAST} or more of each")
    slopes = _slopes(model, prompts, metric, place, head, where["prompts"], moved, background, progress, cancel)
    with stage(
        "Fitting vectors", 2 * draws + 1, progress, cancel, cancelled=SweepCancelled, interrupted=SweepInterrupted
    ) as tell:
        fitted = _fit(torch.cat(examples).numpy(), len(examples[0]), draws, seed, tell)
    derivatives = slopes @ torch.from_numpy(fitted.vector)
    by_draw = slopes @ torch.from_numpy(fitted.random).T
    resampled = (slopes @ torch.from_numpy(fitted.resampled).T).mean(0)
    risen = int((derivatives > 0).sum())
    score, mean = risen / len(derivatives), float(derivatives.mean())
    scores, means = (by_draw > 0).double().mean(0), by_draw.mean(0)
    about = {
        **model.provenance, "method": "TCAV", "metric": label_of(metric, model), "site": str(place), "position": position,
        "moved": moved, "examples": [len(part) for part in examples], "C": fitted.C, "draws": draws, "seed": seed,
        "background": [str(edit) for edit in background], "no effect": 0.0,
    }  # fmt: skip
    if head is not None:
        about["head"] = head
    vector = torch.from_numpy(fitted.vector)
    name, exact = f"derivative of the {label_of(metric, model)} along the concept", "to first order, by one gradient"
    result: dict[str, Any] = {"unit": unit_of(metric), "provenance": about, "exact": exact}
    low, high = middle(resampled)
    return Tcav(
        Result(derivatives, ("prompt",), name=name, **result),
        Result(torch.stack([scores, means]), ("control", "draw"), {"control": ("score", "mean")}, name=name, **result),
        Direction(vector, vector, str(place), name="concept", head=head, provenance=about),
        score,
        wilson(risen, len(derivatives)),
        mean,
        (float(low), float(high)),
        by_rank(abs(score - 0.5), (scores - 0.5).abs()),
        by_rank(abs(mean), means.abs()),
        fitted.accuracy,
        fitted.random_accuracy,
        about,
    )


@dataclass(frozen=True)
class _VectorsAt:
    """A readout of one vector a prompt: [row, d]."""

    site: Site
    where: int | tuple[int, ...]
    head: int | None
    sites: tuple[str, ...]
    unit: ClassVar[str] = ""

    def __call__(self, recording: Any) -> Float[Tensor, "row d"]:
        rows = recording.batch.rows
        where = self.where if rows is None or isinstance(self.where, int) else [self.where[row] for row in rows]
        each = [where] * len(recording.lengths) if isinstance(where, int) else where
        index = [recording.index(at, row) for row, at in enumerate(each)]
        value = recording[self.site]
        vectors = value[torch.arange(len(index), device=value.device), torch.tensor(index, device=value.device)]
        return vectors if self.head is None else vectors[:, self.head]


def _slopes(
    model: Model,
    prompts: Prompt,
    metric: Readout,
    site: Site,
    head: int | None,
    where: int | tuple[int, ...],
    moved: str,
    background: Sequence[Edit],
    progress: Progress,
    cancel: Cancel,
) -> Float[Tensor, "prompt d"]:
    """dm/dx of each prompt: at its position, or summed over all."""
    plan = sweep(model, prompts, [()], metric, background)
    with stage("Taking gradients", 1, progress, cancel, cancelled=SweepCancelled, interrupted=SweepInterrupted) as tell:
        found = plan.gradients([str(site)])[site]
        tell(1)
    found = found if head is None else found[:, :, head]
    lengths = model.batch(prompts).lengths
    each = [where] * len(lengths) if isinstance(where, int) else where
    index = torch.tensor([at % n for at, n in zip(each, lengths, strict=True)], device=found.device)
    slopes = found.sum(1) if moved == "all" else found[torch.arange(len(index), device=found.device), index]
    if bool(slopes.isnan().any()):
        raise NoGradient("the metric has no gradient here", received=type(metric).__name__)
    return slopes.double().cpu()


class _Fitted(NamedTuple):
    vector: np.ndarray
    random: np.ndarray
    resampled: np.ndarray
    C: float
    accuracy: float
    random_accuracy: float


def _fit(X: np.ndarray, first: int, draws: int, seed: int, tell: Any) -> _Fitted:
    """The concept's unit vector, those of random labels and those of resampled examples; the first `first` rows have it."""
    from threadpoolctl import threadpool_limits

    y, drawn = (np.arange(len(X)) < first).astype(int), np.random.default_rng(seed)
    with threadpool_limits(1, user_api="blas"):
        R, back = _whitened(X)
        C = choose(R, y, CS, 2, seed=seed).C
        dealt = [drawn.permutation(y) for _ in range(draws)]
        vector, accuracy = _normal(R, y, C) @ back, _accuracy(R, y, C, seed)
        if not np.linalg.norm(vector) > 1e-12:
            raise ZeroDirection(
                "the examples with the concept and without it are the same", received=f"{len(X)} examples"
            )
        tell(1)
        random, shares, resampled = [], [], []
        for i, labels in enumerate(dealt):
            random.append(_normal(R, labels, C) @ back)
            if i < CHECKED:
                shares.append(_accuracy(R, labels, C, seed))
            tell(i + 2)
        for i in range(draws):
            rows = np.concatenate([drawn.choice(np.flatnonzero(y == k), int((y == k).sum())) for k in (0, 1)])
            resampled.append(_normal(R[rows], y[rows], C) @ back)
            tell(draws + i + 2)
    unit = [np.stack(vectors) / np.linalg.norm(vectors, axis=1)[:, None] for vectors in ([vector], random, resampled)]
    return _Fitted(unit[0][0], unit[1], unit[2], C, accuracy, float(np.mean(shares)))


def _whitened(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standardised rows in the basis of their span, and the matrix that takes a normal there to one of the raw vectors."""
    spread = X.std(0)
    varies = spread > 1e-12 * max(1.0, float(np.abs(X).max(initial=0)))
    inverse = np.where(varies, 1 / np.where(varies, spread, 1.0), 0.0)
    Z = (X - X.mean(0)) * inverse
    _, sizes, basis = np.linalg.svd(Z, full_matrices=False)
    basis = basis[sizes > 1e-12 * sizes[0]] if sizes[0] > 0 else basis[:1]
    return Z @ basis.T, basis * inverse


def _normal(R: np.ndarray, y: np.ndarray, C: float) -> np.ndarray:
    weights, _ = logistic(R, y, C, 2, tol=1e-6)
    normal: np.ndarray = weights[1] - weights[0]
    return normal


def _accuracy(R: np.ndarray, y: np.ndarray, C: float, seed: int) -> float:
    """The cross-validated share that the probe tells right."""
    from sklearn.model_selection import StratifiedKFold

    folds, right = StratifiedKFold(min(FOLDS, int(np.bincount(y).min())), shuffle=True, random_state=seed), 0
    for rows, out in folds.split(R, y):
        weights, bias = logistic(R[rows], y[rows], C, 2, tol=1e-6)
        right += int((np.argmax(R[out] @ weights.T + bias, 1) == y[out]).sum())
    return right / len(y)


def _sets(concept: Prompt, others: Prompt, prompts: Prompt) -> list[tuple[str, Prompt]]:
    return [("concept", concept), ("others", others), ("prompts", prompts)]


def _where(model: Model, prompts: Prompt, position: Position) -> int | tuple[int, ...]:
    """One position of every prompt, or one for each. Raises UnknownPosition."""
    if isinstance(position, str):
        if not isinstance(prompts, PromptSet):
            raise UnknownPosition("the prompts name no positions", received=repr(position), allowed="a number")
        return tuple(prompts.at(position))
    shortest = min(model.batch(prompts).lengths)
    if not -shortest <= position < shortest:
        raise UnknownPosition(
            f"the shortest prompt has {shortest} tokens", received=f"position {position}",
            allowed=f"{-shortest} to {shortest - 1}",
        )  # fmt: skip
    return position
