"""DAS in one dimension: the direction whose exchange between a prompt and its partner moves the answer most, found by gradient.

Geiger et al., 2023, Finding Alignments Between Interpretable Causal Variables and Distributed Neural Representations
(arXiv:2303.02536).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.gradients import gradients
from residscope.engine.model import Model
from residscope.engine.protocols import At, Edit
from residscope.errors import BadEdit, MissingLabel
from residscope.methods._lib.activations import recorded
from residscope.methods._lib.pairs import check_aligned, partners
from residscope.metrics import logit_diff
from residscope.model.prompts import PromptSet, require_set
from residscope.model.sites import Site, SiteTable
from residscope.probes.concept_edit import To, of
from residscope.probes.concepts import SetConcept
from residscope.probes.probe import Probe
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Line


@dataclass(frozen=True, eq=False, repr=False)
class Das(Report):
    """unit: the direction found. effect: the mean logit difference under the exchange, step by step, in logits. probe: what its
    site, position and class means are taken from."""

    kind: ClassVar[str] = "report:das"
    main: ClassVar[str] = "course"
    unit: Float[Tensor, "d"]
    effect: tuple[float, ...]
    probe: Probe
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def course(self) -> Result:
        """The effect over the steps, in logits."""
        name = "mean logit difference under the exchange"
        return Result(torch.tensor(self.effect), ("step",), name=name, unit="logits", provenance=self.provenance)

    def view(self) -> Curve:
        line = Line("logit difference", list(self.effect))
        where = f"{self.probe.label} at {self.probe.site}, {self.probe.position}"
        return Curve(
            list(range(len(self.effect))), [line], title=f"DAS of {where}: what is trained", x_title="step",
            y_title="mean logit difference under the exchange", unit="logits",
        )  # fmt: skip

    def edit(self, to: To = "other", *, pos: int | Sequence[int] | None = None) -> SetConcept:
        """x + u (m[to] - u . x): the coordinate along the direction set to the wanted class's mean; `to` as in `rs.lrqp`."""
        probe, u = self.probe, self.unit[None]
        shift = ((probe.class_means - probe.mean) @ u.T) @ u
        return SetConcept(
            **of(probe, to, pos), method="das", read=u, write=u, mean=probe.mean, shift=shift,
            weights=probe.weights, bias=probe.bias,
        )  # fmt: skip


@method("das", title="Distributed alignment search", group="probes")
def das(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    probe: Annotated[Probe, fields.probe()],
    *,
    steps: Annotated[int, fields.count(low=1, high=2000)] = 30,
    batch: Annotated[int, fields.count(low=1, high=256)] = 8,
    rate: Annotated[float, fields.number(over=0)] = 0.1,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Das:
    """Train a unit vector u at the probe's site and position so that the exchange

        x' = x + u (u . (x_partner - x))

    lowers logit(right) - logit(wrong), with x_partner the corrupted partner's activation. Starts from the difference of class
    means; Adam, on the sphere. Its gradient is sum_i (g_i . u) d_i + (d_i . u) g_i, d = x_partner - x, g the readout's.

        das(model, train, probe).edit("other")

    Raises:
        MissingLabel: no partners or no answers. UnalignedPrompts: a partner of another length, whose token there is another word.
        BadEdit: a probe of one head. QuantisedModel, UnknownPosition. Cancelled: with the direction so far as its `partial`.
    """
    model.require_exact_weights("gradients")
    require_set(data)
    if data.corrupted is None or data.answers is None:
        raise MissingLabel("DAS needs partners and answers", fix="such as those of rs.tasks.ioi")
    if probe.head is not None:
        raise BadEdit(
            "DAS acts on whole vectors", received=f"{probe.site} head {probe.head}", allowed="a site of the stream"
        )
    check_aligned(model.batch(data).lengths, model.batch(partners(data)).lengths)
    at = (probe.site, probe.position)
    own, other = (
        recorded(model, half, [at[0]], [at[1]], what=f"Recording the {name}", progress=progress, cancel=cancel)
        .vectors[at].double()
        for name, half in (("prompts", data), ("partners", partners(data)))
    )  # fmt: skip
    site, where = model.sites.canonical(probe.site), data.at(probe.position)
    u = probe.class_means[0] - probe.class_means[1]
    u = (u / u.norm()).requires_grad_()
    adam = torch.optim.Adam([u], lr=rate / len(u) ** 0.5)
    drawn = torch.Generator().manual_seed(seed)
    about = {**model.provenance, "method": "das", "data": data.name, "steps": steps, "rate": rate, "seed": seed}
    effect: list[float] = []

    def so_far() -> Das | None:
        return Das(u.detach().clone(), tuple(effect), probe, about) if effect else None

    with stage("Turning the direction", steps, progress, cancel, partial=so_far) as tell:
        for step in range(steps):
            rows = torch.randperm(len(data), generator=drawn)[:batch].tolist()
            part, d = data.subset(rows), (other - own)[rows]
            unit = u.detach() / u.detach().norm()
            put = _Put(site, own[rows] + (d @ unit)[:, None] * unit, [where[row] for row in rows])
            readout = _Kept()
            _, grads = gradients(model, part, readout, [site], edits=[put])
            g = grads[site][torch.arange(len(rows)), put.where].double().cpu()
            slope = ((g @ unit)[:, None] * d + (d @ unit)[:, None] * g).mean(0)
            u.grad = slope - (slope @ unit) * unit  # along the sphere
            adam.step()
            with torch.no_grad():
                u /= u.norm()
            effect.append(readout.mean)
            tell(step + 1)
    return Das(u.detach().clone(), tuple(effect), probe, about)


class _Kept:
    """The prompts' own logit difference, its mean kept."""

    sites: tuple[str, ...] = ("logits",)
    mean = float("nan")

    def __call__(self, recording: Any) -> Float[Tensor, "batch"]:
        diff = logit_diff()(recording)
        self.mean = float(diff.detach().mean())
        return diff


@dataclass(frozen=True, eq=False)
class _Put(Edit):
    """One vector for each prompt, put at one token of each."""

    site: Site
    new: Float[Tensor, "prompt d"]
    where: list[int]

    def places(self, table: SiteTable) -> list[Site]:
        return [table.canonical(self.site)]

    def apply(self, value: Tensor, at: At) -> Tensor:
        exchanged = value.clone()
        exchanged[torch.arange(len(self.where)), self.where] = self.new.to(value)
        return exchanged
