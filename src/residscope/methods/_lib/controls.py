"""The negative control of any edit made from a probe: as far, in the cloud's own metric, but in a direction drawn at random."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.errors import BadEdit
from residscope.probes.concept_edit import ConceptEdit, of
from residscope.probes.probe import Probe


@dataclass(frozen=True, eq=False, repr=False)
class AsFar(ConceptEdit):
    """x + |move| u: the Mahalanobis length of another edit's move, along a direction u of Mahalanobis length one.

    inner: the other edit, whose target and true class it takes over. root: the Cholesky factor of Sigma.
    """

    inner: ConceptEdit | None = None
    direction: Float[Tensor, "d"] = field(default_factory=lambda: torch.empty(0))
    root: Float[Tensor, "d d"] = field(default_factory=lambda: torch.empty(0, 0))
    kind: ClassVar[str] = "as_far"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inner, ConceptEdit):
            raise BadEdit(
                "this control needs the edit that it goes as far as",
                received=repr(self.inner)[:80],
                allowed="an edit made from a probe, such as rs.lrqp or rs.concepts.leace",
            )
        self._check_parts(direction=("d",), root=("d", "d"))

    def moved(self, x: Tensor, target: Tensor, true: Tensor | None) -> Tensor:
        assert self.inner is not None
        self._check_width(x, len(self.direction))
        x = x.double()
        move = self.inner.moved(x, target, true) - x
        return x + lengths(move, self.root)[:, None] * self.direction.to(x)

    @property
    def method_name(self) -> str:
        return "random direction"


def as_far(edit: ConceptEdit, probe: Probe, *, seed: int) -> AsFar:
    """As far as `edit` moves each prompt, along one direction drawn from N(0, Sigma), Sigma the probe's total covariance.

    as_far(rs.concepts.leace(probe), probe, seed=0)
    """
    root = torch.linalg.cholesky(probe.covariance.double())
    drawn = torch.randn(len(root), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    where = of(probe, edit.to, edit.pos)
    return AsFar(**where, inner=edit, direction=root @ (drawn / drawn.norm()), root=root)


def lengths(move: Float[Tensor, "batch d"], root: Float[Tensor, "d d"]) -> Float[Tensor, "batch"]:
    """sqrt(m^T Sigma^-1 m) of each move m, Sigma = root root^T."""
    solved = torch.linalg.solve_triangular(root.to(move), move.T, upper=False)
    return solved.norm(dim=0)
