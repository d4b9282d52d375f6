"""What single heads do on IOI prompts: where they look, what they copy, and what is left without them."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.engine.model import Model
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit
from residscope.methods._lib.circuits import folded, output_weights, value_weights
from residscope.methods.heads.head_roles import AnswerAndAttention
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, stage

Head = tuple[int, int]
Placed = Mapping[str, Sequence[Head]]
"""Heads by the name of the position that they act at."""
Means = Mapping[object, Mapping[int, Float[Tensor, "1 pos head d_head"]]]
"""z by template and layer."""
LOOKS = (("END", "IO"), ("END", "S1"), ("END", "S2"), ("S2", "S1"), ("S2", "S1+1"), ("S1+1", "S1"))
TOP = 5


def alike(model: Model, data: PromptSet) -> dict[tuple[Any, ...], list[int]]:
    """Rows of one template, one order and one length: every position of theirs is the same."""
    rows: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    keys = zip(data.label("template"), data.label("order"), model.batch(data).lengths, strict=True)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return dict(rows)


def looks(
    model: Model, data: PromptSet, *, progress: Progress = None, cancel: Cancel = None
) -> Float[Tensor, "look layer head prompt"]:
    """The attention from one named position to another, of every head in every prompt. In LOOKS' order."""
    found = torch.zeros(len(LOOKS), model.n_layers, model.n_heads, len(data))
    groups = alike(model, data)
    with stage("Where heads look", len(groups), progress, cancel) as tell:
        for done, rows in enumerate(groups.values()):
            part = data.subset(rows)
            run = model.run(part, ["pattern"])
            for layer in range(model.n_layers):
                pattern = run[f"pattern.{layer}"]
                for look, (here, there) in enumerate(LOOKS):
                    found[look, layer][:, rows] = pattern[:, :, part.at(here)[0], part.at(there)[0]].T.float().cpu()
            tell(done + 1)
    return found


def copies(
    model: Model, data: PromptSet, heads: Sequence[Head], *, progress: Progress = None, cancel: Cancel = None
) -> dict[Head, tuple[float, float]]:
    """How often a head's OV circuit puts the name IO among the five likeliest tokens of all; and among the five least likely.

        x W_V W_O W_U        x: the stream at IO after block 0, behind the gain of the norm before the head's values

    The norms' divisors, which are positive, change no order; biases are left out.
    """
    model.require_exact_weights("the OV circuit")
    layers = sorted({layer for layer, _ in heads})
    names = torch.tensor([model.token_id(right) for right, _ in data.answers or ()], device=model.device)
    found: dict[Head, tuple[float, float]] = {}
    with stage("Copying names", len(layers), progress, cancel) as tell, torch.no_grad():
        run = model.run(data, ["resid_pre.1"])
        x = run["resid_pre.1"][torch.arange(len(data)), list(data.at("IO"))]
        for done, layer in enumerate(layers):
            W_V = value_weights(model, layer).to(x).repeat_interleave(model.heads_at(layer).groups, 0)
            W_O = output_weights(model, layer).to(x)
            W_U = folded(model.layout.final_norm, model.W_U.to(x))
            for head in (h for at, h in heads if at == layer):
                logits = x @ W_V[head] @ W_O[head] @ W_U
                own = logits.gather(1, names[:, None])
                above, below = (logits > own).sum(1) < TOP, (logits < own).sum(1) < TOP
                found[layer, head] = float(above.float().mean()), float(below.float().mean())
            tell(done + 1)
    return found


def means_of(model: Model, data: PromptSet, *, progress: Progress = None, cancel: Cancel = None) -> Means:
    """What every head writes at every position, mean over the partners of one template: the paper's mean over p_ABC."""
    assert data.corrupted is not None
    rows: dict[object, list[int]] = defaultdict(list)
    for row, template in enumerate(data.label("template")):
        rows[template].append(row)
    found = {}
    with stage("Means of partners", len(rows), progress, cancel) as tell:
        for done, (template, own) in enumerate(rows.items()):
            run = model.run(PromptSet([data.corrupted[row] for row in own]), ["z"])
            found[template] = {layer: run[f"z.{layer}"].mean(0, keepdim=True) for layer in range(model.n_layers)}
            tell(done + 1)
    return found


def out(placed: Placed, means: Mapping[int, Tensor], at: Mapping[str, int]) -> list[Edit]:
    """The heads, each at its position, set to their means."""
    return [
        edits.ablate(f"z.{layer}", to=means[layer], head=[h for a, h in heads if a == layer], pos=at[where])
        for where, heads in placed.items()
        for layer in sorted({a for a, _ in heads})
    ]


def only(placed: Placed, means: Mapping[int, Tensor], at: Mapping[str, int]) -> list[Edit]:
    """Every head at every position set to its mean, but these heads at theirs."""
    kept: dict[Head, set[int]] = defaultdict(set)
    for where, heads in placed.items():
        for head in heads:
            kept[head].add(at[where])
    stack: list[Edit] = []
    for layer, mean in means.items():
        length, n = mean.shape[1:3]
        rest = [h for h in range(n) if (layer, h) not in kept]
        stack += [edits.ablate(f"z.{layer}", to=mean, head=rest)] if rest else []
        for h in sorted(h for a, h in kept if a == layer):
            elsewhere = [p for p in range(length) if p not in kept[layer, h]]
            stack.append(edits.ablate(f"z.{layer}", to=mean, head=h, pos=elsewhere))
    return stack


def knocked(
    model: Model,
    data: PromptSet,
    means: Means,
    cells: Sequence[tuple[bool, Placed]],
    movers: Sequence[Head],
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Float[Tensor, "cell prompt two"]:
    """Of each cell the logit difference, and the movers' mean attention from END to IO less that to S1.

    cells: (False, heads) those heads set to their means, (True, heads) all others.
    """
    found = torch.zeros(len(cells), len(data), 2, dtype=torch.float64)
    groups = alike(model, data)
    with stage("Knocking heads out", len(groups), progress, cancel) as tell:
        for done, ((template, *_), rows) in enumerate(groups.items()):
            part = data.subset(rows)
            at = {name: part.at(name)[0] for name in part.positions}
            stacks = [(only if keep else out)(placed, means[template], at) for keep, placed in cells]
            plan = sweep(model, part, stacks, AnswerAndAttention(part, tuple(movers)))
            found[:, rows] = plan.run(progress=False, cancel=cancel).values.double()
            tell(done + 1)
    return found


def random_like(model: Model, heads: Sequence[Head], taken: Sequence[Head], draw: torch.Generator) -> tuple[Head, ...]:
    """As many other heads of the same layers, none of those taken where the layers have enough others."""
    drawn: list[Head] = []
    for layer in sorted({a for a, _ in heads}):
        own = [h for a, h in heads if a == layer]
        free = [h for h in range(model.n_heads) if (layer, h) not in taken]
        free = free if len(free) >= len(own) else [h for h in range(model.n_heads) if h not in own]
        free = free if len(free) >= len(own) else [*range(model.n_heads)]
        drawn += [(layer, free[i]) for i in torch.randperm(len(free), generator=draw)[: len(own)].tolist()]
    return tuple(drawn)
