"""How much of an edit's effect runs through some heads' attention: edit, hold their patterns at the unedited run's, read again.

The open question of Intervening in the Residual Stream (2023): does the answer flip back if the name movers' patterns do?
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.protocols import Edit
from residscope.errors import BadEdit
from residscope.methods._lib.answers import Flips, answer_diffs, flips
from residscope.methods.heads.head_roles import Head
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Histogram, Line, Reference

BOOTSTRAP = 2000


@dataclass(frozen=True, eq=False, repr=False)
class Mediation(Report):
    """An edit's effect on the logit difference, and what is left of it with each group's attention held.

    through: the share of the mean shift that goes with the patterns,

        1 - mean(held - clean) / mean(edited - clean),

    with the bootstrap's 95 % interval over prompts. "random heads": as many others at the same layers' range, the mean of
    several draws.
    """

    kind: ClassVar[str] = "report:mediation"
    main: ClassVar[str] = "through"
    clean: Float[Tensor, "prompt"]
    edited: Float[Tensor, "prompt"]
    held: Mapping[str, Float[Tensor, "prompt"]]
    through: Result
    groups: Mapping[str, tuple[Head, ...]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def flips(self, group: str | None = None) -> Flips:
        """Flips under the edit alone, or with a group held. (Of "random heads": of the mean over draws.)"""
        return flips(self.clean, self.edited if group is None else self.held[group])

    def view(self) -> Grid:
        """Both pictures side by side."""
        return Grid([self.histogram(), self.curve()], title="What runs through these heads' attention")

    def histogram(self) -> Histogram:
        shown = {"clean": self.clean, "edited": self.edited}
        shown |= {f"edited, {name} held": values for name, values in self.held.items() if name in list(self.held)[:1]}
        return Histogram(
            shown,
            bins=40,
            title="The same edit with attention held",
            x_title="logit difference",
            unit="logits",
            references=[Reference(0.0)],
        )

    def curve(self) -> Curve:
        """The share through each group, with its interval."""
        line = Line("share", self.through.values, low=self.through.low, high=self.through.high)
        names = [str(name) for name in self.through.coords["held"]]
        return Curve(
            names,
            [line],
            title="Share of the edit's effect that goes when these heads' attention is held",
            x_title="heads held",
            y_title="share of the mean shift",
            note="heads: " + "; ".join(f"{name} {len(self.groups[name])}" for name in names),
            references=[Reference(0.0, axis="y")],
        )


def price(
    model: Model,
    data: PromptSet,
    edit: Sequence[Edit],
    groups: Mapping[str, Sequence[Head]],
    *,
    draws: int = 3,
    **_: Any,
) -> float:
    """Tokens through the whole model, about: once unedited, then the edit alone and with each group held, from its layer on."""
    lowest = min((s.layer or 0) for one in edit for s in one.places(model.sites)) if edit else 0
    return sum(model.batch(data).lengths) * (1 + (1 + len(groups) + draws) * (1 - lowest / model.n_layers))


@method("mediation", title="What runs through these heads", group="patching", tokens=price)
def mediated(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    edit: Annotated[Sequence[Edit], fields.edits()],
    groups: Annotated[Mapping[str, Sequence[Head]], fields.head_group(title="heads")],
    *,
    draws: Annotated[int, fields.count(low=1, high=100)] = 3,
    seed: Annotated[int, fields.seed()] = 0,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Mediation:
    """Run the edit alone, then with each group's attention patterns at the prompts' ends held at the unedited run's.

    As many random heads as the first group has, drawn `draws` times from the layers above the edit and outside all groups,
    are held as the negative control.

        mediated(model, test, [rs.lrqp(probe, to="other")], {"name movers": roles.name_movers}).through

    Raises:
        BadEdit: a group is empty. MissingLabel, UnknownPosition, Cancelled.
    """
    if not isinstance(groups, Mapping):
        raise BadEdit(
            "groups of heads have names", received=repr(groups)[:80], allowed='{"name movers": [(9, 6), (9, 9)]}'
        )
    for name, heads in groups.items():
        if not heads:
            raise BadEdit("a group without heads holds nothing", received=name, allowed="one head or more")
    sets = {name: tuple(heads) for name, heads in groups.items()}
    lowest = min((s.layer or 0) for one in edit for s in one.places(model.sites))
    drawn = _random_heads(model, sets, lowest, draws, seed)
    cells = [[], [*edit], *([*edit, *hold(heads)] for heads in (*sets.values(), *drawn))]
    clean, edited, *rest = answer_diffs(model, data, cells, batch=batch, progress=progress, cancel=cancel)
    held = dict(zip(sets, rest, strict=False))
    if drawn:
        held["random heads"] = torch.stack(rest[len(sets) :]).mean(0)
        sets["random heads"] = drawn[0]
    about = {
        **model.provenance,
        "method": "mediated",
        "data": data.name,
        "held out": len(data),
        "seed": seed,
        "random draws": [[f"{a}.{b}" for a, b in heads] for heads in drawn],
        "interval": f"bootstrap, {BOOTSTRAP} resamples",
    }
    shares = torch.tensor([_share(clean, edited, values, seed) for values in held.values()], dtype=torch.float64)
    value, low, high = shares.unbind(1)
    through = Result(
        value,
        ("held",),
        {"held": tuple(held)},
        name="share through",
        unit="share",
        low=low,
        high=high,
        provenance=about,
    )
    return Mediation(clean, edited, held, through, sets, about)


def hold(heads: Sequence[Head]) -> list[Edit]:
    """These heads' attention at each prompt's end, held at the unedited run's."""
    layers = sorted({layer for layer, _ in heads})
    return [edits.freeze(f"pattern.{at}", head=[h for layer, h in heads if layer == at], pos=-1) for at in layers]


def _random_heads(
    model: Model, sets: Mapping[str, Sequence[Head]], lowest: int, draws: int, seed: int
) -> list[tuple[Head, ...]]:
    taken = {head for heads in sets.values() for head in heads}
    left = [
        (a, b)
        for a in range(lowest + 1, model.n_layers)
        for b in range(model.heads_at(a).n_heads)
        if (a, b) not in taken
    ]
    n = min(len(next(iter(sets.values()))), len(left))
    drawn = random.Random(seed)
    return [tuple(sorted(drawn.sample(left, n))) for _ in range(draws if n else 0)]


def _share(clean: Tensor, edited: Tensor, held: Tensor, seed: int) -> tuple[float, float, float]:
    """The share of the mean shift that is gone, and the bootstrap's interval over prompts."""
    whole, left = (edited - clean).double(), (held - clean).double()
    drawn = torch.randint(len(clean), (BOOTSTRAP, len(clean)), generator=torch.Generator().manual_seed(seed))
    shares = 1 - left[drawn].mean(1) / whole[drawn].mean(1)
    low, high = torch.quantile(shares, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return float(1 - left.mean() / whole.mean()), low, high
