"""Edits that take a site's value from another run: hold it there, patch it in, or draw it from a data set."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from residscope.directions import Dictionary
from residscope.edits.align import Align, by_names, check_align, pairs
from residscope.edits.base import BaseEdit, Index, indices, positions_axis, prompt_of, whole
from residscope.edits.features import check_features, with_features
from residscope.edits.values import refuse_open_data
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, CannotAlign, ClashingEdits
from residscope.model.sites import Site, SiteTable

Self = TypeVar("Self", bound="Sourced")


@dataclass(frozen=True, eq=False, repr=False)
class Held(BaseEdit):
    """An edit that holds entries to what another run has there. Two that hold one entry to different things clash."""

    prompt_only: ClassVar[bool] = True

    def same(self, later: "Held", site: Site) -> bool:
        """Whether a later edit holds the site to the same values."""
        raise NotImplementedError

    def reached(self, prompt: int, length: int) -> set[int]:
        """The positions it holds of a prompt of that length."""
        return set(range(length)) if self.pos is None else {p % length for p in self.pos}

    def refuse(self, later: Any, table: SiteTable, lengths: tuple[int, ...]) -> None:
        if not isinstance(later, Held):
            return
        mine, theirs = self.places(table), set(later.places(table))
        for site in mine:
            if site in theirs and not self.same(later, site) and self._meets(later, lengths):
                raise ClashingEdits(
                    f"two edits hold {site} to different things, so the first would be lost",
                    received=f"{self.label}, then {later.label}",
                    allowed="one of them for each head, neuron and position",
                    fix="leave one out, or give them heads or positions of their own",
                )

    def _meets(self, later: "Held", lengths: tuple[int, ...]) -> bool:
        for name in ("head", "kv_head", "neuron"):
            a, b = getattr(self, name), getattr(later, name)
            if a is not None and b is not None and not {*a} & {*b}:
                return False
        return any(self.reached(row, n) & later.reached(row, n) for row, n in enumerate(lengths))


@dataclass(frozen=True, eq=False, repr=False)
class Freeze(Held):
    """Hold at what the unedited run of the same prompt has there. See `freeze`."""

    kind: ClassVar[str] = "freeze"
    needs_unedited: ClassVar[bool] = True

    def same(self, later: Held, site: Site) -> bool:
        return isinstance(later, Freeze)

    def change(self, value: Tensor, at: At) -> Tensor:
        held = at.unedited(at.site)
        axis = positions_axis(at)
        return held.narrow(axis, at.offset, held.shape[axis] - at.offset)


@dataclass(frozen=True, eq=False, repr=False)
class Sourced(Held):
    """A held edit with a source, and which of its positions stands for which of the run's. `lengths`: of its prompts."""

    source: Any = None
    align: Align = None
    lengths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_align(self.align)
        if self.source is None:
            raise BadEdit(f"{self.kind} needs a source", received="None", allowed="a recording, or a prompt to run")

    def taken_from(self, table: SiteTable) -> list[Site]:
        """The sites whose values it needs of its source."""
        return self.places(table)

    def prepare(self: Self, model: Model) -> Self:
        source, sites = self.source, self.taken_from(model.sites)
        align, lengths = by_names(self.align, source), self.lengths
        if not isinstance(source, Recording | Mapping):
            source = model.run(source, capture=sites)
        if isinstance(source, Recording):
            if source.model.layout.sizes != model.layout.sizes:
                raise BadEdit(
                    "the source is a recording of another model", received=source.model.name, allowed=model.name
                )
            if source.offset:
                raise BadEdit("the source is a window over later positions", fix="record the whole prompt")
            lengths = source.lengths
            source = {str(site): source[site] for site in sites}
        return replace(self, source=source, align=align, lengths=lengths)

    def taken(self, value: Tensor, at: At) -> Tensor:
        """The value with what the source has put in, wherever its positions and the run's correspond."""
        whole_source: Tensor = self.source[str(at.site)]
        axis, length = positions_axis(at), at.batch.ids.shape[1]
        if whole_source.shape[0] != 1 and at.rows is None and whole_source.shape[0] != len(value):
            raise CannotAlign(
                "the source has another number of prompts",
                received=str(len(whole_source)),
                allowed=f"1 or {len(value)}",
            )
        held = at.mine(whole_source).to(value)
        if self.align is None and held.shape[axis] == length:
            return held.narrow(axis, at.offset, length - at.offset).expand_as(value)
        if "key" in at.site.kind.axes:
            raise CannotAlign(
                f"{at.site} has positions twice, so prompts of unequal length cannot be aligned there",
                received=f"{tuple(held.shape)}",
                allowed=f"{length} positions",
            )
        new = value.clone()
        for row, ends in enumerate(at.batch.lengths):
            prompt = prompt_of(row, at)
            mapping = {i: j for i, j in self._pairs(prompt, ends, held.shape[axis]).items() if i >= at.offset}
            to = torch.tensor([i - at.offset for i in mapping], dtype=torch.long, device=value.device)
            source = torch.tensor([*mapping.values()], dtype=torch.long, device=value.device)
            own = held[0 if held.shape[0] == 1 else row]
            new[row] = new[row].index_copy(axis - 1, to, own.index_select(axis - 1, source))
        return new

    def _pairs(self, prompt: int, to: int, longest: int) -> dict[int, int]:
        source = longest if self.lengths is None else self.lengths[prompt if len(self.lengths) > 1 else 0]
        if self.align is not None:
            return pairs(self.align, prompt=prompt, to=to, source=source)
        if self.pos is None:
            raise CannotAlign(
                "the source's prompt is of another length",
                received=f"{source} tokens",
                allowed=f"{to} tokens",
                fix='say pos=, or align="suffix", "prefix", {to: from}, or the prompt sets with their named positions',
            )
        from_end = {p + to: p + source for p in self.pos if p < 0}
        return pairs({p: p for p in self.pos if p >= 0} | from_end, prompt=prompt, to=to, source=source)

    def reached(self, prompt: int, length: int) -> set[int]:
        own = super().reached(prompt, length)
        if self.align is None:
            return own
        source = length if self.lengths is None else self.lengths[prompt if len(self.lengths) > 1 else 0]
        return own & pairs(self.align, prompt=prompt, to=length, source=source).keys()

    def same(self, later: Held, site: Site) -> bool:
        if type(later) is not type(self) or later.align != self.align:
            return False
        a, b = (edit.source[str(site)] for edit in (self, later))
        return a.shape == b.shape and torch.equal(a, b)

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        if isinstance(self.source, Recording):
            return self.prepare(self.source.model).to_dict(tensors)
        if not isinstance(self.source, Mapping):
            raise BadEdit("a source is serialised once it has been run", fix="edit.prepare(model).to_dict()")
        return super().to_dict(tensors)


