"""Path patching, stage by stage, with two controls beside each: partners shuffled, and random receivers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import TooFewPrompts
from residscope.methods.patching.path_patching import path_patching
from residscope.metrics import logit_diff
from residscope.model.prompts import PromptSet
from residscope.reproduce.ioi.measures import Head, alike, random_like
from residscope.results import Result


@dataclass
class Paths:
    """The stages so far. some: prompts with partners of three names; others: the same with shuffled partners."""

    model: Model
    some: PromptSet
    others: PromptSet
    reach: int
    draw: torch.Generator
    watch: Mapping[str, Any]
    found: dict[str, Result] = field(default_factory=dict)
    shuffled: dict[str, Result] = field(default_factory=dict)
    beside: dict[str, Result] = field(default_factory=dict)

    def follow(self, stage: str, receivers: Sequence[Head] = (), read: str = "q") -> Float[Tensor, "layer head"]:
        """Every head in reach below the receivers (below the logits, where there are none); the mean effects, 0 elsewhere."""
        end = max((a for a, _ in receivers), default=self.model.n_layers)
        layers = range(max(0, end - self.reach) if self.reach else 0, end)
        if (stage != "logits" and not receivers) or not layers:
            return torch.zeros(self.model.n_layers, self.model.n_heads)
        self.found[stage] = self.run(self.some, receivers, read, layers)
        return self.effects(self.found[stage])

    def control(
        self,
        stage: str,
        receivers: Sequence[Head],
        senders: Sequence[Head],
        read: str = "q",
        *,
        taken: Sequence[Head] = (),
    ) -> None:
        """The senders' layers again: from shuffled partners, and to random receivers of the same layers, none of those taken."""
        layers = sorted({a for a, _ in senders})
        if not layers:
            return
        self.shuffled[stage] = self.run(self.others, receivers, read, layers)
        if receivers:
            chance = random_like(self.model, receivers, (*receivers, *taken), self.draw)
            self.beside[stage] = self.run(self.some, chance, read, layers)

    def run(self, data: PromptSet, receivers: Sequence[Head], read: str, layers: Sequence[int]) -> Result:
        """Senders of some layers, mean over prompts with its interval."""
        several: Any = [*receivers] or None
        whole = path_patching(
            self.model, data, None, logit_diff(), receivers=several, read=read, layers=[*layers], **self.watch
        )
        return over_prompts(whole)

    def effects(self, result: Result) -> Float[Tensor, "layer head"]:
        """Effects of all layers, 0 for those that were no senders."""
        return everywhere(result, self.model.n_layers)


def over_prompts(result: Result) -> Result:
    """The mean over prompts, where there are several."""
    return result.mean("prompt") if "prompt" in result.dims else result


def everywhere(result: Result, layers: int) -> Float[Tensor, "layer head"]:
    """A result of some layers as one of all, 0 elsewhere."""
    values = torch.zeros(layers, result.values.shape[-1], dtype=result.values.dtype)
    values[list(result.coords["layer"])] = result.values
    return values


def chosen(model: Model, data: PromptSet, n: int) -> list[int]:
    """At most n prompts, each template and order in turn; of those alone that have another of theirs."""
    groups = [rows for rows in alike(model, data).values() if len(rows) > 1]
    if not groups:
        raise TooFewPrompts(
            "no two prompts have one template and order", received=f"{len(data)} prompts", allowed="100 or more"
        )
    turns = [rows[i] for i in range(max(map(len, groups))) for rows in groups if i < len(rows)]
    return sorted(turns[:n])


def donors(model: Model, data: PromptSet, rows: Sequence[int]) -> PromptSet:
    """The prompts at these rows, each with the next prompt of its template and order as its partner."""
    after = {row: own[(i + 1) % len(own)] for own in alike(model, data).values() for i, row in enumerate(own)}
    return replace(data.subset(rows), corrupted=tuple(data.prompts[after[row]] for row in rows))
