"""What a sweep gives: its cost beforehand, the readout of a cell, the slopes of its base."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from residscope.model.sites import Site, SiteTable


@dataclass(frozen=True)
class Cost:
    """What a sweep takes. `plain_flops`: one whole forward for each cell and prompt. `unchanged`: rows answered from the base."""

    flops: int
    plain_flops: int
    seconds: float
    bytes: int
    passes: int
    rows: int
    unchanged: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows in {self.passes} passes ({self.unchanged} that change nothing), {self.flops / 1e9:.3g} GFLOP "
            f"of {self.plain_flops / 1e9:.3g} by plain forwards, about {self.seconds:.2g} s, {self.bytes / 1e6:.0f} MB"
        )


@dataclass(frozen=True)
class Answers:
    """The readout of some prompts under a cell (None: the background alone), a row each; `halved`: how often memory ran out."""

    cell: int | None
    prompts: tuple[int, ...]
    values: Tensor
    halved: int = 0


@dataclass(frozen=True)
class Gradients:
    """What a base run has at some sites, and d readout / d value there: each of the site's own shape, a row for each prompt."""

    values: Mapping[Site, Tensor]
    slopes: Mapping[Site, Tensor]
    table: SiteTable

    def __getitem__(self, site: str | Site) -> Tensor:
        """d readout / d value at a site."""
        return self.slopes[self.table.canonical(site)]

    def estimate(self, site: str | Site, new: Tensor) -> Float[Tensor, "prompt"]:
        """slope . (new - value), the readout's change to first order were the site's value another one."""
        at = self.table.canonical(site)
        return ((new - self.values[at]) * self.slopes[at]).flatten(1).sum(1)
