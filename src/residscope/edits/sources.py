"""Edits that take a site's value from another run: hold it there, or patch it in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from residscope.edits.base import BaseEdit, Index, indices, positions_axis
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, UnknownPosition


@dataclass(frozen=True, eq=False, repr=False)
class Freeze(BaseEdit):
    """Hold at what the unedited run of the same prompt has there. See `freeze`."""

    kind: ClassVar[str] = "freeze"
    needs_unedited: ClassVar[bool] = True

    def change(self, value: Tensor, at: At) -> Tensor:
        held = at.unedited(at.site)
        axis = positions_axis(at)
        return held.narrow(axis, at.offset, held.shape[axis] - at.offset)


@dataclass(frozen=True, eq=False, repr=False)
class Patch(BaseEdit):
    """Take the value another run has there, position to position. See `patch`."""

    source: Any = None
    align: Mapping[int, int] | None = None
    kind: ClassVar[str] = "patch"

    def prepare(self, model: Model) -> "Patch":
        source = self.source
        if not isinstance(source, Recording | Mapping):
            source = model.run(source, capture=self.places(model.sites))
        if isinstance(source, Recording):
            if source.model.layout.sizes != model.layout.sizes:
                raise BadEdit(
                    "the source is a recording of another model", received=source.model.name, allowed=model.name
                )
            if source.offset:
                raise BadEdit("the source is a window over later positions", fix="record the whole prompt")
            source = {str(site): source[site] for site in self.places(model.sites)}
        return replace(self, source=source)

    def change(self, value: Tensor, at: At) -> Tensor:
        held: Tensor = at.mine(self.source[str(at.site)]).to(value)
        axis = positions_axis(at)
        length = at.batch.ids.shape[1]
        align = self.align
        if align is None and self.pos is not None and held.shape[axis] != length and min(self.pos) >= 0:
            align = {p: p for p in self.pos}
        if align is not None and "key" not in at.site.kind.axes:
            return self._aligned(value, held, align, at)
        if held.shape[axis] != length or held.shape[0] not in (1, value.shape[0]):
            raise BadEdit(
                "the source's prompt is of another length",
                received=f"{tuple(held.shape)}",
                allowed=f"{length} positions",
                fix="say pos=, or align={to: from}",
            )
        return held.narrow(axis, at.offset, length - at.offset).expand_as(value)

    def _aligned(self, value: Tensor, held: Tensor, align: Mapping[int, int], at: At) -> Tensor:
        axis, length = positions_axis(at), at.batch.ids.shape[1]
        new = value.clone()
        for to, source in align.items():
            if not 0 <= to < length or not 0 <= source < held.shape[axis]:
                raise UnknownPosition(
                    "the positions to patch are not all there",
                    received=f"{to} from {source}",
                    allowed=f"0 to {length - 1} from 0 to {held.shape[axis] - 1}",
                )
            if to >= at.offset:
                new.select(axis, to - at.offset).copy_(held.select(axis, source))
        return new

    def to_dict(self) -> dict[str, Any]:
        if isinstance(self.source, Recording):
            return self.prepare(self.source.model).to_dict()
        found = super().to_dict()
        return found | ({"align": {str(k): v for k, v in self.align.items()}} if self.align else {})


def freeze(site: str, **where: Index) -> Freeze:
    """Hold a site (`"norms"` and `"patterns"`: all of them) at what the unedited run of the same prompt has there."""
    return Freeze(str(site), **indices(where))


def patch(site: str, source: Any, *, align: Mapping[int, int] | None = None, **where: Index) -> Patch:
    """Take the value that `source` (a recording, or a prompt to run) has at the site; `align` maps positions {to: from}."""
    return Patch(str(site), source=source, align=align, **indices(where))
