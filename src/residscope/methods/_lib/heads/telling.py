"""S-inhibition: heads whose output at the end of a prompt turns the name movers away from the name that stands twice."""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.errors import TooFewPrompts
from residscope.methods._lib.by_head import every_head, filled, stacked, there
from residscope.methods._lib.heads.declared import HEAD_SCORES, Part, of_model
from residscope.methods._lib.heads.writing import IOI, WRITES
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site
from residscope.progress import Tell

Head = tuple[int, int]
MOVERS = 4  # name movers whose attention is read, at most
SHARE = 0.1  # of the largest name mover's score: what is less is none
MOST = 8  # prompts read together


@dataclass
class Gap:
    """A readout of heads' mean attention from END to IO less that to S1."""

    data: PromptSet
    heads: tuple[Head, ...]
    sites: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.sites = tuple(dict.fromkeys(f"pattern.{layer}" for layer, _ in self.heads))

    def __call__(self, recording: Any) -> Float[Tensor, "batch"]:
        rows = list(range(len(recording.lengths)) if recording.batch.rows is None else recording.batch.rows)
        end, io, s1 = (torch.tensor([self.data.at(name)[row] for row in rows]) for name in ("END", "IO", "S1"))
        end = end - recording.offset
        row = torch.arange(len(rows))
        each = []
        for layer, head in self.heads:
            pattern = recording["pattern", layer]
            each.append(pattern[row, head, end, io] - pattern[row, head, end, s1])
        return torch.stack(each).mean(0)


@of_model(
    "s-inhibition",
    about=(
        "mean over prompts of the fall of the name movers' A[END, IO] - A[END, S1] when the head's output at END comes from "
        "the partner that has the other name at S2"
    ),
    control="IO and S1 exchanged in half of the prompts, drawn at random",
    source="Wang et al. 2022 (2211.00593)",
    data=IOI,
    needs=("IO", "S1", "END", "partner"),
)
def _s_inhibition(model: Model, data: PromptSet, draws: int, seed: int, tell: Tell) -> tuple[Tensor, Tensor]:
    """The name movers are the four heads at most whose name-mover score on these prompts is a tenth of the largest or more."""
    lengths: dict[int, list[int]] = {}
    for row, n in enumerate(model.batch(data).lengths):
        lengths.setdefault(n, []).append(row)
    groups = [rows[at : at + MOST] for rows in lengths.values() for at in range(0, len(rows), MOST)]
    movers = name_movers(model, data)
    each = torch.zeros(model.n_layers, model.n_heads, len(data)).where(there(model)[..., None], torch.nan)
    below = max(layer for layer, _ in movers)
    apart = (there(model) & (torch.arange(model.n_layers) < below)[:, None])[..., None]
    for done, rows in enumerate(groups):  # prompts that end together part from the base in one token
        part = data.subset(rows)
        assert part.corrupted is not None
        z = model.run(PromptSet(part.corrupted), [Site("z", layer) for layer in range(below)])
        heads = every_head(model, range(below))
        cells = [edits.patch(f"z.{layer}", z, head=head, pos=-1) for layer, head in heads]
        plan = sweep(model, part, cells, Gap(part, movers))
        fall = plan.baseline().cpu() - plan.run(False).values
        each[:, :, rows] = torch.where(apart, filled(model, heads, fall.float().T).movedim(0, -1), each[:, :, rows])
        tell((done + 1) / len(groups))
    drawn = torch.Generator().manual_seed(seed)
    signs = 1.0 - 2.0 * torch.randint(0, 2, (draws, 1, 1, len(data)), generator=drawn)
    return each, each * signs


def name_movers(model: Model, data: PromptSet) -> tuple[Head, ...]:
    """The heads with the largest name-mover scores. Raises TooFewPrompts: none has one above zero."""
    score = HEAD_SCORES["name-mover"]
    assert score.of_run is not None
    total = torch.zeros(model.n_layers, model.n_heads)
    sites = [f"{name}.{layer}" for name in WRITES[::2] if name in model.sites.names for layer in range(model.n_layers)]
    batch = model.batch(data)
    for first in range(0, len(batch), MOST):
        rows = tuple(range(first, min(first + MOST, len(batch))))
        run = model.run(batch.take(rows), ["pattern", "final_scale", *sites])
        part = Part(run, data, rows, 1, 0)
        each = [score.of_run(part, layer)[0].sum(-1) for layer in range(model.n_layers)]
        total += stacked(each, fill=0.0).float()
    order = total.flatten().argsort(descending=True)[:MOVERS].tolist()
    found = [divmod(at, model.n_heads) for at in order]
    enough = SHARE * float(total.max())
    if enough <= 0 or max(layer for layer, _ in found) == 0:
        raise TooFewPrompts(
            "no head below others moves the name on these prompts, so that none can be turned away",
            received=f"{len(data)} prompts",
            allowed="prompts on which a head of a later layer has a name-mover score above zero",
        )
    return tuple((layer, head) for layer, head in found if total[layer, head] >= enough)
