"""Dictionaries with an encoder: sparse autoencoders (one site) and transcoders (two)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions.dictionary import BLOCK, Dictionary
from residscope.directions.direction import Direction, check_told
from residscope.directions.normalised import NORMALISE, normalised
from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongWidth
from residscope.model.sites import Site

ACTIVATIONS = ("relu", "topk", "jumprelu", "gated")
PARTS = ("read", "write", "mean", "bias", "base")
MORE = ("threshold", "gate_bias", "gate_scale", "skip")


@dataclass(frozen=True, eq=False, repr=False)
class EncoderDictionary(Dictionary):
    """Features that an encoder reads at one site and a decoder writes at one; a coordinate is the feature's activation.

        r_i = read_i . (normalised(x) - mean)
        p_i = r_i + bias_i
        a   = max(p, 0)                                    relu
              max(p, 0) of the k largest p, 0 elsewhere    topk
              p where p > threshold, 0 elsewhere           jumprelu
              max(r exp(gate_scale) + bias, 0) where r + gate_bias > 0, 0 elsewhere    gated
        decode(a) = a @ write + base
        reconstruct(x) = decode(encode(x)) scale(x) + shift(x) + skip x

    read: W_enc, a row for each feature; bias: b_enc (b_mag of a gated one); write: W_dec; base: b_dec. mean: what is subtracted
    before reading (b_dec in many SAEs, zero in others). written: the write site, `site` unless said. normalise: as
    `directions.normalised` has it; scale and shift undo it, and are 1 and 0 where it writes elsewhere than it reads. gate_scale:
    r_mag. skip: of a transcoder with a linear path beside its features. At a site with heads (`z.6`) it reads and writes all
    heads' vectors end to end. `dictionary[i]` is the affine part alone: p_i, or r_i + gate_bias_i. Bricken et al. (2023),
    "Towards monosemanticity"; Gao et al. (2024), arXiv:2406.04093; Rajamanoharan et al. (2024), arXiv:2404.16014 (gated),
    arXiv:2407.14435 (jumprelu); Dunefsky et al. (2024), arXiv:2406.11944; Paulo et al. (2025), arXiv:2501.18823 (skip).

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
    gate_bias: Float[Tensor, "n"] | None = None
    gate_scale: Float[Tensor, "n"] | None = None
    normalise: str = "none"
    skip: Float[Tensor, "d_write d_read"] | None = None

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
        self._check_shapes()
        self._check_activation()

    def _check_shapes(self) -> None:
        held = {name: getattr(self, name) for name in (*PARTS, *MORE)}
        shapes = {name: tuple(x.shape) for name, x in held.items() if x is not None}
        n, d, d_write = len(self.read), tuple(self.read.shape[1:]), tuple(self.write.shape[1:])
        wanted = {"read": (n, *self.mean.shape), "write": (n, *self.base.shape), "mean": d, "base": d_write}
        wanted |= {"skip": (*d_write, *d)} | dict.fromkeys(("bias", "threshold", "gate_bias", "gate_scale"), (n,))
        named = n if self.names is None else len(self.names)
        fits = all(shape == wanted[name] for name, shape in shapes.items())
        if self.read.ndim != 2 or self.write.ndim != 2 or not fits or named != n or not n:
            raise WrongWidth(
                f"the parts of {self.name} do not fit each other",
                received=", ".join(f"{name} {shape}" for name, shape in shapes.items()) + f", {named} names",
                allowed="read (n, d), write (n, d'), mean (d,), bias, threshold, gates (n,), base (d',), skip (d', d), n names",
            )

    def _check_activation(self) -> None:
        for what, given, allowed in (
            ("activation", self.activation, ACTIVATIONS),
            ("normalisation", self.normalise, NORMALISE),
        ):
            if given not in allowed:
                raise DirectionError(f"no such {what}", received=repr(given), allowed=", ".join(allowed))
        n = len(self.read)
        has_k = isinstance(self.k, int) and not isinstance(self.k, bool) and 1 <= self.k <= n
        if (self.activation == "topk") != has_k or (self.k is not None) != has_k:
            raise DirectionError(
                "topk, and it alone, takes a k", received=f"{self.activation}, k={self.k!r}", allowed=f"1 to {n}"
            )
        for kind, part in (("jumprelu", "threshold"), ("gated", "gate_bias"), ("gated", "gate_scale")):
            there = getattr(self, part) is not None
            if (self.activation == kind) != there:
                received = f"{self.activation}, {part} {'given' if there else 'missing'}"
                raise DirectionError(f"{kind}, and it alone, takes a {part}", received=received)

    @property
    def write_site(self) -> str:
        """Where its write vectors are added: the read site, but for a transcoder."""
        return self.site if self.written is None else self.written

    @property
    def flat(self) -> bool:
        return {"head", "kv_head"} & {*Site.parse(self.site).kind.axes} != set()

    @property
    def hashed(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        parts = {name: getattr(self, name) for name in (*PARTS, *MORE)}
        tensors = {name: x for name, x in parts.items() if x is not None}
        facts = {"activation": self.activation, "k": self.k}
        return tensors, facts | ({} if self.normalise == "none" else {"normalise": self.normalise})

    def __getitem__(self, index: int) -> Direction:
        self.check_index(index)
        about = {"dictionary": self.name, "index": index, "before": self.activation, "write_site": self.write_site}
        about |= {} if self.normalise == "none" else {"normalise": self.normalise}
        bias = self.bias if self.gate_bias is None else self.gate_bias
        return Direction(
            read=self.read[index],
            write=self.write[index],
            site=self.site,
            offset=float(self.read[index] @ self.mean) - float(bias[index]),
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
        r = (normalised(x, self.normalise).value - self.mean.to(x)) @ self.read[rows].to(x).T
        bias = self.bias[rows].to(x)
        if self.gate_bias is not None and self.gate_scale is not None:
            size = (r * self.gate_scale[rows].to(x).exp() + bias).relu()
            return torch.where(r + self.gate_bias[rows].to(x) > 0, size, 0)
        p = r + bias
        if self.threshold is not None:
            return torch.where(p > self.threshold[rows].to(x), p, 0)
        if self.k is None:
            return p.relu()
        values, indices = p.topk(self.k, dim=-1)
        return torch.zeros_like(p).scatter(-1, indices, values.relu())

    def decode(self, coordinates: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d_write"]:
        """coordinates @ write + base, which is `reconstruct` where there is no skip and no normalisation to undo."""
        return coordinates @ self.write.to(coordinates) + self.base.to(coordinates)

    def reconstruct(self, x: Float[Tensor, "*batch d_read"]) -> Float[Tensor, "*batch d_write"]:
        """decode(encode(x)), with the normalisation undone and what the linear path beside the features writes."""
        found = self.decode(self.encode(x))
        if self._undone:
            _, scale, shift = normalised(x, self.normalise)
            found = found * scale + shift
        return found if self.skip is None else found + x @ self.skip.to(x).T

    def added(
        self, x: Float[Tensor, "*batch d_read"], change: Float[Tensor, "*batch some"], indices: Sequence[int]
    ) -> Float[Tensor, "*batch d_write"]:
        """What a change of some activations adds at the write site: change @ write, times the undone scale of x."""
        found = super().added(x, change, indices)
        return found * self.write_scale(x).to(found) if self._undone else found

    def write_scale(self, x: Float[Tensor, "*batch d_read"]) -> Float[Tensor, "*batch 1"]:
        """The undone scale of x where it normalises and writes where it reads; one elsewhere."""
        return normalised(x, self.normalise).scale if self._undone else super().write_scale(x)

    @property
    def _undone(self) -> bool:
        return self.normalise != "none" and self.write_site == self.read_site
