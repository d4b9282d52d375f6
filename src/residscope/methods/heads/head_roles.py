"""Which heads move the name, and which tell them where to look: the roles of Wang et al. (2022, arXiv:2211.00593), measured.

Nothing is taken over from the paper but the questions: the same are put to every head of any model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.directions import logit_diff as answer_direction
from residscope.engine.layout import weight_in_out
from residscope.engine.model import Model
from residscope.engine.planner import ValuesAt, sweep
from residscope.engine.protocols import Edit
from residscope.errors import MissingLabel
from residscope.methods._lib.answers import answer_ids
from residscope.methods._lib.by_head import every_head, filled, stacked, there
from residscope.model.prompts import PromptSet, require_set
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Table

Head = tuple[int, int]
"""Layer and head, both counted from zero."""
LOOKED = ("IO", "S1", "S2")
SEES = 0.1  # the least mean attention that counts as looking
SHARE = 0.1  # of the largest effect: what is less is no role


@dataclass(frozen=True, eq=False, repr=False)
class HeadRoles(Report):
    """What each head does at the end of the prompt, and the heads that do most of it.

    direct[layer, head]: what the head itself adds to logit(right) - logit(wrong), in logits, the final norm's divisor as it
    is. knocked_out: the same with the name movers' output there set to its mean. attention[to, layer, head]: from END.
    patched, gap[layer, head]: the change of the logit difference, and of the name movers' attention to IO less that to S1, when
    the head's output at END comes from the corrupted partner (the other name at S2).

    name_movers: most direct effect among heads that look at IO (a mean attention of 0.1, and more than at S1 or S2).
    suppressors: most of those that look at S1 or S2, and so write against the name they see. negative: least, below zero, among
    those that look at IO. backups: look at IO and gain most direct effect in `knocked_out`. s_inhibition: below the last name
    mover, what they write moves the name movers' attention most (`gap` below zero), none of the others. What is under a tenth
    of the largest effect has no role, but for backups.
    """

    kind: ClassVar[str] = "report:head_roles"
    main: ClassVar[str] = "direct"
    direct: Result
    knocked_out: Result
    attention: Result
    patched: Result
    gap: Result
    name_movers: tuple[Head, ...]
    suppressors: tuple[Head, ...]
    negative: tuple[Head, ...]
    backups: tuple[Head, ...]
    s_inhibition: tuple[Head, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, tuple[Head, ...]]:
        return {
            "name movers": self.name_movers,
            "S suppressors": self.suppressors,
            "negative name movers": self.negative,
            "backup name movers": self.backups,
            "S-inhibition heads": self.s_inhibition,
        }

    def view(self) -> Grid:
        """The chosen heads with their numbers, and direct effect and patching as maps with the chosen heads framed."""
        columns = [
            "role",
            "head",
            "direct",
            "name movers out",
            "patched",
            "moves attention",
            *(f"END to {k}" for k in LOOKED),
        ]
        rows = [
            [
                role,
                f"{layer}.{head}",
                *(
                    round(float(x.values[layer, head]), 3)
                    for x in (self.direct, self.knocked_out, self.patched, self.gap)
                ),
                *(round(float(x), 3) for x in self.attention.values[:, layer, head]),
            ]
            for role, heads in self.groups.items()
            for layer, head in heads
        ]
        note = "direct, name movers out, patched: logits; moves attention: change of the name movers' END to IO less END to S1"
        return Grid(
            [
                Table(columns, rows, title="The heads", note=note),
                Grid(
                    [
                        self._map(self.direct, (*self.name_movers, *self.negative)),
                        self._map(self.gap, self.s_inhibition),
                    ]
                ),
            ],
            columns=1,
        )

    def _map(self, result: Result, marks: Sequence[Head]) -> HeatMap:
        layers, heads = result.values.shape
        return HeatMap(
            result.values,
            range(layers),
            range(heads),
            title=result.name,
            row_title="layer",
            column_title="head",
            unit=result.unit,
            marks=marks,
            bottom_up=True,
        )

    def __repr__(self) -> str:
        groups = (f"{role} {', '.join(f'{a}.{b}' for a, b in heads)}" for role, heads in self.groups.items())
        return f"HeadRoles({'; '.join(groups)})"


@method("head-roles", title="Roles of heads", group="heads")
def head_roles(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    each: Annotated[int, fields.count(low=1, high=50)] = 4,
    prompts: Annotated[int, fields.count(low=1, high=2000)] = 24,
    batch: int = 16,
    progress: Progress = None,
    cancel: Cancel = None,
) -> HeadRoles:
    """Direct effects, attention and patching at END of every head, over prompts with answers, partners, and IO, S1, S2, END.

        direct = z_head W_O . (gain * (W_U[right] - W_U[wrong])) / sigma

    each: how many heads of each role at most. prompts: patching's own number, of the lengths that most prompts have.

        rs.head_roles(model, rs.tasks.ioi(model, 32)).name_movers

    Raises:
        MissingLabel, UnknownPosition, QuantisedModel, UnalignedPrompts, SweepError, Cancelled.
    """
    require_set(data)
    if data.answers is None or data.corrupted is None:
        raise MissingLabel("roles need answers and corrupted partners", fix="such as those of rs.tasks.ioi")
    shared: dict[str, Any] = {"progress": progress, "cancel": cancel}
    attention, direct, z = _effects(model, data, (), batch, what="Direct effects", **shared)
    order, n = _ranked(direct), min(each, model.n_heads * model.n_layers)
    most = torch.where(attention.amax(0) >= SEES, attention.argmax(0), -1)  # which of IO, S1 and S2; -1: none of them
    enough = SHARE * float(direct.abs().max())
    movers = [h for h in order if direct[h] >= enough and most[h] == 0][:n]
    suppressors = [h for h in order if direct[h] >= enough and most[h] > 0][:n]
    negative = [h for h in reversed(order) if direct[h] <= -enough and most[h] == 0][:n]
    _, without, _ = _effects(
        model, data, _knock_out(movers, z), batch, what="Direct effects without the name movers", **shared
    )
    gained, taken = without - direct, {*movers, *suppressors, *negative}
    backups = [h for h in _ranked(gained) if gained[h] > 0 and most[h] == 0 and h not in taken][:n]
    patched, gap = _patched(model, data, movers, prompts, **shared)
    below = max((layer for layer, _ in movers), default=0)
    taken |= {*backups}
    inhibit = [
        h for h in reversed(_ranked(gap)) if gap[h] <= SHARE * gap.min() < 0 and h[0] < below and h not in taken
    ][:n]
    about = {**model.provenance, "method": "head_roles", "data": data.name, "prompts": len(data)}

    def result(values: Tensor, name: str, unit: str = "logits") -> Result:
        dims, values = ("to", "layer", "head")[-values.ndim :], values.where(there(model), torch.nan)
        return Result(values, dims, {"to": LOOKED} if values.ndim == 3 else {}, name=name, unit=unit, provenance=about)

    return HeadRoles(
        direct=result(direct, "direct effect on the logit difference"),
        knocked_out=result(without, "direct effect without the name movers"),
        attention=result(attention, "attention from END", "share"),
        patched=result(patched, "change of the logit difference, head patched"),
        gap=result(gap, "change of the name movers' attention to IO less S1, head patched", "share"),
        name_movers=tuple(movers),
        suppressors=tuple(suppressors),
        negative=tuple(negative),
        backups=tuple(backups),
        s_inhibition=tuple(inhibit),
        provenance=about,
    )


def _knock_out(heads: Sequence[Head], z: Mapping[int, Float[Tensor, "head d_head"]]) -> tuple[Edit, ...]:
    """The heads' outputs at the end of the prompt set to their means there."""
    by_layer = {layer: [head for at, head in heads if at == layer] for layer, _ in heads}
    return tuple(edits.ablate(f"z.{layer}", to=z[layer], head=own, pos=-1) for layer, own in by_layer.items())


