"""Interpretability in the Wild (Wang et al., 2022), taken again: everything measured, in one frozen value."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from residscope.engine.model import Model
from residscope.methods.attribution.direct_attribution import direct_attribution
from residscope.methods.patching.activation_patching import activation_patching
from residscope.methods.patching.self_repair import SelfRepair, self_repair
from residscope.methods.reading.task_check import TaskCheck, task_check
from residscope.metrics import logit_diff
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress
from residscope.reproduce.ioi.classes import (
    DUPLICATE,
    INDUCTION,
    INHIBITION,
    MOVERS,
    NEGATIVE,
    PREVIOUS,
    SUPPRESSORS,
    strongest,
    tellers,
    writers,
)
from residscope.reproduce.ioi.knocks import Knock, knocks
from residscope.reproduce.ioi.measures import LOOKS, Head, copies, looks, means_of, random_like
from residscope.reproduce.ioi.paths import Paths, chosen, donors, over_prompts
from residscope.results import Result
from residscope.tasks.ioi import POSITIONS, ioi

REPAIRS = 5  # random groups of heads, beside the self-repair of the movers


@dataclass(frozen=True)
class Size:
    """How much is run.

    prompts: for the task, attention, direct effects and means. traced: for path patching. patched: for activation patching.
    knocked: for knock-outs. draws: of random heads for each class. each: heads of a class at most. reach: how many layers below
    what receives are senders; 0 is all. step: between the layers whose stream is patched.
    """

    prompts: int = 200
    traced: int = 8
    patched: int = 8
    knocked: int = 20
    draws: int = 19
    each: int = 4
    reach: int = 0
    step: int = 1

    @classmethod
    def quick(cls) -> "Size":
        return cls(prompts=40, traced=2, patched=2, knocked=3, draws=2, reach=7, step=6)


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured.

    task, stream: with the partners that differ at S2 alone. stream: the share of the gap that the stream at a named position
    brings back. direct: direct effects by layer, head and prompt. attention: by look, layer, head and prompt.
    paths: the change of the logit difference by sender, with partners of three names: to the logits, to the writers' queries, to
    the S-inhibition heads' values, to the induction heads' keys. shuffled: the found senders' layers again, with another IOI
    prompt of the same template and order as the partner; beside: with random receivers of the same layers. by_keys: to the
    S-inhibition heads' keys. classes: the heads of each. receive: the name movers, or where there are none those that write the
    answer otherwise. copying: how often the name is among the five likeliest tokens, and the five least; copying_chance: of
    random heads of the same layers. before, knocked: the logit difference, and what is left of it. repair: of `receive`;
    repair_chance: of random heads of its layers.
    """

    task: TaskCheck
    stream: Result
    direct: Result
    attention: Result
    paths: Mapping[str, Result]
    shuffled: Mapping[str, Result]
    beside: Mapping[str, Result]
    by_keys: Result | None
    classes: Mapping[str, tuple[Head, ...]]
    receive: tuple[Head, ...]
    copying: Mapping[Head, tuple[float, float]]
    copying_chance: Mapping[Head, tuple[float, float]]
    before: Knock
    knocked: Mapping[str, Knock]
    repair: SelfRepair
    repair_chance: tuple[SelfRepair, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def ioi_study(
    model: Model, *, size: Size | None = None, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> Study:
    """The paper's way from the logits back to the names, with its tests: who writes the answer, who tells it where to look, who
    tells that; each class knocked out, the circuit alone, and what makes up for the name movers.

    Prompts are of the paper's templates, without prefixes. Heads are found by their paths, as in the paper, and their classes by
    where they look; which heads they are is not taken over.

    Raises:
        TooFewPrompts: no two prompts of one template and order. TooFewWords: the tokenizer splits the names. TaskError,
        SiteError, QuantisedModel, Cancelled.
    """
    size, began = size or Size(), time.monotonic()
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    plain: dict[str, Any] = {"seed": seed, "prefixes": False, **watch}
    draw = torch.Generator().manual_seed(seed)
    swaps = ioi(model, size.prompts, **plain)
    task = task_check(model, swaps, **watch)
    stream = activation_patching(
        model, swaps.subset(chosen(model, swaps, size.patched)), None, logit_diff(), positions=POSITIONS,
        layers=range(0, model.n_layers, size.step), **watch,
    )  # fmt: skip
    data = ioi(model, size.prompts, partner="ABC", **plain)
    direct = direct_attribution(model, data, logit_diff(), **watch).heads
    assert direct is not None
    seen = looks(model, data, **watch)
    rows = chosen(model, data, size.traced)
    paths = Paths(model, data.subset(rows), donors(model, data, rows), size.reach, draw, watch)
    classes, receive, by_keys = back(paths, seen.mean(-1), size.each)

    ends = tuple(dict.fromkeys((*receive, *classes[MOVERS], *classes[NEGATIVE])))
    copied = copies(model, data, ends, **watch)
    known = (*receive, *(head for heads in classes.values() for head in heads))
    copied_by_chance = copies(model, data, random_like(model, ends, known, draw), **watch)
    few = data.subset(chosen(model, data, size.knocked))
    means = means_of(model, data, **watch)
    before, without = knocks(model, few, means, classes, receive, size.draws, draw, watch)
    one: dict[str, Any] = {"to": "resample", "over": PromptSet(data.corrupted), "seed": seed, **watch}
    repair = self_repair(model, few, receive, logit_diff(), **one)
    several = [random_like(model, receive, known, draw) for _ in range(min(size.draws, REPAIRS))]
    repair_chance = tuple(self_repair(model, few, heads, logit_diff(), **one) for heads in several)
    about = {
        **model.provenance, "paper": "Interpretability in the Wild (2022)", "prompts": len(data), "traced": len(rows),
        "patched": size.patched, "knocked out on": len(few), "draws": size.draws, "each": size.each, "reach": size.reach,
        "seed": seed, "seconds": round(time.monotonic() - began, 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    named = [f"{here} to {there}" for here, there in LOOKS]
    attention = Result(
        seen, ("look", "layer", "head", "prompt"), {"look": named}, name="attention", unit="share", provenance=about
    )
    return Study(
        task, restored(stream), direct, attention, paths.found, paths.shuffled, paths.beside, by_keys, classes, receive,
        copied, copied_by_chance, before, without, repair, repair_chance, about,
    )  # fmt: skip


def back(
    paths: Paths, at: torch.Tensor, each: int
) -> tuple[dict[str, tuple[Head, ...]], tuple[Head, ...], Result | None]:
    """From the logits back, a stage at a time: the classes, what received at the queries, and the values' stage through keys."""
    to_logits = paths.follow("logits")
    found = writers(to_logits, at, each)
    receive = found[MOVERS] or found[SUPPRESSORS] or strongest(to_logits, each)
    written = tuple(h for heads in found.values() for h in heads)
    found[INHIBITION] = strongest(paths.follow("queries", receive), each, without=written)
    found |= tellers(paths.follow("values", found[INHIBITION], "v"), at, each)
    told = found[DUPLICATE] + found[INDUCTION]
    found[PREVIOUS] = strongest(paths.follow("keys", found[INDUCTION], "k"), each, without=told)
    paths.control("logits", (), written)
    paths.control("queries", receive, found[INHIBITION], taken=written)
    paths.control("values", found[INHIBITION], told, "v")
    paths.control("keys", found[INDUCTION], found[PREVIOUS], "k")
    layers = sorted({a for a, _ in told})
    by_keys = paths.run(paths.some, found[INHIBITION], "k", layers) if layers else None
    return found, receive, by_keys


def restored(patched: Result) -> Result:
    """The mean over prompts, as a share of the gap between the two runs' means."""
    mean = over_prompts(patched)
    clean, corrupted = (float(torch.tensor(patched.provenance[end]).mean()) for end in ("clean", "corrupted"))

    def share(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else (x - corrupted) / (clean - corrupted)

    values = share(mean.values)
    assert values is not None
    return replace(
        mean, values=values, low=share(mean.low), high=share(mean.high), name="share of the gap restored", unit="share",
        provenance={**mean.provenance, "no effect": 0.0},
    )  # fmt: skip
