"""What steering along a direction does to what the model says next, dose by dose, beside random directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.corpus.chunks import at_head
from residscope.corpus.moments import Moments
from residscope.corpus.vectors import check_direction
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import sweep
from residscope.engine.protocols import LogitReadout
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept, streams
from residscope.errors import PromptError
from residscope.methods._lib.intervals import bootstrap, by_rank
from residscope.methods._lib.own_tokens import CommonTokens, own_tokens, to_stream
from residscope.methods._lib.random_like import equal_variance, step_of
from residscope.methods._lib.shifts import shift
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Reference

DOSES = (-8.0, -4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)
OWN = 5  # tokens at each end


@dataclass(frozen=True, eq=False, repr=False)
class DoseResponse(Report):
    """The effect of each dose: KL from the unedited prediction, and how far the direction's own tokens move.

    kl: over dose, in nats, the mean over prompts with its bootstrap interval. own: the mean change of the logits of the tokens it
    raises most less those it lowers most (or of the metric given), likewise; None where it has no tokens. random_kl, random_own:
    over draw and dose, each random direction with the tokens of its own. slope: own change for each sd, least squares through
    zero; rises: the rank correlation of dose and own change.
    """

    kind: ClassVar[str] = "report:dose_response"
    main: ClassVar[str] = "kl"
    direction: str
    of: str
    kl: Result
    own: Result | None
    random_kl: Result
    random_own: Result | None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slope(self) -> float | None:
        return None if self.own is None else float(_slopes(self.own.values[None], self._doses)[0])

    @property
    def p(self) -> float | None:
        """Of the slope, by rank among the random directions'."""
        if self.own is None or self.random_own is None or self.slope is None:
            return None
        return by_rank(self.slope, _slopes(self.random_own.values, self._doses))

    @property
    def rises(self) -> float | None:
        return None if self.own is None else _rank_correlation(self._doses, self.own.values)

    @property
    def _doses(self) -> Tensor:
        return torch.tensor(self.kl.coords["dose"], dtype=torch.float64)

    def curves(self) -> list[Curve]:
        """Own tokens (where there are any) and KL over the dose, each with the random directions' band."""
        shown = [] if self.own is None else [(self.own, self.random_own, self.of)]
        shown.append((self.kl, self.random_kl, "KL from the unedited prediction"))
        curves = []
        for own, others, title in shown:
            assert others is not None
            ends = torch.quantile(others.values.double(), torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
            lines = [
                Line(self.direction, own.values, low=own.low, high=own.high),
                Line("random directions", others.values.mean(0), low=ends[0], high=ends[1], dashed=True),
            ]
            curves.append(
                Curve(
                    list(own.coords["dose"]),
                    lines,
                    title=title,
                    x_title="dose, in standard deviations",
                    y_title="change" if own is self.own else "KL",
                    unit=own.unit,
                    references=[Reference(0.0, axis="y")],
                    note=f"bands: 95 % over {self.provenance['prompts']} prompts; over {len(others.values)} random directions",
                )
            )
        return curves

    def view(self) -> Grid:
        return Grid(self.curves(), columns=2, title=f"Steering along {self.direction}")

    def __repr__(self) -> str:
        effect = "no tokens of its own"
        if self.own is not None:
            effect = f"{self.slope:.3g} {self.own.unit or 'units'} per sd, p {self.p:.3f}"
        return f"DoseResponse({self.direction}: {effect})"


@dataclass(eq=False)
class _Shift:
    """Of each row: KL, then the change of the logits of `ids`, or of a metric."""

    base: Float[Tensor, "prompt d_vocab"]
    ids: tuple[int, ...]
    metric: LogitReadout | None
    sites: tuple[str, ...] = ("logits",)
    pos: int = -1

    def columns(self, model: Any, batch: Batch) -> None:
        return None

    def of(self, logits: Tensor, ids: tuple[int, ...] | None, model: Any, batch: Batch) -> Float[Tensor, "row column"]:
        base = self.base[list(batch.rows or range(len(batch)))]
        d, _, kl = shift(logits.float(), base)
        if self.metric is not None:
            own = self.metric.of(logits, None, model, batch) - self.metric.of(base, None, model, batch)
            return torch.cat([kl[:, None], own[:, None].to(kl)], 1)
        return torch.cat([kl[:, None], d[:, list(self.ids)]], 1)

    def __call__(self, recording: Recording) -> Tensor:
        return self.of(recording.logits_at(-1), None, recording.model, recording.batch)


@method("dose-response", title="Dose and response", group="evidence")
def dose_response(
    model: Model,
    direction: Annotated[Direction, fields.direction()],
    prompts: Annotated[Prompt, fields.prompts()],
    *,
    site: Annotated[str | None, fields.site()] = None,
    doses: Sequence[float] = DOSES,
    metric: Annotated[LogitReadout | None, fields.metric()] = None,
    random: Annotated[int, fields.count(low=3, high=999)] = 39,
    pos: int | None = -1,
    moments: Moments | None = None,
    seed: Annotated[int, fields.seed()] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> DoseResponse:
    """Move the coordinate by so many standard deviations at each prompt's last token, and read what is predicted next.

        x + dose step,    step = sd(read . x) / (read . write) write

    As many steps of the same length along `random` directions are the null: drawn so that the data varies along them as much
    (`methods.random_like.equal_variance`), each judged by its own tokens. Through `rs.sweep`: exact. prompts: held out, for what
    is claimed to be true of more than the fit's text. moments: of the site's vectors over a text; of the prompts' own tokens
    unless given. pos: None steers everywhere. metric: instead of the direction's own tokens.

        rs.dose_response(model, pca[7], prompts).view()

    Raises:
        ZeroDirection: the text does not vary along it. NoVectors, UnknownHead, PromptError, SweepCancelled.
    """
    place = site or direction.site
    check_direction(model, direction, place)
    batch = model.batch(prompts)
    if metric is not None and getattr(metric, "pos", None) != -1:
        raise PromptError(
            "a dose-response is read at each prompt's end, and the metric elsewhere",
            received=f"pos={getattr(metric, 'pos', None)}",
            allowed="a metric of the logits at pos=-1",
        )
    moments = moments or prompt_moments(model, batch, place, direction.head)
    step = step_of(direction, moments)
    drawn, tilt = equal_variance(step, moments, random, seed=seed)
    moves = torch.cat([step[None], drawn * step.norm()])
    doses = tuple(sorted({float(dose) for dose in doses} | {0.0}))
    tokens = None if metric is not None else _tokens(model, direction, moves)
    ids = tuple(sorted({i for pair in tokens or () for side in pair for i in side}))
    where: dict[str, Any] = {} if direction.head is None else {"head": direction.head}
    where |= {} if pos is None else {"pos": pos}
    cells = [
        edits.steer(place, move, dose * float(move.norm()), **where)
        for move in moves for dose in doses
    ]  # fmt: skip
    base = model.run(batch).logits_at(-1).float()
    plan = sweep(model, batch, cells, _Shift(base, ids, metric), memory=memory)
    responses = (
        plan.run(progress, cancel, what="Steering").values.double().reshape(len(moves), len(doses), len(batch), -1)
    )
    about = {
        **model.provenance, "method": "dose_response", "site": place, "prompts": len(batch), "seed": seed,
        "step": float(step.norm()), "tilt": round(tilt, 3), "random directions": random,
        "steered": "everywhere" if pos is None else pos,
        "sd along random directions": float((drawn @ moments.covariance.cpu() @ drawn.T).diagonal().sqrt().median()),
    }  # fmt: skip
    name, unit = ("own tokens", "logits") if metric is None else (label_of(metric, model), unit_of(metric))
    of = name if metric is not None else "Its own tokens: those it raises less those it lowers"
    kl = responses[..., 0]
    own = responses[..., 1] if metric is not None else _own(responses[..., 1:], tokens, ids)
    return DoseResponse(
        direction.name, of, _mean(kl[0], doses, "KL", "nats", seed, about),
        None if own is None else _mean(own[0], doses, name, unit, seed, about),
        _draws(kl[1:], doses, "KL", "nats", about), None if own is None else _draws(own[1:], doses, name, unit, about), about,
    )  # fmt: skip


def prompt_moments(model: Model, batch: Batch, site: str, head: int | None) -> Moments:
    """The moments of a site's vectors over prompts, first tokens and attention sinks left out (`engine.sinks.kept`)."""
    record = model.run(batch, [site, *streams(model, site)])
    x = at_head(record, model.sites.parse(site), head)
    moments = Moments.empty(x.shape[-1])
    moments.add(x[kept(record, site).to(x.device)].cpu())
    return moments


def _tokens(
    model: Model, direction: Direction, moves: Float[Tensor, "n d"]
) -> list[tuple[list[int], list[int]]] | None:
    """The own tokens of each move; None where the site has none."""
    onward = to_stream(model, direction)
    if onward is None or own_tokens(model, direction, k=1) is None:
        return None
    common = CommonTokens(model, after_norm=direction.site == "final_norm")
    return common.of(moves.to(onward) @ onward, OWN)


def _own(
    changes: Float[Tensor, "move dose prompt id"], tokens: list[tuple[list[int], list[int]]] | None, ids: Sequence[int]
) -> Float[Tensor, "move dose prompt"] | None:
    if tokens is None:
        return None
    column = {token: i for i, token in enumerate(ids)}
    return torch.stack(
        [
            changes[move][..., [column[i] for i in top]].mean(-1)
            - changes[move][..., [column[i] for i in bottom]].mean(-1)
            for move, (top, bottom) in enumerate(tokens)
        ]
    )


def _mean(
    values: Float[Tensor, "dose prompt"],
    doses: Sequence[float],
    name: str,
    unit: str,
    seed: int,
    about: Mapping[str, Any],
) -> Result:
    low, high = bootstrap(values.T, seed=seed)
    mean = values.mean(1)
    return Result(
        mean, ("dose",), {"dose": doses}, name=name, unit=unit, provenance=about,
        low=torch.minimum(low, mean), high=torch.maximum(high, mean),
    )  # fmt: skip


def _draws(
    values: Float[Tensor, "draw dose prompt"], doses: Sequence[float], name: str, unit: str, about: Mapping[str, Any]
) -> Result:
    name = f"{name}, random"
    return Result(values.mean(2), ("draw", "dose"), {"dose": doses}, name=name, unit=unit, provenance=about)


def _slopes(values: Float[Tensor, "n dose"], doses: Float[Tensor, "dose"]) -> Float[Tensor, "n"]:
    return values.double() @ doses / doses.pow(2).sum()


def _rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's; ties are broken by order, which no effect of different doses has but by accident."""
    ranks = torch.stack([x.argsort().argsort().double() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])
