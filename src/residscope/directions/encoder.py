"""Dictionaries with an encoder: sparse autoencoders (one site) and transcoders (two)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions.dictionary import BLOCK, Dictionary
from residscope.directions.direction import Direction, check_told
from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongWidth
from residscope.model.sites import Site

ACTIVATIONS = ("relu", "topk", "jumprelu")


@dataclass(frozen=True, eq=False, repr=False)
class EncoderDictionary(Dictionary):
    """Features that an encoder reads at one site and a decoder writes at one; a coordinate is the feature's activation.

        p_i = read_i . (x - mean) + bias_i
        a   = max(p, 0)                 relu
              max(p, 0) of the k largest p, 0 elsewhere    topk
              p where p > threshold, 0 elsewhere           jumprelu
        decode(a) = a @ write + base

    read: W_enc, a row for each feature; bias: b_enc; write: W_dec; base: b_dec. mean: what is subtracted before reading (b_dec in
    many SAEs, zero in others). written: the write site, `site` unless said. Bricken et al. (2023), "Towards monosemanticity";
    Gao et al. (2024), arXiv:2406.04093; Rajamanoharan et al. (2024), arXiv:2407.14435; Dunefsky et al. (2024), arXiv:2406.11944.
    `dictionary[i]` is the affine part alone, p_i.

    Raises:
        WrongWidth, DirectionError: parts that do not fit each other; no such activation.
    """

    name: str
    site: str
    read: Float[Tensor, "n d_read"]
    write: Float[Tensor, "n d_write"]
    mean: Float[Tensor, " d_read"]
    bias: Float[Tensor, "n"]
    base: Float[Tensor, " d_write"]
    activation: str = "relu"
    written: str | None = None
    k: int | None = None
    threshold: Float[Tensor, "n"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] | None = None

    space = "centred"
    head = None
    sd = None
    variance = None
    offset = None

    def __post_init__(self) -> None:
        check_told(None, self.provenance, self.name)
        object.__setattr__(self, "provenance", dict(self.provenance))
        for site in (self.site, self.write_site):
            Site.parse(site)
        shapes = {name: tuple(getattr(self, name).shape) for name in ("read", "write", "mean", "bias", "base")}
        n = len(self.read)
        wanted = {"read": (n, *self.mean.shape), "write": (n, *self.base.shape)}
        wanted |= {"mean": self.read.shape[1:], "bias": (n,), "base": self.write.shape[1:]}
        if self.threshold is not None:
            shapes["threshold"], wanted["threshold"] = tuple(self.threshold.shape), (n,)
        named = n if self.names is None else len(self.names)
        if self.read.ndim != 2 or self.write.ndim != 2 or shapes != wanted or named != n or not n:
            raise WrongWidth(
                f"the parts of {self.name} do not fit each other",
                received=", ".join(f"{name} {shape}" for name, shape in shapes.items()) + f", {named} names",
                allowed="read (n, d), write (n, d'), mean (d,), bias and threshold (n,), base (d',), n names",
            )
        if self.activation not in ACTIVATIONS:
            raise DirectionError("no such activation", received=repr(self.activation), allowed=", ".join(ACTIVATIONS))
        has_k = isinstance(self.k, int) and not isinstance(self.k, bool) and 1 <= self.k <= n
        if (self.activation == "topk") != has_k or (self.k is not None) != has_k:
            raise DirectionError(
                "topk, and it alone, takes a k", received=f"{self.activation}, k={self.k!r}", allowed=f"1 to {n}"
            )
        if (self.activation == "jumprelu") != (self.threshold is not None):
            received = f"{self.activation}, {'no threshold' if self.threshold is None else 'a threshold'}"
            raise DirectionError("jumprelu, and it alone, takes a threshold", received=received)

    @property
    def write_site(self) -> str:
        """Where its write vectors are added: the read site, but for a transcoder."""
        return self.site if self.written is None else self.written

    @property
    def hashed(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        parts = {name: getattr(self, name) for name in ("read", "write", "mean", "bias", "base", "threshold")}
        tensors = {name: x for name, x in parts.items() if x is not None}
        return tensors, {"activation": self.activation, "k": self.k}

    def __getitem__(self, index: int) -> Direction:
        self.check_index(index)
        about = {"dictionary": self.name, "index": index, "before": self.activation, "write_site": self.write_site}
        return Direction(
            read=self.read[index],
            write=self.write[index],
            site=self.site,
            offset=float(self.read[index] @ self.mean) - float(self.bias[index]),
            name=self.label(index),
            space=self.space,
            provenance={**about, **self.provenance},
        )

    def encode(
        self, x: Float[Tensor, "*batch d_read"], *, model: Model | None = None, indices: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch n"]:
        """The activations of x; `indices`: of these features alone, for which never more than a block of all is held.

        Raises WrongWidth; DirectionError.
        """
        self.check_width(x)
        if indices is None:
            return self._activations(x, slice(None))
        self.check_index(*indices)
        chosen = [*indices]
        if self.activation != "topk":
            return self._activations(x, chosen)
        flat = x.reshape(-1, x.shape[-1])
        blocks = torch.split(flat, max(1, BLOCK // len(self)))
        found = torch.cat([self._activations(block, slice(None))[..., chosen] for block in blocks])
        return found.reshape(*x.shape[:-1], len(chosen))

    def _activations(self, x: Tensor, rows: slice | list[int]) -> Tensor:
        p = (x - self.mean.to(x)) @ self.read[rows].to(x).T + self.bias[rows].to(x)
        if self.threshold is not None:
            return torch.where(p > self.threshold[rows].to(x), p, 0)
        if self.k is None:
            return p.relu()
        values, indices = p.topk(self.k, dim=-1)
        return torch.zeros_like(p).scatter(-1, indices, values.relu())

    def decode(self, coordinates: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d_write"]:
        """coordinates @ write + base: what stands at the write site, but for `error`."""
        return coordinates @ self.write.to(coordinates) + self.base.to(coordinates)
