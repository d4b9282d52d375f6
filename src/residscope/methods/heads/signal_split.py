"""Token against position signal: by what S-inhibition heads tell the name movers which name to leave (Wang et al. 2022)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit
from residscope.errors import BadPrompt, BadSweep, MissingLabel
from residscope.methods._lib.intervals import bootstrap
from residscope.methods._lib.weights.matrices import check_head
from residscope.methods.heads.head_roles import AnswerAndAttention, Head, head_roles, of_one_length
from residscope.model.prompts import PromptSet, require_set
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Table

TOKENS = ("S", "IO", "other")
PLACES = ("S1", "other place")
EFFECTS = ("position", "token", "both")
Heads = Sequence[Head] | Mapping[str, Sequence[Head]]
ALL = [*product(TOKENS, PLACES)]
TURNED = ALL[:4]
SIGNS = (
    torch.tensor([[1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64) / 4
)  # of the effects over TURNED


@dataclass(frozen=True, eq=False, repr=False)
class SignalSplit(Report):
    """What some heads' output at END says of the name to leave: which token it is, or where it stood first.

    logit_diff[token, place]: the mean logit difference with the heads' output taken from a prompt that names the same token twice
    ("S"), the indirect object ("IO") or other names altogether, at S's own first place or at the other's. gap: the movers'
    attention from END to IO less that to S1, likewise. split[effect], gap_split[effect]: half of what turning the place, the
    token, and both ways of turning them together, changes of either. control, gap_control: the same of as many other heads of the
    same layers; low and high are the least and the largest draw.
    """

    kind: ClassVar[str] = "report:signal_split"
    main: ClassVar[str] = "split"
    heads: tuple[Head, ...]
    movers: tuple[Head, ...]
    logit_diff: Result
    gap: Result
    split: Result
    gap_split: Result
    control: Result
    gap_control: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blanks(self) -> int:
        """Effects of controls, where there are no other heads in these layers."""
        return int(self.control.values.isnan().sum() + self.gap_control.values.isnan().sum())

    @property
    def position_share(self) -> float:
        """Of the variance of the logit difference over the four turns of place and token, the part of the place."""
        squares = self.split.values.double().square()
        return float(squares[0] / squares.sum()) if float(squares.sum()) else 0.0

    @property
    def additive(self) -> float:
        """Of that variance the part of both signals each by itself: 1 where they add up."""
        squares = self.split.values.double().square()
        return float(squares[:2].sum() / squares.sum()) if float(squares.sum()) else 1.0

    @property
    def verdict(self) -> str:
        """Which signals are there: those whose interval is above 0 and whose effect is above every control."""
        assert self.split.low is not None
        assert self.control.high is not None
        most = self.control.high.nan_to_num(0)
        there = [i for i in (0, 1) if self.split.low[i] > 0 and self.split.values[i] > most[i]]
        return " and ".join(EFFECTS[i] for i in there) or "neither"

    def view(self) -> Grid:
        """Both numbers over the six prompts that the output was taken from, and the effects beside their controls."""
        maps = [
            HeatMap(
                one.values, TOKENS, PLACES, title=one.name, row_title="named twice", column_title="its first place",
                unit=one.unit, low=one.low, high=one.high,
            )
            for one in (self.logit_diff, self.gap)
        ]  # fmt: skip
        rows = [
            [unit, name, *(float(x[i]) for x in (own.values, own.low, own.high, other.values, other.low, other.high))]
            for unit, own, other in (
                ("logits", self.split, self.control),
                ("attention", self.gap_split, self.gap_control),
            )
            for i, name in enumerate(EFFECTS)
            if own.low is not None and own.high is not None and other.low is not None and other.high is not None
        ]
        columns = ["of", "signal", "effect", "95 % from", "to", "other heads", "least", "largest"]
        note = (
            f"{self.verdict}; place alone {self.position_share:.0%} of the variance, the two added {self.additive:.0%}"
        )
        return Grid(
            [Grid(maps), Table(columns, rows, title="Effects", note=note)], columns=1, title="Token or position"
        )

    def __repr__(self) -> str:
        said = ", ".join(f"{name} {float(x):+.3f}" for name, x in zip(EFFECTS, self.split.values, strict=True))
        return f"SignalSplit({self.verdict}: {said} logits; heads {_named(self.heads)})"


@method("signal-split", title="Token or position signal", group="heads")
def signal_split(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    heads: Annotated[Heads | None, fields.head_group(title="S-inhibition heads")] = None,
    movers: Annotated[Heads | None, fields.head_group(title="name movers")] = None,
    prompts: Annotated[int, fields.count(low=2, high=2000)] = 24,
    draws: Annotated[int, fields.count(low=1, high=100, help="sets of other heads")] = 5,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> SignalSplit:
    """Whether S-inhibition heads tell the name movers to leave a token or a place, by a two by two of prompts.

        logit difference = mean + position S_place + token S_token + both S_place S_token        S = +1 as it is, -1 turned

    The heads' z at END is taken from prompts of the same words: the two names of the first clause change places (the place of the
    repeated name is turned, its token is not), the other name is repeated (token and place are turned), or both (the token is
    turned, the place is not). "other" has two names of other prompts in the same places, where the token signal is of neither
    name. All else is the prompt's own run, so what changes goes by these heads' output there. data: prompts with answers, and IO,
    S1, S2, END, such as those of `rs.tasks.ioi`; those in which S2 does not repeat S1 are left out.

    heads, movers: unless said, those that `rs.head_roles` finds on the data, which then needs corrupted partners. prompts: how
    many, of the lengths that most of them have.

        rs.signal_split(model, rs.tasks.ioi(model, 24)).verdict

    A description of what the heads carry, not of where it was read.

    Raises:
        MissingLabel, UnknownPosition, BadPrompt: no answers, no such positions; names that are not repeated. BadSweep: no heads
        found or given. UnknownLayer, UnknownHead, QuantisedModel, SweepError, Cancelled.

    Wang et al. 2022 (arXiv:2211.00593), section 3.2 and appendix A.
    """
    require_set(data)
    if data.answers is None:
        raise MissingLabel("the logit difference needs answers", fix="such as those of rs.tasks.ioi")
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    data = _repeated(data)
    own, readers = _heads(model, heads), _heads(model, movers)
    if not own or not readers:
        roles = head_roles(model, data, prompts=prompts, **watch)
        own, readers = own or [*roles.s_inhibition], readers or [*roles.name_movers]
    if not own or not readers:
        raise BadSweep(
            "no such heads were found", received=f"{len(own)} S-inhibition heads, {len(readers)} name movers",
            allowed="one or more of each", fix="say heads= and movers=",
        )  # fmt: skip
    drawn = Random(seed)
    groups = of_one_length(model, data, prompts)
    chosen = data.subset([row for rows in groups for row in rows])
    others = _other_names(chosen, drawn)
    sets = [own, *(_control(model, own, drawn) for _ in range(draws))]
    read, first = [], 0
    for number, rows in enumerate(groups, 1):
        some = range(first, first := first + len(rows))
        what = f"Patching the heads' output, {number} of {len(groups)}"
        read.append(_patched(model, chosen.subset(some), [others[i] for i in some], sets, readers, what=what, **watch))
    values = torch.cat(read, 1)  # [cell prompt number]
    cells, controls = values[: len(ALL)], values[len(ALL) :].reshape(draws, len(TURNED), *values.shape[1:])
    about = {
        **model.provenance, **chosen.provenance, "method": "signal_split", "heads": _named(own), "movers": _named(readers),
        "draws": draws, "seed": seed, "left out": len(data) - len(chosen),
    }  # fmt: skip
    coords: dict[str, Any] = {"token": TOKENS, "place": PLACES, "effect": EFFECTS}

    def result(mean: Tensor, low: Tensor, high: Tensor, dims: tuple[str, ...], name: str, unit: str) -> Result:
        shape = (len(TOKENS), len(PLACES)) if len(dims) > 1 else (len(EFFECTS),)
        parts = [x.float().reshape(shape) for x in (mean, low, high)]
        labels = {dim: coords[dim] for dim in dims}
        return Result(parts[0], dims, labels, low=parts[1], high=parts[2], name=name, unit=unit, provenance=about)

    found: dict[str, Result] = {}
    for i, (name, word, unit) in enumerate(
        (("logit_diff", "logit difference", "logits"), ("gap", "attention gap", "share"))
    ):
        x = cells[..., i]
        found[name] = result(x.mean(1), *bootstrap(x.T, seed=seed), ("token", "place"), word, unit)
        effects = torch.einsum("ec,cp->pe", SIGNS, x[: len(TURNED)])
        key = "split" if i == 0 else "gap_split"
        found[key] = result(effects.mean(0), *bootstrap(effects, seed=seed), ("effect",), f"effect on the {word}", unit)
        drawn_effects = torch.einsum("ec,dcp->de", SIGNS, controls[..., i]) / x.shape[1]
        drawn_effects = drawn_effects if sets[1] else torch.full_like(drawn_effects, torch.nan)  # no heads are left
        ends = (drawn_effects.mean(0), drawn_effects.amin(0), drawn_effects.amax(0))
        found["control" if i == 0 else "gap_control"] = result(
            *ends, ("effect",), f"other heads' effect on the {word}", unit
        )
    return SignalSplit(tuple(own), tuple(readers), **found, provenance=about)


def _repeated(data: PromptSet) -> PromptSet:
    """Those prompts in which the token at S2 is that at S1 and not that at IO. Raises BadPrompt."""
    places = zip(data.prompts, data.at("IO"), data.at("S1"), data.at("S2"), strict=True)
    rows = [i for i, (ids, io, s1, s2) in enumerate(places) if ids[s1] == ids[s2] != ids[io]]
    if len(rows) < 2:
        raise BadPrompt(
            "the names are not repeated", received=f"{len(rows)} of {len(data)} prompts whose S2 repeats S1 and not IO",
            allowed="two or more, as token ids", fix="such as those of rs.tasks.ioi",
        )  # fmt: skip
    return data.subset(rows)


def _heads(model: Model, asked: Heads | None) -> list[Head]:
    """Heads as (layer, head), or groups of them by name, each once. Raises UnknownLayer, UnknownHead, BadSweep."""
    if asked is not None and not asked:
        raise BadSweep(
            "there is no head among these", received=repr(asked), allowed="one or more, or None for those found"
        )
    every = [one for group in asked.values() for one in group] if isinstance(asked, Mapping) else [*(asked or ())]
    for layer, head in every:
        check_head(model, layer, head)
    return [*dict.fromkeys((layer, head) for layer, head in every)]


def _control(model: Model, own: Sequence[Head], drawn: Random) -> list[Head]:
    """As many other heads of each layer, or all that there are."""
    found = []
    for layer in sorted({layer for layer, _ in own}):
        left = [(layer, head) for head in range(model.heads_at(layer).n_heads) if (layer, head) not in own]
        found += drawn.sample(left, min(len(left), sum(at == layer for at, _ in own)))
    return found


def _other_names(data: PromptSet, drawn: Random) -> list[tuple[int, int]]:
    """For each prompt two names of other prompts. Raises BadPrompt."""
    names = {ids[at] for where in ("IO", "S1") for ids, at in zip(data.prompts, data.at(where), strict=True)}
    found = []
    for ids, io, s1 in zip(data.prompts, data.at("IO"), data.at("S1"), strict=True):
        left = sorted(names - {ids[io], ids[s1]})
        if len(left) < 2:
            raise BadPrompt("the prompts have no two other names", received=f"{len(names)} names", allowed="4 or more")
        first, second = drawn.sample(left, 2)
        found.append((first, second))
    return found


def turned(data: PromptSet, others: Sequence[tuple[int, int]], token: str, place: str) -> PromptSet:
    """The prompts with another name repeated, or the same from another place."""
    rows = []
    for row, ids in enumerate(data.prompts):
        io, s1, s2 = (data.at(name)[row] for name in ("IO", "S1", "S2"))
        once, twice = {"S": (ids[io], ids[s1]), "IO": (ids[s1], ids[io]), "other": others[row]}[token]
        new = [*ids]
        new[io], new[s1] = (once, twice) if place == "S1" else (twice, once)
        new[s2] = twice
        rows.append(tuple(new))
    return PromptSet(tuple(rows))


def _patched(
    model: Model,
    data: PromptSet,
    others: Sequence[tuple[int, int]],
    sets: Sequence[Sequence[Head]],
    movers: Sequence[Head],
    *,
    what: str,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Float[Tensor, "cell prompt number"]:
    """The logit difference and the movers' attention gap: the first set by all six prompts, the others by the four turns."""
    sites = [f"z.{layer}" for layer in sorted({layer for group in sets for layer, _ in group})]
    source = {pair: model.run(turned(data, others, *pair), sites) for pair in ALL}
    cells: list[tuple[Edit, ...]] = []
    for number, group in enumerate(sets):
        for pair in TURNED if number else ALL:
            by_layer = {layer: [head for at, head in group if at == layer] for layer, _ in group}
            cells.append(
                tuple(edits.patch(f"z.{layer}", source[pair], head=own, pos=-1) for layer, own in by_layer.items())
            )
    readout = AnswerAndAttention(data, tuple(movers))
    return sweep(model, data, cells, readout).run(progress, cancel, what=what).values.double()


def _named(heads: Sequence[Head]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)