@dataclass(frozen=True, eq=False, repr=False)
class Patch(Sourced):
    """Take the value another run has there, position to position; of some features only, where they are named. See `patch`."""

    feature: tuple[int, ...] | None = None
    dictionary: Dictionary | None = None
    kind: ClassVar[str] = "patch"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.feature is None) != (self.dictionary is None):
            raise BadEdit("a patch of features needs both", received=self.label, allowed="feature= and dictionary=")
        if self.dictionary is not None:
            check_features(self.dictionary, self.feature)

    def change(self, value: Tensor, at: At) -> Tensor:
        taken = self.taken(value, at)
        if self.dictionary is None or self.feature is None:
            return taken
        return with_features(self.dictionary, self.feature, value, self.dictionary.encode(taken)[..., [*self.feature]])

    def refuse(self, later: Any, table: SiteTable, lengths: tuple[int, ...]) -> None:
        """Features of one dictionary clash with each other alone: the rest of the value is held by nobody."""
        if self.feature is None and getattr(later, "feature", None) is None:
            super().refuse(later, table, lengths)
            return
        mine, theirs = {*(self.feature or ())}, {*(getattr(later, "feature", None) or ())}
        if isinstance(later, Patch) and later.dictionary is self.dictionary and mine & theirs:
            super().refuse(later, table, lengths)


