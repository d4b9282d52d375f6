"""How an induction head finds its token: by keys that know what preceded them, or by a query that knows where the copy stands."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import BadArguments
from residscope.methods._lib.attention_scores import attention_scores
from residscope.methods._lib.by_head import every_head, filled
from residscope.methods._lib.intervals import bootstrap
from residscope.methods._lib.weights.matrices import check_head
from residscope.methods.heads.head_scores import repeated_tokens
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Table

Head = tuple[int, int]
PATCHED = ("nothing", "keys", "queries", "both")
PLACES = ("after the copy", "after its other place", "elsewhere")
SIDES = ("keys", "queries")
GROUPS = ("previous-token", "duplicate-token")
LOOKS = 0.1  # the least attention to what followed the copy that counts as induction
IS_ONE = 0.3  # the least score of an earlier head that counts as a previous-token, or a duplicate-token head
MOVED = 0.5  # of what both sides move, one side's share that counts as the way
LOST = 0.1  # of the induction score, the least loss that counts
SHORTEST = 6


@dataclass(frozen=True, eq=False, repr=False)
class InductionMechanism(Report):
    """Which side of an induction head's attention says where to look, and which earlier heads tell it.

    attention[patched, place]: the head's mean attention from each token of the second half to what follows its copy, to what
    follows the place where another order of the first half has the copy, and to a third place, when nothing, the keys, the
    queries, or both come from the run of that order; with intervals over sequences. moved: by side, the share that it alone moves
    of what both move. lost[side, layer, head]: how much less the head attends to what follows the copy without an earlier head's
    write, in its keys or its queries alone. groups[group, side]: the same without all previous-token, or all duplicate-token,
    heads of earlier layers; control: without as many other heads, drawn at random, their mean, and from low to high nine tenths
    of the draws. members: those heads. verdict: "K-composition", "pointer arithmetic", "both", "keys by another way", "queries by
    another way", "neither", or "no induction head".
    """

    kind: ClassVar[str] = "report:induction_mechanism"
    main: ClassVar[str] = "lost"
    layer: int
    head: int
    verdict: str
    attention: Result
    moved: Mapping[str, float]
    lost: Result
    groups: Result
    control: Result
    members: Mapping[str, tuple[Head, ...]]
    note: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """The verdict with its two effects and their controls, where the head looks, and what each earlier head adds."""
        assert self.control.high is not None
        rows: list[list[Any]] = [
            [
                f"{group} heads out of the {side}", _heads(self.members[group]),
                *(round(float(x[g, s]), 3) for x in (self.groups.values, self.control.values, self.control.high)),
            ]
            for g, group in enumerate(GROUPS)
            for s, side in enumerate(SIDES)
        ]  # fmt: skip
        seen = [
            [name, *(round(float(x), 3) for x in self.attention.values[k]), _share(self.moved.get(name))]
            for k, name in enumerate(PATCHED)
        ]
        layers, heads = self.lost.values.shape[1:]
        limit = float(self.lost.values.abs().max()) or None
        maps = [
            HeatMap(
                self.lost.values[k], range(layers), range(heads), title=f"Lost without it in the {side}", row_title="layer",
                column_title="head", unit="share", limit=limit, marks=self.members[GROUPS[k]], bottom_up=True,
            )
            for k, side in enumerate(SIDES)
        ]  # fmt: skip
        title = f"{self.layer}.{self.head}: {self.verdict}"
        return Grid(
            [
                Table(["patched", *PLACES, "share moved"], seen, title="Where it looks", note=self.note),
                Table(["taken out", "heads", "lost", "others, mean", "others, 95 %"], rows, title="What tells it"),
                Grid(maps, columns=2),
            ],
            columns=1,
            title=title,
        )  # fmt: skip

    def __repr__(self) -> str:
        moved = ", ".join(f"{side} move {share:.0%}" for side, share in self.moved.items())
        return f"InductionMechanism({self.layer}.{self.head}: {self.verdict}; {moved})"


def _price(model: Model, *, layer: int = 0, n: int = 8, length: int = 20, draws: int = 20, **_: Any) -> float:
    """Tokens through the whole model: each sequence twice, and one layer of each for every cell."""
    cells = 2 * layer * model.n_heads + 4 * (draws + 1)
    return float(n * (2 * length + model.bos) * (2 + cells / model.n_layers))


def _refuse(model: Model, *, layer: int, head: int, length: int = 20, **_: Any) -> None:
    check_head(model, layer, head)
    model.sites.canonical(Site("pattern", layer))
    if layer == 0:
        raise BadArguments(
            "no head of the first layer is told anything by another", received="0", allowed=f"1 to {model.n_layers - 1}"
        )
    if length < SHORTEST:
        raise BadArguments(
            "the halves are too short to be in another order", received=f"length={length}", allowed="6 or more"
        )


@method(
    "induction-mechanism", title="How an induction head finds its token", group="heads", tokens=_price, refuse=_refuse
)
def induction_mechanism(
    model: Model,
    layer: Annotated[int, fields.count(low=0, high=10_000)],
    head: Annotated[int, fields.heads(single=True)],
    *,
    n: Annotated[int, fields.count(low=2, high=1000)] = 8,
    length: Annotated[int, fields.count(low=2, high=2000)] = 20,
    draws: Annotated[int, fields.count(low=1, high=1000)] = 20,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> InductionMechanism:
    """K-composition against pointer arithmetic: which side of a head's attention finds what followed the earlier copy, and how.

    Sequences of random tokens are written twice; beside each stands another whose first half is turned round by s places, so that
    every copy stands elsewhere. The head's keys alone, its queries alone, or both, are then taken from that run:

        moved[side] = (A_side - A)[i, after the copy's other place] / (A_both - A)[i, after the copy's other place]

    With K-composition each key holds the token before it, so that attention follows the keys; with pointer arithmetic each
    query holds the position of the copy, so that it follows the queries, and the keys may be whatever they are. All that
    earlier layers do is in it, MLPs too. Then what each earlier head writes is taken out (its mean over tokens put in) of the
    head's keys alone, or of its queries alone, read through the norm anew, and so are all previous-token heads (a score of
    0.3), and all duplicate-token heads, at once, beside as many other heads of earlier layers, drawn at random:

        lost = mean over i of A[i, after the copy] - the same without

    These paths are direct: what MLPs and heads between make of a write stays. The verdict is "K-composition" where the keys
    move half or more and the previous-token heads' loss in the keys is above the control's 95th percentile and a tenth of the
    head's attention; "pointer arithmetic" likewise of the queries and duplicate-token heads; "keys (queries) by another way"
    where a side moves it and those heads are not what tells it. Positions are in the stream only of models that add them
    there; that a model has none is in `note`.

    Position 0 and attention sinks are left out. n: sequences. length: tokens of each half. draws: of random heads.

        rs.induction_mechanism(model, 18, 6).verdict

    Raises:
        UnknownLayer, UnknownHead, AbsentSite, BadArguments: the first layer; halves under 6 tokens. TooFewWords, PromptTooLong,
        SweepCancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits (K-composition); Nanda 2022, A Comprehensive Mechanistic
    Interpretability Explainer (pointer arithmetic); Olsson et al. 2022 (2209.11895).
    """
    _refuse(model, layer=layer, head=head, length=length)
    clean, other, places = _data(model, n, length, seed)
    group = head // model.heads_at(layer).groups
    sites = ["pattern", f"q.{layer}", f"k.{layer}", "z", "resid_pre", f"resid_post.{layer}"]
    with torch.no_grad():
        base, moved = model.run(clean, sites), model.run(other, [f"q.{layer}", f"k.{layer}"])
        keep = kept(base, Site("pattern", layer)).cpu()
    asked = [place & keep[:, :, None] & keep[:, None] for place in places]
    whole = torch.stack([place.any(-1) for place in asked]).all(0)  # queries that have all three
    readout = _Attention(layer, head, torch.stack([place & whole[..., None] for place in asked], 1))
    sides = {
        "keys": edits.patch(f"k.{layer}", {f"k.{layer}": moved["k", layer]}, kv_head=group),
        "queries": edits.patch(f"q.{layer}", {f"q.{layer}": moved["q", layer]}, head=head),
    }
    patched: list[list[Edit]] = [[sides["keys"]], [sides["queries"]], [*sides.values()]]
    plan = sweep(model, clean, patched, readout)
    seen = plan.run(progress, cancel, what="Patching keys and queries").values.double()
    seen = torch.cat([plan.baseline().double().cpu()[None], seen])  # patched row place
    members, drawn = _groups(model, base, layer, draws, seed)
    lost, together, control = _lost(model, clean, base, readout, members, drawn, group, progress, cancel)
    return _report(
        model,
        (layer, head),
        seen,
        lost,
        together,
        control,
        members,
        {"n": n, "length": length, "draws": draws, "seed": seed},
    )


def _data(
    model: Model, n: int, length: int, seed: int
) -> tuple[PromptSet, PromptSet, list[Bool[Tensor, "row query key"]]]:
    """Sequences, the same with their first halves turned round, and where each token of a second half may look."""
    clean, drawn = repeated_tokens(model, n=n, length=length, seed=seed), random.Random(seed)
    size = len(clean.prompts[0])
    begin = size - 2 * length
    others, places = [], [torch.zeros(n, size, size, dtype=torch.bool) for _ in PLACES]
    for row, ids in enumerate(clean.prompts):
        half = ids[begin : begin + length]
        s, elsewhere = drawn.sample(range(2, length - 1), 2)
        others.append((*ids[:begin], *half[-s:], *half[:-s], *half))
        for place, shift in zip(places, (0, s, elsewhere), strict=True):
            for a in range(length - 1):
                if (at := (a + shift) % length) < length - 1:
                    place[row, begin + length + a, begin + at + 1] = True
    return clean, PromptSet(tuple(others), name="first halves turned round"), places


@dataclass
class _Attention:
    """A readout of a head's mean attention to some keys, of each kind of place."""

    layer: int
    head: int
    places: Bool[Tensor, "row place query key"]
    unit: ClassVar[str] = "share"

    @property
    def sites(self) -> tuple[str, ...]:
        return (f"pattern.{self.layer}",)

    def __call__(self, recording: Recording) -> Float[Tensor, "row place"]:
        rows = recording.batch.rows
        places = self.places if rows is None else self.places[list(rows)]
        pattern = recording["pattern", self.layer][:, self.head]
        asked = places[:, :, recording.offset :].to(pattern)
        return torch.einsum("bqk,bpqk->bp", pattern, asked) / asked.sum((-1, -2))


