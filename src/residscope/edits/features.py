"""Edits of a dictionary's coefficients: the rest of the value, the dictionary's error included, stays as it was."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.directions import Dictionary
from residscope.edits.base import BaseEdit, Index, Where, as_number, indices, of_head, require_number, require_width
from residscope.engine.protocols import At
from residscope.errors import BadEdit, DirectionError
from residscope.model.sites import Site, SiteTable


@dataclass(frozen=True, eq=False, repr=False)
class Feature(BaseEdit):
    """Scale or set coefficients: y + sum_i (a_i' - a_i) write_i, with a = encode(x). See `feature`.

    x is what the run has at the dictionary's read site, y what it has where the edit writes: one value, but for a transcoder.
    Where the dictionary normalises x and undoes it, write_i is longer by the scale that is undone.
    """

    dictionary: Dictionary | None = None
    index: tuple[int, ...] = ()
    scale: float | None = None
    value: float | None = None
    kind: ClassVar[str] = "feature"

    def __post_init__(self) -> None:
        check_features(self.dictionary, self.index)
        if (self.scale is None) == (self.value is None):
            raise BadEdit(
                "a feature is scaled or set",
                received=f"scale={self.scale}, value={self.value}",
                allowed="one of the two",
            )
        require_number(self.value if self.scale is None else self.scale, "value" if self.scale is None else "scale")

    def fits(self, table: SiteTable) -> None:
        assert self.dictionary is not None
        read, places = self.reads(table), self.places(table)
        require_width([self.dictionary.write[0]], places, table, flat=self.dictionary.flat)
        require_width([self.dictionary.read[0]], read or places, table, flat=self.dictionary.flat)

    def reads(self, table: SiteTable) -> list[Site]:
        return read_of(self.dictionary, table)

    @property
    def idle(self) -> str | None:
        return "it multiplies by one" if self.scale == 1 else None

    def change(self, value: Tensor, at: At) -> Tensor:
        assert self.dictionary is not None
        self.fits(at.table)
        read = self.reads(at.table)
        try:
            x = joined(self.dictionary, wide(at.seen(read[0]) if read else value))
        except KeyError:
            raise BadEdit(
                f"{self.dictionary.name} reads {read[0]}, which the forward has not reached at {at.site}",
                received=self.label,
                allowed="a write site after the read site",
            ) from None
        old = self.dictionary.encode(x, indices=self.index)
        new = torch.full_like(old, self.value) if self.value is not None else old * (self.scale or 0.0)
        there = wide(value)
        moved = self.dictionary.added(x, (new - old).to(there), self.index)
        return (there + moved.reshape(there.shape)).to(value.dtype)

    @property
    def label(self) -> str:
        names = ", ".join(map(str, self.index))
        return f"{super().label} {self.dictionary.name if self.dictionary else ''} {names}"


@edit(title="Scale or set a feature", glyph="◇")
def feature(
    dictionary: Annotated[Dictionary, fields.dictionary()],
    index: Annotated[Index, fields.heads(axis="feature", title="feature")],
    scale: Annotated[float | None, fields.number(strength=True, slide=(-1, 3), step=0.05, unit="×")] = None,
    *,
    value: Annotated[float | None, fields.number(strength=True, slide=(-100, 100), step=1)] = None,
    site: Annotated[str | None, fields.site()] = None,
    **where: Unpack[Where],
) -> Feature:
    """Multiply one coefficient of a dictionary (or several) by `scale`, 0 to remove it; or set it to `value`.

    x + (scale - 1) a_i write_i with a = dictionary.encode(x): what the dictionary leaves out (its error) is kept. At the
    dictionary's own site unless said. Of a transcoder a is read at its read site, as this run has it, and the rest is done at
    its write site.
    """
    numbers = {name: None if x is None else as_number(x) for name, x in {"scale": scale, "value": value}.items()}
    place = getattr(dictionary, "write_site", "") if site is None else site
    chosen = indices({"neuron": index})["neuron"] or ()
    places = indices(of_head(str(place), [dictionary], where))
    return Feature(str(place), dictionary=dictionary, index=chosen, **numbers, **places)


def check_features(dictionary: Any, index: Any) -> None:
    """Refuse what is no dictionary, and features that it does not have."""
    if not isinstance(dictionary, Dictionary):
        raise BadEdit("not a dictionary", received=repr(dictionary)[:80], allowed="a Dictionary, such as rs.pca gives")
    if not index:
        raise BadEdit("say which feature", received=f"index={index!r}", allowed=f"0 to {len(dictionary) - 1}")
    if len({*index}) < len(index):
        raise BadEdit("a feature is named twice", received=f"feature {list(index)}", allowed="each once")
    if dictionary.space == "lens":
        raise BadEdit(
            "a coefficient in the lens space is divided by the final norm, so no multiple of one vector sets it",
            received=f"{dictionary.name}, in the lens space",
            allowed="a dictionary in the raw or centred space",
        )
    if not all(0 <= i < len(dictionary) for i in index):
        raise DirectionError(
            f"{dictionary.name} has {len(dictionary)} directions",
            received=f"feature {list(index)}",
            allowed=f"0 to {len(dictionary) - 1}",
        )


def read_of(dictionary: Dictionary | None, table: SiteTable) -> list[Site]:
    """The read site of a dictionary that writes elsewhere; nothing where one value is read and written."""
    if dictionary is None or dictionary.write_site == dictionary.read_site:
        return []
    return [table.canonical(dictionary.read_site)]


def with_features(
    dictionary: Dictionary, index: tuple[int, ...], x: Float[Tensor, "..."], new: Float[Tensor, "*batch n"]
) -> Float[Tensor, "..."]:
    """x with some of its coefficients made `new`: x + sum_i (new_i - a_i) write_i."""
    there = wide(x)
    read = joined(dictionary, there)
    moved = dictionary.added(read, new.to(there) - dictionary.encode(read, indices=index), index)
    return (there + moved.reshape(there.shape)).to(x.dtype)


def joined(dictionary: Dictionary, x: Tensor) -> Tensor:
    """The vectors that a dictionary reads of a site's value: all heads' end to end where it is `flat`."""
    return x.flatten(-2) if dictionary.flat else x


def wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
