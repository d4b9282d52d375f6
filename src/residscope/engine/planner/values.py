"""A readout of values: what stands at some sites, at a token of each prompt's own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import UnknownPosition
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site, positions_axis


@dataclass(frozen=True, eq=False)
class ValuesAt:
    """Each prompt's values at some sites, one after another; `split` takes them apart. Of scores and a pattern: a query's row.

    where: for each site a token of every prompt, negative ones counted from its end; or the name of one in the PromptSet.

        at = rs.ValuesAt(model, data, {"z.9": "END", "pattern.9": "END"})
        at.split(rs.sweep(model, data, cells, at, batch=32).run().values)["z.9"]      # [cell, prompt, head, d_head]

    Raises:
        UnknownPosition: no such named position, or another number of tokens than prompts. SiteError.
    """

    model: Model
    prompts: PromptSet
    where: Mapping[str, str | Sequence[int]]
    sites: tuple[str, ...] = field(init=False)
    keys: int = field(init=False)
    _tokens: dict[Site, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        tokens: dict[Site, Tensor] = {}
        lengths = torch.tensor(self.model.batch(self.prompts).lengths)
        for name, at in self.where.items():
            index = torch.tensor([*(self.prompts.at(at) if isinstance(at, str) else at)])
            index = torch.where(index < 0, index + lengths, index) if len(index) == len(lengths) else index
            if len(index) != len(lengths) or bool(((index < 0) | (index >= lengths)).any()):
                raise UnknownPosition(
                    f"{name} is read at one token of each prompt",
                    received=str(at)[:80],
                    allowed=f"{len(lengths)} of them",
                )
            tokens[self.model.sites.canonical(name)] = index
        object.__setattr__(self, "_tokens", tokens)
        object.__setattr__(self, "sites", tuple(map(str, tokens)))
        object.__setattr__(self, "keys", int(lengths.max()))

    def __call__(self, recording: Any) -> Float[Tensor, "batch value"]:
        n, rows = len(recording.lengths), recording.batch.rows
        parts = []
        for site, tokens in self._tokens.items():
            value = recording[site].movedim(positions_axis(site), 1)
            at = (tokens if rows is None else tokens[list(rows)]).to(value.device) - recording.offset
            picked = value[torch.arange(n, device=value.device), at]
            if "key" in site.kind.axes:  # rows of attention are as wide as the batch they were computed in
                picked = torch.nn.functional.pad(picked, (0, self.keys - picked.shape[-1]))
            parts.append(picked.flatten(1))
        return torch.cat([x.to(parts[0]) for x in parts], 1)

    def split(self, values: Float[Tensor, "*some value"]) -> dict[str, Tensor]:
        """The values of each site, under the name it was asked for by, in the site's own shape."""
        shapes = [self._shape(site) for site in self._tokens]
        parts = torch.split(values, [prod(shape) for shape in shapes], -1)
        return {
            name: part.reshape(*values.shape[:-1], *shape)
            for name, part, shape in zip(self.where, parts, shapes, strict=True)
        }

    @property
    def width(self) -> int:
        """How many numbers it is of each prompt."""
        return sum(prod(self._shape(site)) for site in self._tokens)

    def _shape(self, site: Site) -> tuple[int, ...]:
        table = self.model.sites
        axes = [axis for axis in site.kind.axes[1:] if axis not in ("pos", "query")]
        return tuple(self.keys if axis == "key" else table.size(site, axis) or 1 for axis in axes)
