"""Directions and dictionaries: everything worth knowing about the stream is a direction in it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.parameters import in_memory, plain_weight
from residscope.errors import CappedLogits, DirectionError, WrongModel, WrongWidth, ZeroDirection
from residscope.model.sites import Site

SPACES = ("raw", "centred", "lens")
LABELS = {"pca": "PC", "svd": "SV", "nmf": "NMF"}


@dataclass(frozen=True, eq=False)
class Direction:
    """A read vector, a write vector, an offset and a scale, at a site, with where it came from.

    The coordinate of a stream vector x is, by space,

        raw      read . x
        centred  read . x - offset
        lens     read . x / sigma(x) + offset      (sigma: the final norm's divisor for x; logits units)

    `space` is the one the direction was made in. `write` is what steering adds; `scale` is the standard deviation of
    the coordinate on the data the direction was fitted on, where that is known. `head` says whose, at a site with heads.

    Directions form an algebra: `0.5 * pca[3] - 0.2 * pca[7]`.
    """

    read: Float[Tensor, "d"]
    write: Float[Tensor, "d"]
    site: str
    offset: float = 0.0
    scale: float | None = None
    name: str = "direction"
    space: str = "raw"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    head: int | None = None

    def __post_init__(self) -> None:
        Site.parse(self.site)
        if self.space not in SPACES:
            raise DirectionError("no such space", received=repr(self.space), allowed=", ".join(SPACES))
        if self.read.ndim != 1 or self.write.ndim != 1:
            raise WrongWidth(
                "a direction is made of two vectors",
                received=f"read {tuple(self.read.shape)}, write {tuple(self.write.shape)}",
                allowed="one axis each",
            )
        if not (torch.isfinite(self.read).all() and torch.isfinite(self.write).all()):
            raise ZeroDirection("the direction has NaN or infinite entries", received=self.name)
        object.__setattr__(self, "read", self.read.detach().clone())
        object.__setattr__(self, "write", self.write.detach().clone())

    def project(
        self, x: Float[Tensor, "*batch d"], *, space: str | None = None, model: Model | None = None
    ) -> Float[Tensor, "*batch"]:
        """The coordinate of x in `space` (the direction's own unless said). `lens` needs the model, for its final norm.

        Raises:
            WrongWidth: x has another width than `read`.
        """
        space = space or self.space
        if x.shape[-1] != len(self.read):
            raise WrongWidth(
                f"{self.name} reads vectors of another width", received=f"{x.shape[-1]}", allowed=f"{len(self.read)}"
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        raw = wide @ self.read.to(wide)
        if space == "centred":
            return raw - self.offset
        if space == "lens":
            if model is None:
                raise DirectionError("the lens space needs the model's final norm", fix="pass model=")
            return raw / model.final_scale(x)[..., 0] + self.offset
        return raw

    def unit(self) -> "Direction":
        """The same direction with read and write of length one. Raises ZeroDirection where there is none."""
        read, write = self.read.norm(), self.write.norm()
        if read == 0 or write == 0:
            raise ZeroDirection("a direction of length zero cannot be normalised", received=self.name)
        scale = None if self.scale is None else self.scale / float(read)
        return replace(
            self, read=self.read / read, write=self.write / write, offset=self.offset / float(read), scale=scale
        )

    def cosine(self, other: "Direction") -> float:
        """Cosine of the two read vectors."""
        return float(
            torch.nn.functional.cosine_similarity(self.read.double(), other.read.double().to(self.read.device), dim=0)
        )

    def __add__(self, other: "Direction") -> "Direction":
        if len(other.read) != len(self.read):
            raise WrongWidth(
                "the directions have different widths", received=f"{len(other.read)}", allowed=f"{len(self.read)}"
            )
        if (other.place, other.space) != (self.place, self.space):
            raise DirectionError(
                "the directions stand at different sites or in different spaces",
                received=f"{other.name} at {other.place} ({other.space})",
                allowed=f"{self.place} ({self.space})",
                fix="move one with `.at(site)`, if you mean to",
            )
        return Direction(
            read=self.read + other.read,
            write=self.write + other.write,
            site=self.site,
            offset=self.offset + other.offset,
            name=f"{self.name} + {other.name}".replace("+ -", "- "),
            space=self.space,
            provenance={"sum": [dict(self.provenance), dict(other.provenance)]},
            head=self.head,
        )

    def __mul__(self, factor: float) -> "Direction":
        name = f"({self.name})" if " + " in self.name or " - " in self.name else self.name
        return Direction(
            read=self.read * factor,
            write=self.write * factor,
            site=self.site,
            offset=self.offset * factor,
            scale=None if self.scale is None else self.scale * abs(factor),
            name=f"-{name}" if factor == -1 else f"{factor:g} {name}",
            space=self.space,
            provenance={"times": factor, "of": dict(self.provenance)},
            head=self.head,
        )

    __rmul__ = __mul__

    def __neg__(self) -> "Direction":
        return self * -1

    def __sub__(self, other: "Direction") -> "Direction":
        return self + (-other)

    def at(self, site: str) -> "Direction":
        """The same vectors at another site: a claim of the caller's, since nothing makes two sites share a basis."""
        return replace(self, site=site, provenance={"moved": self.site, "of": dict(self.provenance)})

    @property
    def place(self) -> str:
        """The site, and the head where it has heads: `result.9 head 3`."""
        return place(self.site, self.head)

    def __repr__(self) -> str:
        return f"Direction({self.name} at {self.place}, width {len(self.read)}, {self.space})"


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A named set of directions at one site (of one head, where the site has heads): `pca[7]` is the eighth.

    name: its kind, such as "pca", "svd", "nmf", "mean_difference", "unembedding". names: of the directions, where they have any.
    `mean` is what is subtracted before reading (zero where nothing is), `sd` the standard deviation along each direction,
    `variance` its share of the whole; `space` as in `Direction`, and `offset` what `lens` adds. For PCA read and write agree and
    are orthonormal; of standardised vectors, with sigma their standard deviation along each axis, read = v / sigma and
    write = v sigma.
    """

    name: str
    site: str
    read: Float[Tensor, "n d"]
    write: Float[Tensor, "n d"]
    mean: Float[Tensor, "d"]
    sd: Float[Tensor, "n"] | None = None
    variance: Float[Tensor, "n"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    head: int | None = None
    space: str = "centred"
    offset: Float[Tensor, "n"] | None = None
    names: tuple[str, ...] | None = None

    @property
    def place(self) -> str:
        """The site, and the head where it has heads: `result.9 head 3`."""
        return place(self.site, self.head)

    def label(self, index: int) -> str:
        """What one direction is called: its own name, or such as "PC 7"."""
        return self.names[index] if self.names else f"{LABELS.get(self.name, self.name)} {index}"

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> Direction:
        if not 0 <= index < len(self):
            raise DirectionError(
                f"{self.name} has {len(self)} directions", received=str(index), allowed=f"0 to {len(self) - 1}"
            )
        if self.space == "lens":
            offset = 0.0 if self.offset is None else float(self.offset[index])
        else:
            offset = float(self.read[index] @ self.mean)
        return Direction(
            read=self.read[index],
            write=self.write[index],
            site=self.site,
            offset=offset,
            scale=None if self.sd is None else float(self.sd[index]),
            name=self.label(index),
            space=self.space,
            provenance={"dictionary": self.name, "index": index, **self.provenance},
            head=self.head,
        )

    def __iter__(self) -> Iterator[Direction]:
        return (self[i] for i in range(len(self)))

    def encode(self, x: Float[Tensor, "*batch d"], *, model: Model | None = None) -> Float[Tensor, "*batch n"]:
        """Coordinates of x - mean; in the lens space of x / sigma(x), for which it needs the model. Raises WrongWidth."""
        if x.shape[-1] != self.read.shape[1]:
            raise WrongWidth(
                f"{self.name} reads another width", received=f"{x.shape[-1]}", allowed=f"{self.read.shape[1]}"
            )
        if self.space != "lens":
            return (x - self.mean.to(x)) @ self.read.to(x).T
        if model is None:
            raise DirectionError("the lens space needs the model's final norm", fix="pass model=")
        read = x @ self.read.to(x).T / model.final_scale(x)
        return read if self.offset is None else read + self.offset.to(x)

    def decode(self, coordinates: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d"]:
        """mean + coordinates @ write: x again but for `error`."""
        return coordinates @ self.write.to(coordinates) + self.mean.to(coordinates)

    def error(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """What the dictionary leaves out: x = decode(encode(x)) + error(x)."""
        return x - self.decode(self.encode(x))

    def __repr__(self) -> str:
        return f"Dictionary({self.name} of {self.place}: {len(self)} directions, width {self.read.shape[1]})"


def place(site: str, head: int | None = None) -> str:
    """A site as people say it, with the head where one is meant.

    >>> place("result.9", 3)
    'result.9 head 3'
    """
    return site if head is None else f"{site} head {head}"


def unembedding(model: Model, token: str | int, *, site: str | None = None, before_cap: bool = False) -> Direction:
    """One token's logit as a direction of the stream: W_U's column, the final norm's gain and the model's scale folded in.

    logit = read . x / sigma(x) + offset, exactly so at the end of the stream, a lens before it (nostalgebraist, 2020).
    Where the model caps its logits, c tanh(logit / c), no direction gives them; `before_cap` gives what the cap takes.
    Raises UnknownToken, CappedLogits.
    """
    cap, factor = model.layout.factors.logits_cap, model.layout.factors.logits
    if cap is not None and not before_cap:
        raise CappedLogits(
            "this model caps its logits, so a logit is not a linear function of the stream",
            received=f"a cap of {cap:g}",
            allowed="the logit before the cap, which has the same order over the tokens",
            fix="give before_cap=True, or read the logits themselves",
        )
    index = model.token_id(token)
    norm = model.layout.final_norm
    column = model.W_U[:, index].float() * factor
    read = norm.center(norm.gain.float() * column)
    bias = 0.0 if norm.bias is None else float(norm.bias.float() @ column)
    head_bias = in_memory(model.layout.unembed, "bias")
    bias += 0.0 if head_bias is None else float(head_bias[index]) * factor
    text = model.token_texts([index])[0]
    return Direction(
        read=read,
        write=read,
        site=site or f"resid_post.{model.n_layers - 1}",
        offset=bias,
        name=f"logit {text!r}" + (" before the cap" if cap is not None else ""),
        space="lens",
        provenance={"unembedding": text, "id": index, "model": model.hash},
    )


def logit_diff(
    model: Model, positive: str | int, negative: str | int, *, site: str | None = None, before_cap: bool = False
) -> Direction:
    """logit(positive) - logit(negative) as a direction of the stream; see `unembedding`."""
    difference = unembedding(model, positive, site=site, before_cap=before_cap)
    difference = difference - unembedding(model, negative, site=site, before_cap=before_cap)
    names = [model.token_texts([model.token_id(token)])[0].strip() for token in (positive, negative)]
    capped = " before the cap" if model.layout.factors.logits_cap is not None else ""
    return replace(difference, name=f"{names[0]} - {names[1]}{capped}")


def save(
    path: str | Path, dictionaries: Mapping[str, Dictionary], model: Model, *, dtype: torch.dtype = torch.float32
) -> None:
    """Dictionaries of one model in one safetensors file, with enough of its weights to know it again."""
    from safetensors.torch import save_file

    tensors = {"signature": signature(model)}
    for site, d in dictionaries.items():
        tensors |= {f"{site}/read": d.read.to(dtype), f"{site}/mean": d.mean}
        tensors |= {f"{site}/{name}": x for name in ("sd", "variance") if (x := getattr(d, name)) is not None}
    about = {site: {"name": d.name, "provenance": dict(d.provenance)} for site, d in dictionaries.items()}
    save_file(
        {k: v.contiguous().cpu() for k, v in tensors.items()}, str(path), metadata={"dictionaries": json.dumps(about)}
    )


def read(path: str | Path, model: Model) -> dict[str, Dictionary]:
    """What `save` wrote, by site. Raises WrongModel where it was made on another model's weights."""
    from safetensors import safe_open

    with safe_open(str(path), "pt", device=str(model.device)) as file:
        found = file.get_tensor("signature")
        if found.shape != signature(model).shape or not torch.allclose(found, signature(model), rtol=1e-2, atol=1e-3):
            raise WrongModel(
                "these directions were made on another model's weights", received=str(path), allowed=model.name
            )
        about = json.loads(file.metadata()["dictionaries"])
        held = set(file.keys())

        def tensor(key: str) -> Tensor | None:
            return file.get_tensor(key).float() if key in held else None

        dictionaries = {}
        for site, entry in about.items():
            vectors, mean = tensor(f"{site}/read"), tensor(f"{site}/mean")
            assert vectors is not None
            assert mean is not None
            vectors = vectors / vectors.norm(dim=1, keepdim=True)
            dictionaries[site] = Dictionary(
                name=entry["name"],
                site=site,
                read=vectors,
                write=vectors,
                mean=mean,
                sd=tensor(f"{site}/sd"),
                variance=tensor(f"{site}/variance"),
                provenance=entry["provenance"],
            )
    return dictionaries


def shipped(model: Model) -> dict[str, Dictionary]:
    """The PCA dictionaries that come with Residscope for this model, by site; none for models other than the default."""
    for file in sorted((Path(__file__).parent / "data").glob("*.safetensors")):
        try:
            return read(file, model)
        except WrongModel:
            continue
    return {}


def signature(model: Model) -> Float[Tensor, "n"]:
    """A few of the model's weights: the same to rounding in any dtype, different for any other model."""
    gain = model.layout.final_norm.gain.float()
    embed = plain_weight(model.layout.embed).to(gain.device)
    return torch.cat([gain, embed[:2].float().flatten()])