def _groups(
    model: Model, base: Recording, layer: int, draws: int, seed: int
) -> tuple[dict[str, tuple[Head, ...]], dict[str, list[list[Head]]]]:
    """The earlier previous-token and duplicate-token heads, and as many others for each draw."""
    drawn, every = random.Random(seed), every_head(model, range(layer))
    scores = attention_scores(base, GROUPS, range(layer)).double().nanmean(-1)
    members = {
        group: tuple(at for at in every if float(scores[k, at[0], at[1]]) >= IS_ONE) for k, group in enumerate(GROUPS)
    }
    others = [at for at in every if all(at not in own for own in members.values())]
    sets = {
        group: [drawn.sample(others, min(len(own), len(others))) for _ in range(draws if own else 0)]
        for group, own in members.items()
    }
    return members, sets


def _lost(
    model: Model,
    clean: PromptSet,
    base: Recording,
    readout: _Attention,
    members: Mapping[str, Sequence[Head]],
    drawn: Mapping[str, Sequence[Sequence[Head]]],
    group: int,
    progress: Progress,
    cancel: Cancel,
) -> tuple[
    Float[Tensor, "side layer head"], Float[Tensor, "group side"], dict[tuple[int, int], Float[Tensor, " draw"]]
]:
    """What the attention to what follows the copy loses without each earlier head, without each group, and without others."""
    layer, every = readout.layer, every_head(model, range(readout.layer))
    n = len(every)
    z = {f"z.{below}": _without(base, below) for below in range(layer)}
    ends: list[tuple[str, dict[str, Any]]] = [
        (f"k.{layer}", {"kv_head": group}),
        (f"q.{layer}", {"head": readout.head}),
    ]

    def out(heads: Sequence[Head], side: int) -> list[Edit]:
        end, where = ends[side]
        return [edits.path(f"z.{at}", end, {f"z.{at}": z[f"z.{at}"]}, sender_head=h, **where) for at, h in heads]

    cells: list[list[Edit]] = [out([one], side) for side in range(2) for one in every]
    named: list[tuple[int, int]] = []
    for g, name in enumerate(GROUPS):
        for heads in (members[name], *drawn[name]):
            for side in range(2):
                if heads:
                    cells.append(out(heads, side))
                    named.append((g, side))
    plan = sweep(model, clean, cells, readout)
    swept = plan.run(progress, cancel, what="Taking heads out of keys and queries").values[..., 0].double()
    fall = (plan.baseline()[..., 0].double().cpu() - swept).mean(1)
    together, control = torch.zeros(2, 2, dtype=torch.float64), dict[tuple[int, int], list[float]]()
    seen = set[tuple[int, int]]()
    for at, value in zip(named, fall[2 * n :].tolist(), strict=True):
        if at not in seen:
            together[at] = value
            seen.add(at)
        else:
            control.setdefault(at, []).append(value)
    return (
        filled(model, every, fall[: 2 * n].reshape(2, n))[:, :layer],
        together,
        {k: torch.tensor(v).double() for k, v in control.items()},
    )