@dataclass(frozen=True, eq=False, repr=False)
class Resample(Held):
    """Each prompt takes another prompt's value, drawn by seed. See `ablate`."""

    over: Any = field(default=None)
    seed: int = 0
    source: Any = None
    ids: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    kind: ClassVar[str] = "resample"

    def __post_init__(self) -> None:
        whole(self.seed, "seed")
        if self.over is None and (self.source is None or self.ids is None or self.lengths is None):
            raise BadEdit(
                "resampling needs its data", received="over=None", fix="say over=texts, prompts or a recording"
            )

    def prepare(self, model: Model) -> "Resample":
        if self.over is None:
            return self
        sites = self.places(model.sites)
        data = self.over if isinstance(self.over, Recording) else model.run(self.over, capture=sites)
        if data.offset:
            raise BadEdit("the data is a window over later positions", fix="record the whole prompts")
        source = {str(site): data[site] for site in sites}
        return replace(self, over=None, source=source, ids=data.tokens, lengths=data.lengths)

    def change(self, value: Tensor, at: At) -> Tensor:
        held: Tensor = self.source[str(at.site)]
        axis, new = positions_axis(at), value.clone()
        for row, length in enumerate(at.batch.lengths):
            if length > at.offset:
                drawn, n = self._drawn(prompt_of(row, at), at.batch.ids[row, :length], at)
                own = held[drawn].narrow(axis - 1, n - length + at.offset, length - at.offset)
                width = n if "key" in at.site.kind.axes else value.shape[-1]
                new[row].narrow(axis - 1, 0, length - at.offset)[..., :width].copy_(own[..., :width])
        return new

    def _drawn(self, prompt: int, ids: Tensor, at: At) -> tuple[int, int]:
        """The row of the data for a prompt, and its length: at least as long, and not the prompt itself."""
        assert self.lengths is not None
        assert self.ids is not None
        square, fitting = "key" in at.site.kind.axes, []
        for i, n in enumerate(self.lengths):
            itself = n == len(ids) and torch.equal(self.ids[i, :n], ids.to(self.ids.device))
            if not itself and (n == len(ids) if square else n >= len(ids)):
                fitting.append(i)
        if not fitting:
            raise CannotAlign(
                "no other prompt of the data is long enough to draw from",
                received=f"a prompt of {len(ids)} tokens; data of {min(self.lengths)} to {max(self.lengths)}",
                allowed=f"other prompts of {'exactly' if square else 'at least'} {len(ids)} tokens",
            )
        row = fitting[int(np.random.default_rng([self.seed, prompt]).integers(len(fitting)))]
        return row, self.lengths[row]

    def same(self, later: Held, site: Site) -> bool:
        return isinstance(later, Resample) and later.seed == self.seed and later.source is self.source

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        refuse_open_data(self.over)
        return super().to_dict(tensors)


def freeze(site: str, **where: Index) -> Freeze:
    """Hold a site (`"norms"` and `"patterns"`: all of them) at what the unedited run of the same prompt has there."""
    return Freeze(str(site), **indices(where))


def patch(
    site: str,
    source: Any,
    *,
    align: Align = None,
    feature: Index = None,
    dictionary: Dictionary | None = None,
    **where: Index,
) -> Patch:
    """Take the value that `source` (a recording, or a prompt to run) has at the site.

    align: {to: from}, one such for each prompt, "prefix" or "suffix" (as far as both prompts go), or the run's PromptSet,
    whose named positions are those of the source. Positions alone (`pos=-1`) say it too. feature=, dictionary=: take
    those coefficients alone, x + sum_i (a_i(source) - a_i(x)) write_i.
    """
    features = indices({"neuron": feature})["neuron"]
    return Patch(str(site), source=source, align=align, feature=features, dictionary=dictionary, **indices(where))
