"""A dictionary: a named set of directions at one site."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from residscope.directions.direction import SPACES, Direction, check_told, place
from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongWidth
from residscope.files import read_plain, write_plain
from residscope.items import nbytes_of, save_item
from residscope.same_values import same

if TYPE_CHECKING:
    from residscope.views import Curve, Table

LABELS = {"pca": "PC", "svd": "SV", "nmf": "NMF"}


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A named set of directions at one site (of one head, where the site has heads): `pca[7]` is the eighth.

    name: its kind, such as "pca", "svd", "nmf", "mean_difference", "unembedding". names: of the directions, where they have any.
    `mean` is what is subtracted before reading (zero where nothing is), `sd` the standard deviation along each direction,
    `variance` its share of the whole; `space` as in `Direction`, and `offset` what `lens` adds. For PCA read and write agree and
    are orthonormal; of standardised vectors, with sigma their standard deviation along each axis, read = v / sigma and
    write = v sigma.
    """

    kind: ClassVar[str] = "dictionary"
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

    def __post_init__(self) -> None:
        check_told(self.head, self.provenance, self.name)
        object.__setattr__(self, "provenance", dict(self.provenance))
        if self.space not in SPACES:
            raise DirectionError("no such space", received=repr(self.space), allowed=", ".join(SPACES))
        n, names = len(self.read), self.names
        shapes = {name: tuple(getattr(self, name).shape) for name in ("read", "write", "mean")}
        shapes |= {
            name: tuple(x.shape) for name in ("sd", "variance", "offset") if (x := getattr(self, name)) is not None
        }
        wanted = (
            dict.fromkeys(shapes, (n,))
            | {"mean": self.read.shape[1:]}
            | dict.fromkeys(("read", "write"), (n, *self.read.shape[1:]))
        )
        if self.read.ndim != 2 or shapes != wanted or (names is not None and len(names) != n):
            raise WrongWidth(
                f"the parts of {self.name} do not fit each other",
                received=", ".join(f"{name} {shape}" for name, shape in shapes.items())
                + ("" if names is None else f", {len(names)} names"),
                allowed="read and write (n, d), mean (d,), sd, variance and offset (n,), n names",
            )

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

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes."""
        return nbytes_of(self)

    def view(self) -> "Curve | Table":
        """The scree plot: each direction's variance share, and the sum so far. Without shares, a table of its directions."""
        from residscope.directions.scree import listed, scree

        return listed(self) if self.variance is None else scree(self)

    def save(self, path: str | Path) -> None:
        """One safetensors file that `Dictionary.load` reads; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        (`rs.directions.save` writes several, with enough of the model to know it again.) Raises WrongEnding, FileNotThere,
        NotPlain.
        """
        save_item(self, path, lambda place: write_plain(place, self.kind, {"dictionary": self}))

    @classmethod
    def load(cls, path: str | Path) -> "Dictionary":
        """What `save` wrote. Raises FileNotThere, DamagedFile."""
        found: Dictionary = read_plain(path, cls.kind, only="dictionary", of=Dictionary)
        return found

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Dictionary) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.site, self.head, self.read.shape))

    def _repr_html_(self) -> str | None:
        from residscope.directions.scree import shown

        return None if self.variance is None else shown(self)._repr_html_()

    def __repr__(self) -> str:
        return f"Dictionary({self.name} of {self.place}: {len(self)} directions, width {self.read.shape[1]})"
