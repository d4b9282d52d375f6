"""A direction: a read vector, a write vector, an offset and a scale, at a site."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, assert_never, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from residscope.engine.model import Model
from residscope.errors import DirectionError, WrongWidth, ZeroDirection
from residscope.items import nbytes_of, save_item
from residscope.model.sites import Site
from residscope.same_values import same
from residscope.views import Card, Grid, Histogram, Reference

Space = Literal["raw", "centred", "lens"]
SPACES: tuple[Space, ...] = get_args(Space)


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

    kind: ClassVar[str] = "direction"
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
        _known(self.space)
        if self.read.ndim != 1 or self.write.shape != self.read.shape:
            raise WrongWidth(
                "a direction is made of two vectors",
                received=f"read {tuple(self.read.shape)}, write {tuple(self.write.shape)}",
                allowed="one axis each, of one length",
            )
        if not (torch.isfinite(self.read).all() and torch.isfinite(self.write).all()):
            raise ZeroDirection("the direction has NaN or infinite entries", received=self.name)
        for fact in ("offset", "scale"):
            number = getattr(self, fact)
            if number is not None or fact == "offset":
                object.__setattr__(self, fact, _finite(number, fact, self.name))
        check_told(self.head, self.provenance, self.name)
        object.__setattr__(
            self, "provenance", dict(self.provenance)
        )  # its own: a Result's is a view, which nothing copies
        object.__setattr__(self, "read", self.read.detach().clone())
        object.__setattr__(self, "write", self.write.detach().clone())

    def project(
        self, x: Float[Tensor, "*batch d"], *, space: str | None = None, model: Model | None = None
    ) -> Float[Tensor, "*batch"]:
        """The coordinate of x in `space` (the direction's own unless said). `lens` needs the model, for its final norm.

        Raises:
            WrongWidth: x has another width than `read`. DirectionError: no such space, or the lens space without a model.
        """
        kind = _known(self.space if space is None else space)
        if x.shape[-1] != len(self.read):
            raise WrongWidth(
                f"{self.name} reads vectors of another width", received=f"{x.shape[-1]}", allowed=f"{len(self.read)}"
            )
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        raw = wide @ self.read.to(wide)
        match kind:
            case "raw":
                return raw
            case "centred":
                return raw - self.offset
            case "lens":
                if model is None:
                    raise DirectionError("the lens space needs the model's final norm", fix="pass model=")
                return raw / model.final_scale(x)[..., 0] + self.offset
            case _:
                assert_never(kind)

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
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes."""
        return nbytes_of(self)

    def view(self) -> Grid:
        """Its facts, and how large the entries of its two vectors are."""
        read, write = self.read.double().cpu(), self.write.double().cpu()
        facts: dict[str, str | float | None] = {
            "place": self.place, "width": len(read), "space": self.space, "|read|": float(read.norm()),
            "|write|": float(write.norm()), "cosine of the two": float(cosine_similarity(read, write, dim=0)),
            "offset": self.offset, "standard deviation along it": self.scale,
        }  # fmt: skip
        shown = {"read": read} if torch.equal(read, write) else {"read": read, "write": write}
        entries = Histogram(shown, bins=40, title="Entries", x_title="entry", references=[Reference(0.0)])
        return Grid([Card(self.name, facts), entries], columns=2, title=f"{self.name} at {self.place}")

    def save(self, path: str | Path) -> None:
        """One safetensors file, as directions are handed on; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        Raises WrongEnding, FileNotThere, NotPlain (its provenance).
        """
        from residscope.directions.sent import write_direction

        save_item(self, path, lambda place: write_direction(self, place))

    @classmethod
    def load(cls, path: str | Path) -> "Direction":
        """What `save` wrote, or an export of the library. Raises FileNotThere, DamagedFile."""
        from residscope.directions.sent import read_direction

        return read_direction(path)

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Direction) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.name, self.site, self.head, self.read.shape))

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    @property
    def place(self) -> str:
        """The site, and the head where it has heads: `result.9 head 3`."""
        return place(self.site, self.head)

    def __repr__(self) -> str:
        return f"Direction({self.name} at {self.place}, width {len(self.read)}, {self.space})"


def check_told(head: Any, provenance: Any, name: Any) -> None:
    """Refuse a head that is no whole number, provenance that is no mapping, a name that is no text."""
    whole = head is None or (isinstance(head, int) and not isinstance(head, bool) and head >= 0)
    if not whole or not isinstance(provenance, Mapping) or not isinstance(name, str):
        raise DirectionError(
            "a direction's facts do not fit",
            received=f"head {head!r}, provenance {type(provenance).__name__}, name {name!r}"[:200],
            allowed="a head or None, a mapping, a text",
        )


def _known(space: str) -> Space:
    for known in SPACES:
        if space == known:
            return known
    raise DirectionError("no such space", received=repr(space), allowed=", ".join(SPACES))


def _finite(number: Any, fact: str, name: str) -> float:
    if isinstance(number, bool) or not isinstance(number, Real) or not isfinite(number):
        raise DirectionError(
            f"the {fact} of {name} is no number", received=repr(number)[:80], allowed="a finite number"
        )
    return float(number)


def place(site: str, head: int | None = None) -> str:
    """A site as people say it, with the head where one is meant.

    >>> place("result.9", 3)
    'result.9 head 3'
    """
    return site if head is None else f"{site} head {head}"
