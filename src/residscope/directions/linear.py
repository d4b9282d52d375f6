"""Linear dictionaries: principal components, singular vectors, mean differences, rows of W_U."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residscope.directions.dictionary import Dictionary
from residscope.directions.direction import SPACES, Direction, check_told
from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongWidth


@dataclass(frozen=True, eq=False, repr=False)
class LinearDictionary(Dictionary, usual=True):
    """A named set of directions at one site (of one head, where the site has heads), read by inner products.

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
    def hashed(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        parts = {name: getattr(self, name) for name in ("read", "write", "mean", "offset")}
        tensors = {name: x for name, x in parts.items() if x is not None}
        return tensors, {"head": self.head, "space": self.space}

    def __getitem__(self, index: int) -> Direction:
        self.check_index(index)
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

    def encode(
        self, x: Float[Tensor, "*batch d"], *, model: Model | None = None, indices: Sequence[int] | None = None
    ) -> Float[Tensor, "*batch n"]:
        """Coordinates of x - mean; in the lens space of x / sigma(x), for which it needs the model. `indices`: of these alone.

        Raises WrongWidth; DirectionError.
        """
        self.check_width(x)
        rows, offset = self.read, self.offset
        if indices is not None:
            self.check_index(*indices)
            rows, offset = rows[[*indices]], None if offset is None else offset[[*indices]]
        if self.space != "lens":
            return (x - self.mean.to(x)) @ rows.to(x).T
        if model is None:
            raise DirectionError("the lens space needs the model's final norm", fix="pass model=")
        read = x @ rows.to(x).T / model.final_scale(x)
        return read if offset is None else read + offset.to(x)

    def decode(self, coordinates: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch d"]:
        """mean + coordinates @ write: x again but for `error`."""
        return coordinates @ self.write.to(coordinates) + self.mean.to(coordinates)
