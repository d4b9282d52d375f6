"""What it costs the model to lose a direction: held at its mean everywhere, beside random directions of equal variance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.corpus.moments import Moments
from residscope.corpus.vectors import check_direction
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import sweep
from residscope.engine.recording import Recording
from residscope.errors import PromptError
from residscope.methods._lib.intervals import bootstrap, by_rank
from residscope.methods._lib.random_like import equal_variance, step_of
from residscope.methods._lib.shifts import shift
from residscope.methods.evidence.dose_response import prompt_moments
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Histogram, Reference

MEASURES = ("KL", "loss")


@dataclass(frozen=True, eq=False, repr=False)
class RemovalCost(Report):
    """KL(unedited || without the direction) and the rise of the next-token loss, in nats a token.

    cost: over measure ("KL", "loss"), with bootstrap intervals over prompts. random: over measure and draw. p: by rank.
    """

    kind: ClassVar[str] = "report:removal_cost"
    main: ClassVar[str] = "cost"
    direction: str
    cost: Result
    random: Result
    p: Mapping[str, float]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def matched(self) -> float:
        """The variance along the random directions (their median) as a share of that along this one: near 1, unless nothing
        at right angles to it varies as much."""
        return float(self.provenance["variance along random directions"]) / float(self.provenance["variance along it"])

    def histogram(self, measure: str = "KL") -> Histogram:
        """The random directions' costs, this one's marked."""
        own, others = float(self.cost.select(measure=measure).values), self.random.select(measure=measure).values
        title = {"KL": "Change of the predictions without it", "loss": "Rise of the loss without it"}[measure]
        return Histogram(
            {"random directions": others}, bins=20, title=title, x_title="per token", unit="nats",
            references=[Reference(own, self.direction)], note=f"p = {self.p[measure]:.3f}",
        )  # fmt: skip

    def view(self) -> Grid:
        return Grid([self.histogram(m) for m in MEASURES], columns=2, title=f"The model without {self.direction}")

    def __repr__(self) -> str:
        kl, loss = self.cost.values.tolist()
        return f"RemovalCost({self.direction}: KL {kl:.3g}, loss {loss:+.3g} nats a token, p {self.p['KL']:.3f})"


@dataclass(eq=False)
class _Cost:
    """KL and rise of the loss at each position but the last."""

    base: Float[Tensor, "prompt pos d_vocab"]
    sites: tuple[str, ...] = ("final_norm",)

    def __call__(self, recording: Recording) -> Float[Tensor, "row pos measure"]:
        rows = recording.batch.rows or range(len(recording.batch))
        costs = []
        for row, x, ids in zip(rows, recording["final_norm"], recording.tokens, strict=True):
            with torch.no_grad():
                logits = recording.unembed(x[:-1]).float()
            d, normaliser, kl = shift(logits, self.base[row])
            rise = normaliser - d.gather(1, ids[1:, None])[:, 0]
            costs.append(torch.stack([kl, rise], -1))
        return torch.stack(costs)


@method("removal-cost", title="Cost of removal", group="evidence")
def removal_cost(
    model: Model,
    direction: Annotated[Direction, fields.direction()],
    prompts: Annotated[Prompt, fields.prompts()],
    *,
    site: Annotated[str | None, fields.site()] = None,
    to: Annotated[str, fields.choice("mean", "zero")] = "mean",
    random: Annotated[int, fields.count(low=3, high=999)] = 39,
    moments: Moments | None = None,
    seed: Annotated[int, fields.seed()] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> RemovalCost:
    """Project a direction out at its site, at all positions but the first, and read every prediction.

        x - (read . x - c) / (read . write) write,    c = read . mean ("mean") or 0 ("zero")

    `to="mean"` takes away all that varies along it and leaves the stream where its data lies. The first position stays as it is:
    every fit leaves it out too, and in many models it holds an attention sink. The null: as much variance taken away along
    `random` other directions (`methods.random_like.equal_variance`). Prompts must be of one length; hold them out.

        rs.removal_cost(model, pca[7], prompts).view()

    Raises:
        PromptError: lengths differ, or are under 3. ZeroDirection: the text does not vary along it. NoVectors, UnknownHead,
        SweepCancelled.
    """
    place = site or direction.site
    check_direction(model, direction, place)
    batch = model.batch(prompts)
    length = batch.ids.shape[1]
    if len({*batch.lengths}) > 1 or length < 3:
        raise PromptError(
            "the cost is a mean over the tokens of prompts of one length",
            received=f"lengths {min(batch.lengths)} to {max(batch.lengths)}",
            allowed="one length, 3 tokens or more",
        )
    if to not in ("mean", "zero"):
        raise PromptError("no such place to hold a coordinate", received=repr(to), allowed='"mean" or "zero"')
    moments = moments or prompt_moments(model, batch, place, direction.head)
    step = step_of(direction, moments)
    drawn, tilt = equal_variance(step, moments, random, seed=seed)
    where: dict[str, Any] = {"pos": range(1, length)}
    where |= {} if direction.head is None else {"head": direction.head}
    mean = moments.mean.cpu() if to == "mean" else torch.zeros_like(moments.mean.cpu())
    cells = [edits.clamp(place, direction, float(direction.read.double().cpu() @ mean), space="raw", **where)]
    cells += [edits.clamp(place, u, float(u @ mean), **where) for u in drawn]
    run = model.run(batch, ["final_norm"])
    with torch.no_grad():
        base = torch.stack([run.unembed(x[:-1]).float() for x in run["final_norm"]])
    plan = sweep(model, batch, cells, _Cost(base), memory=memory)
    each = plan.run(progress, cancel, what="Taking it away").values.double().mean(2)  # cell prompt measure
    about = {
        **model.provenance, "method": "removal_cost", "site": place, "prompts": len(batch), "seed": seed, "held at": to,
        "predictions": len(batch) * (length - 1), "random directions": random, "tilt": round(tilt, 3),
        "variance along it": float(step.norm()) ** 2,
        "variance along random directions": float((drawn @ moments.covariance.cpu() @ drawn.T).diagonal().median()),
    }  # fmt: skip
    low, high = bootstrap(each[0], seed=seed)
    cost, others = each[0].mean(0), each[1:].mean(1)
    coords = {"measure": MEASURES}
    low, high = torch.minimum(low, cost), torch.maximum(high, cost)
    p = {m: by_rank(float(cost[i]), others[:, i]) for i, m in enumerate(MEASURES)}
    return RemovalCost(
        direction.name, Result(cost, ("measure",), coords, name="cost", unit="nats", low=low, high=high, provenance=about),
        Result(others.T, ("measure", "draw"), coords, name="cost, random", unit="nats", provenance=about), p, about,
    )  # fmt: skip