def _effects(
    model: Model, data: PromptSet, background: Sequence[Edit], batch: int, **watch: Any
) -> tuple[Float[Tensor, "to layer head"], Float[Tensor, "layer head"], dict[int, Tensor]]:
    """Means over the prompts: attention from END, direct effect, and z at END by layer."""
    assert data.answers is not None
    reads = torch.stack([answer_direction(model, *pair, before_cap=True).read for pair in data.answers])
    names = ["z", "pattern", *(["attn_post_scale"] if "attn_post_scale" in model.sites.names else [])]
    sites = ["final_scale", *(f"{name}.{layer}" for name in names for layer in range(model.n_layers))]
    at_end = ValuesAt(model, data, dict.fromkeys(sites, "END"))
    there = at_end.split(sweep(model, data, [()], at_end, background, batch=batch).run(**watch).values[0])
    keys, rows = torch.tensor([data.at(name) for name in LOOKED]), torch.arange(len(data))
    attention, direct, z = [], [], {}
    for layer in range(model.n_layers):
        pattern, own = there[f"pattern.{layer}"], there[f"z.{layer}"]
        read = reads.to(own) / there["final_scale"].to(own)
        direct.append(_direct(model, layer, own, read, there.get(f"attn_post_scale.{layer}")).mean(0).float().cpu())
        z[layer] = own.mean(0).float().cpu()
        attention.append(torch.stack([pattern[rows, :, to].mean(0).float().cpu() for to in keys]))
    return stacked(attention, 1, axis=1, fill=0.0), stacked(direct, fill=0.0), z


