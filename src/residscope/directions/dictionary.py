"""What every dictionary is, whichever kind: directions read at one site and written at one, and a content hash."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.directions.direction import Direction, place
from residscope.directions.scree import listed, scree, shown
from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongWidth
from residscope.files import digest, read_plain, unshared, write_plain
from residscope.items import nbytes_of, save_item
from residscope.same_values import same
from residscope.views import Curve, Table

LABELS = {"pca": "PC", "svd": "SV", "nmf": "NMF"}
DICTIONARY_HASH = "dictionary hash"
"""What a direction's provenance calls the hash of the dictionary that it is one of, beside its `index` there."""
BLOCK = 1 << 22  # entries of a block of coordinates: 16 MiB in float32


class Strongest(NamedTuple):
    """The k coordinates of each vector that are largest in absolute value, largest first, and whose they are."""

    values: Float[Tensor, "*batch k"]
    indices: Int[Tensor, "*batch k"]


class Dictionary:
    """A named set of directions, read at one site and written at one: `pca[7]` is the eighth.

        x = reconstruct(x) + error(x),    reconstruct(x) = decode(encode(x))

    A kind is a frozen dataclass below this one that says `encode`, `decode` and `hashed`: `LinearDictionary`, of which
    `Dictionary(...)` makes one, or `EncoderDictionary` (an SAE, a transcoder). name: its kind, such as "pca", "sae". site: where
    it is read, `write_site` where its write vectors are added (the same but for a transcoder). read[n, d] and write[n, d'] are
    its vectors, `mean` is what is subtracted before reading, `space` as in `Direction`. names: of the directions, where they have
    any. `sd` and `variance` are known of what was fitted alone.
    """

    kind: ClassVar[str] = "dictionary"
    usual: ClassVar[Any] = None
    name: str
    site: str
    read: Tensor
    write: Tensor
    mean: Tensor
    sd: Tensor | None
    variance: Tensor | None
    provenance: Mapping[str, Any]
    head: int | None
    space: str
    offset: Tensor | None
    names: tuple[str, ...] | None

    def __init_subclass__(cls, *, usual: bool = False) -> None:
        if usual:
            Dictionary.usual = cls

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        made: Self = object.__new__(Dictionary.usual if cls is Dictionary else cls)
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def encode(
        self, x: Float[Tensor, "*batch d"], *, model: Model | None = None, indices: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch n"]:
        """The coordinates of x, or those of some directions alone. Raises WrongWidth; DirectionError for no such direction."""
        raise NotImplementedError

    def decode(self, coordinates: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d"]:
        """What the coordinates stand for, at the write site."""
        raise NotImplementedError

    @property
    def hashed(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """The tensors and the plain facts that its numbers come from: what `hash` is of."""
        raise NotImplementedError

    def reconstruct(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d_write"]:
        """What it makes of x at the write site: decode(encode(x)), and what an encoder has beside. Raises as `encode`."""
        return self.decode(self.encode(x))

    def added(
        self, x: Float[Tensor, "*batch d"], change: Float[Tensor, "*batch some"], indices: Sequence[int]
    ) -> Float[Tensor, "*batch d_write"]:
        """What a change of some coordinates of x adds at the write site: change @ write[indices]."""
        return change @ self.write[[*indices]].to(change)

    def write_scale(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch 1"]:
        """What its write vectors are multiplied by beside the coordinates of x: one, unless it undoes a normalisation."""
        return x.new_ones((*x.shape[:-1], 1))

    @property
    def flat(self) -> bool:
        """Whether it reads all heads' vectors end to end: an encoder at a site with heads, of none of them alone."""
        return False

    @property
    def read_site(self) -> str:
        """Where it is read: `site`."""
        return self.site

    @property
    def write_site(self) -> str:
        """Where its write vectors are added."""
        return self.site

    @cached_property
    def hash(self) -> str:
        """sha256 of its kind, its sites and its tensors (dtype, shape, bytes), whatever it is called and wherever it came from.

        Taken once: a dictionary is never changed in place.
        """
        tensors, facts = self.hashed
        told = {"class": type(self).__name__, "read_site": self.read_site, "write_site": self.write_site, **facts}
        return digest("dictionary", unshared(tensors), json.dumps(told, sort_keys=True))

    def strongest(self, x: Float[Tensor, "*batch d"], k: int, *, model: Model | None = None) -> Strongest:
        """The k strongest coordinates of each vector; never holds those of more than a block of vectors. Raises WrongWidth."""
        if k < 1:
            raise DirectionError("so many directions cannot be the strongest", received=str(k), allowed="1 or more")
        shape, flat = x.shape[:-1], x.reshape(-1, x.shape[-1])
        found = []
        for block in torch.split(flat, max(1, BLOCK // max(1, len(self)))):
            coordinates = self.encode(block, model=model)
            indices = coordinates.abs().topk(min(k, len(self)), dim=-1).indices
            found.append((coordinates.gather(-1, indices), indices))
        if not found:
            none = x.new_zeros((*shape, min(k, len(self))))
            return Strongest(none, none.long())
        values, indices = (torch.cat(parts).reshape(*shape, -1) for parts in zip(*found, strict=True))
        return Strongest(values, indices)

    def error(
        self, x: Float[Tensor, "*batch d"], target: Float[Tensor, "*batch d_write"] | None = None
    ) -> Float[Tensor, "*batch d_write"]:
        """What the dictionary leaves out: target - reconstruct(x).

        target: what stands at the write site where that is another than the one that is read; x itself elsewhere. Raises
        DirectionError without one.
        """
        if target is None and self.write_site != self.read_site:
            raise DirectionError(
                f"{self.name} reads {self.read_site} and writes {self.write_site}, so its error needs what stands there",
                received="no target",
                allowed=f"the value at {self.write_site}",
                fix="error(x, target)",
            )
        return (x if target is None else target) - self.reconstruct(x)

    @property
    def place(self) -> str:
        """The site, and the head where it has heads: `result.9 head 3`; both sites of one that has two."""
        own = place(self.site, self.head)
        return own if self.write_site == self.site else f"{own} to {self.write_site}"

    def label(self, index: int) -> str:
        """What one direction is called: its own name, or such as "PC 7"."""
        return self.names[index] if self.names else f"{LABELS.get(self.name, self.name)} {index}"

    def __len__(self) -> int:
        return len(self.read)

    def __getitem__(self, index: int) -> Direction:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Direction]:
        return (self[i] for i in range(len(self)))

    def check_index(self, *indices: int) -> None:
        """Raises DirectionError for a direction that it does not have."""
        if not all(0 <= index < len(self) for index in indices):
            raise DirectionError(
                f"{self.name} has {len(self)} directions",
                received=", ".join(map(str, indices)),
                allowed=f"0 to {len(self) - 1}",
            )

    def check_width(self, x: Tensor) -> None:
        """Raises WrongWidth for vectors that it cannot read."""
        if x.shape[-1] != self.read.shape[1]:
            raise WrongWidth(
                f"{self.name} reads another width", received=f"{x.shape[-1]}", allowed=f"{self.read.shape[1]}"
            )

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes."""
        return nbytes_of(self)

    def view(self) -> Curve | Table:
        """The scree plot: each direction's variance share, and the sum so far. Without shares, a table of its directions."""
        return listed(self) if self.variance is None else scree(self)

    def save(self, path: str | Path) -> None:
        """One safetensors file that `Dictionary.load` reads; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        (`rs.directions.save` writes several, with enough of the model to know it again.) Raises WrongEnding, FileNotThere,
        NotPlain.
        """
        save_item(self, path, lambda place: write_plain(place, self.kind, {"dictionary": self}))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """What `save` wrote, of whichever kind. Raises FileNotThere, DamagedFile."""
        found: Self = read_plain(path, cls.kind, only="dictionary", of=cls)
        return found

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Dictionary) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.site, self.head, self.read.shape))

    def _repr_html_(self) -> str | None:
        return None if self.variance is None else shown(self)._repr_html_()

    def __repr__(self) -> str:
        return f"Dictionary({self.name} of {self.place}: {len(self)} directions, width {self.read.shape[1]})"
