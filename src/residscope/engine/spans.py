"""Spans: a pass over whole prompts of which each run of positions has edits of its own.

Where blocks carry a state from token to token that is no keys and values, later positions can only be had together with the
earlier ones. A window then runs from the first token on: what stands before it has the edits of its base, and what it holds
its own, as if the base's state had been served.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.engine.passes import MASKED, Pass, masked
from residscope.engine.protocols import Edit
from residscope.errors import BadEdit
from residscope.model.prompts import Batch
from residscope.model.sites import Site, positions_axis


@dataclass(frozen=True)
class Span:
    """Positions from `first` to before `end`, and the edits that act there, as a run over those positions has them."""

    first: int
    end: int
    edits: tuple[Edit, ...] = ()
    unedited: Mapping[Site, Tensor] | None = None


def spans_of(base: Any, pos: int) -> tuple[Span, ...]:
    """What a recording had at its first `pos` positions: its own edits, or those of the recordings its window stood on."""
    if not pos:
        return ()
    window = getattr(base, "window", None)
    before = () if window is None or not window.pos else spans_of(window.base, min(pos, window.pos))
    first = before[-1].end if before else 0
    if first >= pos:
        return before
    return (*before, Span(first, pos, tuple(getattr(base, "edits", ())), getattr(base, "unedited", None)))


class Spans(Pass):
    """A pass over whole prompts with edits by span; what is captured begins at position `kept`."""

    def __init__(
        self,
        layout: Layout,
        batch: Batch,
        spans: Sequence[Span],
        *,
        kept: int = 0,
        capture: Iterable[Site],
        **more: Any,
    ) -> None:
        super().__init__(layout, batch, capture=capture)
        more = {name: value for name, value in more.items() if value is not None}
        self.kept, self.start = kept, more.get("start", 0)
        self.spans = [(span, self._part(span, more)) for span in spans]
        self._refuse()
        self.overlays = self.spans[-1][1].overlays
        self.touched = self.capture.union(*(part.touched for _, part in self.spans))
        for _, part in self.spans:
            for site, edits in part.edits.items():
                self.edits.setdefault(site, []).extend(edits)

    def _part(self, span: Span, more: dict[str, Any]) -> Pass:
        """The pass that one span's positions would be by themselves."""
        own = more if span.unedited is None else {**more, "unedited": span.unedited}
        return Pass(
            self.layout, _until(self.batch, span.end), capture=(), edits=span.edits, offset=span.first, **own
        )  # fmt: skip

    def _refuse(self) -> None:
        """What has no meaning span by span. Raises BadEdit."""
        if any(part.rereading() for _, part in self.spans):
            raise BadEdit(
                "a path is an edit of a whole run here: this model's blocks carry more than keys and values from token to token",
                allowed="a run, or a sweep, without a window of positions", fix="run the prompt from its first position on",
            )  # fmt: skip
        laid = {tuple(id(overlay.weight) for overlay in part.overlays) for _, part in self.spans}
        if len(laid) > 1:
            raise BadEdit(
                "a weight cannot be one thing at some positions and another at others",
                received="weight edits that are not the same from the first token to the last",
                fix="run the prompt from its first position on, or generate with at='both'",
            )

    def edits_at(self, site: Site) -> bool:
        return any(part.edits_at(site) for _, part in self.spans)

    def hide(self, layer: int, scores: Tensor) -> None:
        for span, part in self.spans:
            if part.edits_at(Site("pattern", layer)):
                part.hidden[layer] = masked(scores[:, :, span.first : span.end, : span.end])

    def visit(self, site: Site, value: Tensor) -> Tensor:
        if site not in self.touched or self._before(site):
            return value
        axis = positions_axis(site)
        pieces, changed = [], False
        for span, part in self.spans:
            own = value.narrow(axis, span.first, span.end - span.first)
            read = own[..., : span.end] if site.name in MASKED else own
            new = part.visit(site, read)
            changed = changed or new is not read
            if site.name in MASKED and new is not read:
                new = torch.cat([new, own[..., span.end :]], -1)
            pieces.append(own if new is read else new)
        value = torch.cat(pieces, axis) if changed else value
        if site in self.capture:
            self._keep(site, value.narrow(axis, self.kept, value.shape[axis] - self.kept) if self.kept else value)
        return value


def _until(batch: Batch, end: int) -> Batch:
    """A batch's first `end` positions."""
    if end >= batch.ids.shape[1]:
        return batch
    return Batch(batch.ids[:, :end], tuple(min(n, end) for n in batch.lengths), batch.rows)