def _direct(
    model: Model, layer: int, z: Tensor, read: Float[Tensor, "prompt d_model"], post_scale: Tensor | None
) -> Float[Tensor, "prompt head"]:
    parts = model.layout.blocks[layer]
    if parts.attn_post_norm is not None and post_scale is not None:
        read = read * parts.attn_post_norm.gain.to(read) / post_scale.to(read)
    W_O = weight_in_out(parts.attn_proj).reshape(model.heads_at(layer).n_heads, -1, model.d_model).to(read)
    written = torch.einsum("phd,hdm,pm->ph", z, W_O, read)
    return written * model.layout.factors.residual


def _patched(
    model: Model,
    data: PromptSet,
    movers: Sequence[Head],
    prompts: int,
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """Mean change of the logit difference and of the movers' attention, each head's z at END taken from the corrupted partner."""
    assert data.corrupted is not None
    heads = every_head(model)
    total, n = torch.zeros(len(heads), 2), 0
    groups = of_one_length(model, data, prompts)  # prompts that end together part from the base in one token
    for number, rows in enumerate(groups, 1):
        part = data.subset(rows)
        assert part.corrupted is not None
        z = model.run(PromptSet(part.corrupted), ["z"])
        cells = [  # the recording knows where each partner ends
            edits.patch(f"z.{layer}", z, head=h, pos=-1) for layer, h in heads
        ]
        plan = sweep(model, part, cells, AnswerAndAttention(part, tuple(movers)))
        what = f"Patching heads, {number} of {len(groups)}"
        patched = plan.run(progress, cancel, what=what).values.float()
        total += (patched - plan.baseline().cpu()).sum(1)
        n += len(rows)
    return tuple(filled(model, heads, (total / n).T).nan_to_num(0.0))


def of_one_length(model: Model, data: PromptSet, prompts: int) -> list[list[int]]:
    """At most so many prompts, of the lengths most of them have."""
    by_length: dict[int, list[int]] = {}
    for row, length in enumerate(model.batch(data).lengths):
        by_length.setdefault(length, []).append(row)
    groups: list[list[int]] = []
    for rows in sorted(by_length.values(), key=len, reverse=True):
        if prompts > 0:
            groups.append(rows[:prompts])
            prompts -= len(groups[-1])
    return groups


def _ranked(values: Float[Tensor, "layer head"]) -> list[Head]:
    """Heads by their value, the largest first."""
    heads = values.shape[1]
    return [(i // heads, i % heads) for i in values.flatten().argsort(descending=True).tolist()]


@dataclass
class AnswerAndAttention:
    """A readout of two numbers a prompt: the logit difference, and the heads' mean attention from END to IO less that to S1."""

    data: PromptSet
    heads: tuple[Head, ...]
    sites: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        patterns = dict.fromkeys(f"pattern.{layer}" for layer, _ in self.heads)
        self.sites = ("final_norm", *patterns)

    def __call__(self, recording: Any) -> Float[Tensor, "batch 2"]:
        model = recording.model
        rows = list(range(len(recording.lengths)) if recording.batch.rows is None else recording.batch.rows)
        end = torch.tensor([recording.index(-1, row) for row in range(len(rows))])
        row, io, s1 = (
            torch.arange(len(end)),
            *(torch.tensor([self.data.at(name)[i] for i in rows]) for name in ("IO", "S1")),
        )
        pair = recording.logits_at(-1).gather(1, answer_ids(model, self.data)[rows])
        each = [
            recording[f"pattern.{layer}"][row, head, end, io] - recording[f"pattern.{layer}"][row, head, end, s1]
            for layer, head in self.heads
        ]
        gap = torch.stack(each).mean(0) if each else torch.zeros(len(rows))
        return torch.stack([pair[:, 0] - pair[:, 1], gap.to(pair)], 1)
