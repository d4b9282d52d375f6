"""Cross-layer transcoders: features that are read in one layer and written in it and all later ones."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import EncoderDictionary
from residscope.errors import UnknownLayer, WrongWidth
from residscope.files import digest, unshared
from residscope.items import nbytes_of


@dataclass(frozen=True, eq=False, repr=False)
class CrossLayer:
    """Features of every layer, each with a write vector for its own layer and every later one.

        a_i = f(read_i x_i + bias_i)
        reconstruct(x)_j = sum over i <= j of a_i @ write_i[:, j - i] + base_j + skip_j x_j

    read[i]: [n, d]; bias[i]: [n]; threshold[i]: [n], JumpReLU where it is given, ReLU where not; write[i]: [n, layers - i, d'];
    base[j]: [d']; skip[j]: [d', d]. reads, writes: the names of the sites, without the layer ("resid_mid", "mlp_out"). Ameisen
    et al. (2025), "Circuit tracing". `at(i, j)` is what layer i writes in layer j, an EncoderDictionary that shares its tensors.

    Raises WrongWidth: parts that do not fit each other.
    """

    read: tuple[Float[Tensor, "n d"], ...]
    bias: tuple[Float[Tensor, "n"], ...]
    write: tuple[Float[Tensor, "n _later d_write"], ...]
    base: tuple[Float[Tensor, " d_write"], ...]
    threshold: tuple[Float[Tensor, "n"], ...] | None = None
    skip: tuple[Float[Tensor, "d_write d"], ...] | None = None
    reads: str = "resid_mid"
    writes: str = "mlp_out"
    name: str = "clt"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        layers = len(self.read)
        each = (self.bias, self.write, self.base, *(x for x in (self.threshold, self.skip) if x is not None))
        if not layers or any(len(parts) != layers for parts in each):
            raise WrongWidth(
                f"{self.name} has not one of each part a layer",
                received=", ".join(str(len(parts)) for parts in (self.read, *each)),
                allowed=f"{layers} each",
            )
        for i, write in enumerate(self.write):
            if write.shape[1] != layers - i:
                raise WrongWidth(
                    f"{self.name}: layer {i} does not write in every later layer",
                    received=f"{write.shape[1]} layers",
                    allowed=f"{layers - i}, layers {i} to {layers - 1}",
                )
            self.at(i, i)  # whose parts are checked against each other

    def __len__(self) -> int:
        """How many layers it has."""
        return len(self.read)

    def __iter__(self) -> Iterator[EncoderDictionary]:
        """Each layer's features with what they write in that layer."""
        return (self.at(i, i) for i in range(len(self)))

    def at(self, i: int, j: int) -> EncoderDictionary:
        """The features of layer i with what they write in layer j. What no feature writes (base, skip) counts at i = j.

        Raises UnknownLayer.
        """
        if not 0 <= i <= j < len(self):
            raise UnknownLayer(
                f"{self.name} has no features of layer {i} that write in layer {j}",
                received=f"at({i}, {j})",
                allowed=f"0 <= i <= j < {len(self)}",
            )
        own = i == j
        return EncoderDictionary(
            self.name,
            f"{self.reads}.{i}",
            self.read[i],
            self.write[i][:, j - i],
            mean=self.read[i].new_zeros(self.read[i].shape[1]),
            bias=self.bias[i],
            base=self.base[j] if own else torch.zeros_like(self.base[j]),
            activation="relu" if self.threshold is None else "jumprelu",
            threshold=None if self.threshold is None else self.threshold[i],
            skip=self.skip[j] if own and self.skip is not None else None,
            written=f"{self.writes}.{j}",
            provenance={**self.provenance, "layers": [i, j]},
        )

    def encode(self, i: int, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch n"]:
        """The activations of layer i's features. Raises UnknownLayer, WrongWidth."""
        return self.at(i, i).encode(x)

    def reconstruct(self, x: Mapping[int, Float[Tensor, "*batch d"]]) -> dict[int, Float[Tensor, "*batch d_write"]]:
        """What all layers write in each, of what stands at each read site; layers that are not given write nothing."""
        found: dict[int, Tensor] = {}
        for i in sorted(x):
            a = self.encode(i, x[i])
            for j in range(i, len(self)):
                part = a @ self.write[i][:, j - i].to(a)
                found[j] = found[j] + part if j in found else part
        for j, y in found.items():
            found[j] = y + self.base[j].to(y)
            if self.skip is not None and j in x:
                found[j] = found[j] + x[j] @ self.skip[j].to(y).T
        return found

    @cached_property
    def hash(self) -> str:
        """sha256 of its sites and its tensors."""
        told = {f"{part}.{i}": x for part in ("read", "bias", "write", "base", "threshold", "skip")
                for i, x in enumerate(getattr(self, part) or ())}  # fmt: skip
        return digest("cross-layer", unshared(told), f"{self.reads} {self.writes}")

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes."""
        return nbytes_of(self)

    def __repr__(self) -> str:
        n, d = self.read[0].shape
        return f"CrossLayer({self.name}: {len(self)} layers of {n} features, width {d}, {self.reads} to {self.writes})"