def _without(base: Recording, layer: int) -> Float[Tensor, "row pos head d_head"]:
    """z with each head's mean over the tokens that count in their places."""
    z = base["z", layer]
    keep = kept(base, Site("z", layer)).to(z.device)
    return torch.where(keep[..., None, None], z[keep].mean(0), z)


def _report(
    model: Model,
    at: Head,
    seen: Float[Tensor, "patched row place"],
    lost: Float[Tensor, "side layer head"],
    together: Float[Tensor, "group side"],
    control: Mapping[tuple[int, int], Float[Tensor, " draw"]],
    members: Mapping[str, tuple[Head, ...]],
    asked: Mapping[str, Any],
) -> InductionMechanism:
    about = {**model.provenance, "method": "induction mechanism", "head": f"{at[0]}.{at[1]}", "bos": model.bos, **asked}
    mean = seen.mean(1)
    low, high = bootstrap(seen.movedim(1, 0), seed=asked["seed"])
    whole = float(mean[3, 1] - mean[0, 1])
    moved = {side: float(mean[k, 1] - mean[0, 1]) / whole if whole > 0 else 0.0 for k, side in enumerate(SIDES, 1)}
    ends = torch.zeros(3, 2, 2, dtype=torch.float64)
    for (g, side), values in control.items():
        ends[0, g, side], ends[1, g, side], ends[2, g, side] = (
            values.mean(),
            values.quantile(0.05),
            values.quantile(0.95),
        )
    told = [
        float(together[k, k]) > max(float(ends[2, k, k]), LOST * float(mean[0, 0])) and bool(members[GROUPS[k]])
        for k in range(2)
    ]
    in_stream = "pos_embed" in model.sites.names
    note = (
        ""
        if in_stream
        else "Positions are not in this model's stream: a query can hold one only if a head computes it."
    )
    coords: dict[str, Any] = {"group": GROUPS, "side": SIDES}
    return InductionMechanism(
        *at,
        _verdict(float(mean[0, 0]), moved, told),
        Result(
            mean, ("patched", "place"), {"patched": PATCHED, "place": PLACES}, name="attention", unit="share",
            low=torch.minimum(low, mean), high=torch.maximum(high, mean), provenance=about,
        ),
        moved,
        Result(
            lost, ("side", "layer", "head"), {"side": SIDES}, name="induction lost without a head", unit="share",
            provenance=about,
        ),
        Result(together, ("group", "side"), coords, name="induction lost without a group", unit="share", provenance=about),
        Result(
            ends[0], ("group", "side"), coords, name="induction lost without other heads", unit="share",
            low=torch.minimum(ends[1], ends[0]), high=torch.maximum(ends[2], ends[0]), provenance=about,
        ),
        members, note, about,
    )  # fmt: skip


def _verdict(attention: float, moved: Mapping[str, float], told: Sequence[bool]) -> str:
    if attention < LOOKS:
        return "no induction head"
    sides = [moved[side] >= MOVED for side in SIDES]
    ways = [
        way
        for way, side, tells in zip(("K-composition", "pointer arithmetic"), sides, told, strict=True)
        if side and tells
    ]
    if ways:
        return "both" if len(ways) == 2 else ways[0]
    named = [side for side, moves in zip(SIDES, sides, strict=True) if moves]
    return f"{named[0]} by another way" if named else "neither"


def _heads(heads: Sequence[Head]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads) or "none"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
