"""What taking a feature out does to the next token, at each of some places in a text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.directions import Dictionary
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.recording import Recording
from residscope.features.atlas import Atlas
from residscope.methods._lib.shifts import shift
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress
from residscope.reports import Record

TOGETHER = 16  # prompts of one pass


@dataclass(frozen=True, eq=False)
class Effects(Record):
    """Of each place, what the next token's distribution loses without the feature there.

    gain: log p(next | whole) - log p(next | without), of the token that does come next, in nats: above zero the feature helps to
    say it. NaN at a row's end. kl: KL(whole || without), in nats. raised, lowered: the token that the feature raises and lowers
    most, and by how many nats.
    """

    kind: ClassVar[str] = "feature_effects"
    gain: Float[Tensor, " place"]
    kl: Float[Tensor, " place"]
    raised: tuple[tuple[str, float], ...]
    lowered: tuple[tuple[str, float], ...]
    about: Mapping[str, Any] = field(default_factory=dict)


def effects(
    model: Model,
    atlas: Atlas,
    index: int,
    places: Sequence[tuple[int, int]],
    dictionary: Dictionary | None = None,
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Effects:
    """Take a feature out at one token of the text at a time, and read what comes next there, exactly.

    places: (row, position) of each, as examples have them; the text before them is the row's. Of an encoder's feature the
    activation is made zero, of a direction's coordinate too (its mean, for what is centred), of a neuron its value; what else
    stands there stays.

    Raises:
        DirectionError, WrongModel: no such feature; another model's atlas. Cancelled.
    """
    atlas.check(model, dictionary)
    atlas.check_index(index)
    if not places:
        return Effects(torch.empty(0), torch.empty(0), (), ())
    rows = [atlas.text.row(row) for row, _ in places]
    prompts = [row[: pos + 1] for row, (_, pos) in zip(rows, places, strict=True)]
    following = [row[pos + 1] if pos + 1 < len(row) else None for row, (_, pos) in zip(rows, places, strict=True)]
    cut = _cut(atlas, index, dictionary)
    plan = sweep(model, prompts, [cut], Logits(), batch=TOGETHER)
    after = plan.run(progress, cancel, what="Taking the feature out").values[0].float().cpu()
    before = plan.baseline().float().cpu()
    change, normaliser, kl = shift(after, before)
    lost = normaliser[:, None] - change  # log p whole - log p without, of every token
    next_ids = torch.tensor([0 if id is None else id for id in following])
    gain = lost.gather(1, next_ids[:, None])[:, 0]
    gain[torch.tensor([id is None for id in following])] = torch.nan

    def strongest(values: Tensor) -> tuple[tuple[str, float], ...]:
        best = values.max(1)
        return tuple(zip(model.token_texts(best.indices.tolist()), best.values.tolist(), strict=True))

    down = strongest(-lost)
    return Effects(gain, kl, strongest(lost), tuple((text, -value) for text, value in down))


def _cut(atlas: Atlas, index: int, dictionary: Dictionary | None) -> Any:
    if dictionary is not None:
        return edits.feature(dictionary, index, 0.0, pos=-1)
    where: dict[str, Any] = {"pos": -1} | ({} if atlas.head is None else {"head": atlas.head})
    if atlas.of == "neuron":
        return edits.ablate(atlas.site, neuron=index, **where)
    axis = torch.zeros(atlas.features)
    axis[index] = 1
    return edits.clamp(atlas.site, axis, 0.0, **where)


@dataclass(frozen=True)
class Logits:
    """A readout: all logits at each row's end."""

    sites: ClassVar[tuple[str, ...]] = ("logits",)
    pos: int = -1

    def columns(self, model: Any, batch: Batch) -> None:
        """All."""

    def of(self, logits: Tensor, ids: Any, model: Any, batch: Batch) -> Float[Tensor, "row d_vocab"]:
        return logits

    def __call__(self, recording: Recording) -> Float[Tensor, "row d_vocab"]:
        return recording.logits_at(self.pos, None)
