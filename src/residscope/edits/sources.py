"""Edits that take a site's value from another run: hold it there, or patch it in."""

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self, Unpack

import torch
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.directions import Dictionary
from residscope.edits.align import Align, align_tokens, by_names, check_align, pairs
from residscope.edits.base import BaseEdit, Index, Where, indices, of_head, prompt_of
from residscope.edits.features import check_features, joined, wide, with_features
from residscope.engine.model import Model
from residscope.engine.preparing import source_run
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.errors import BadEdit, CannotAlign, ClashingEdits
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site, SiteTable, positions_axis


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

    def refuse(self, later: Any, sites: Sequence[Site], lengths: tuple[int, ...]) -> None:
        if not isinstance(later, Held) or not self._meets(later, lengths):
            return
        for site in sites:
            if not self.same(later, site):
                raise ClashingEdits(
                    f"two edits hold {site} to different things, so the first would be lost",
                    received=f"{self.label}, then {later.label}",
                    allowed="one of them for each head, neuron and position",
                    fix="leave one out, or give them heads or positions of their own",
                )

    def _meets(self, later: "Held", lengths: tuple[int, ...]) -> bool:
        for a, b in ((self.head, later.head), (self.kv_head, later.kv_head), (self.neuron, later.neuron)):
            if a is not None and b is not None and not {*a} & {*b}:
                return False
        return any(self.reached(row, n) & later.reached(row, n) for row, n in enumerate(lengths))


@dataclass(frozen=True, eq=False, repr=False)
class Freeze(Held):
    """Hold at what the unedited run of the same prompt has there. See `freeze`."""

    kind: ClassVar[str] = "freeze"
    needs_unedited: ClassVar[bool] = True

    @property
    def replaces(self) -> bool:
        return self.everywhere and "." in self.site

    def same(self, later: Held, site: Site) -> bool:
        return isinstance(later, Freeze)

    def change(self, value: Tensor, at: At) -> Tensor:
        unedited = at.unedited(at.site)
        axis = positions_axis(at.site)
        return unedited.narrow(axis, at.offset, unedited.shape[axis] - at.offset)


@dataclass(frozen=True)
class RunOf:
    """A run that is made once its values are asked for: a prompt's tokens, and the edits it runs with.

    other: gives the model that it is a run of, where that is another than the one edited.
    """

    ids: tuple[int, ...]
    edits: tuple[Any, ...]
    other: Callable[[], Model] | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Sourced(Held):
    """A held edit with a source, and which of its positions stands for which of the run's. `lengths`: of its prompts; `ids`:
    their tokens, where these align them."""

    source: Any = None
    align: Align = None
    lengths: tuple[int, ...] | None = None
    ids: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        check_align(self.align)
        if self.lengths is not None and not len(self.lengths):
            raise BadEdit(
                f"{self.kind} needs the lengths of its source's prompts", received="none", allowed="one or more"
            )
        if self.source is None:
            raise BadEdit(f"{self.kind} needs a source", received="None", allowed="a recording, or a prompt to run")

    def taken_from(self, table: SiteTable) -> list[Site]:
        """The sites whose values it needs of its source."""
        return self.places(table)

    def prepare(self, model: Model) -> Self:
        source, sites = self.source, self.taken_from(model.sites)
        align, lengths, ids = by_names(self.align, source), self.lengths, self.ids
        if isinstance(source, RunOf):
            of = model if source.other is None else source.other()
            source = of.run([[*source.ids]], capture=sites, edits=source.edits)
        if not isinstance(source, Recording | Mapping):
            source = source_run(model, source, sites)
        if isinstance(source, Recording):
            if source.model.layout.sizes != model.layout.sizes:
                raise BadEdit(
                    "the source is a recording of a model of other shapes",
                    received=source.model.name,
                    allowed=f"one of {model.name}, or of a model of its shapes",
                )
            if source.offset:
                raise BadEdit("the source is a window over later positions", fix="record the whole prompt")
            lengths = source.lengths
            if align == "tokens":
                ids = tuple(tuple(row[:n]) for row, n in zip(source.tokens.tolist(), lengths, strict=True))
            source = {str(site): source[site] for site in sites}
        check_source(source, sites)
        if align == "tokens" and ids is None:
            raise BadEdit(
                "only a run has tokens to align by", received="tensors alone", allowed="a recording, or a prompt to run",
                fix="say which position stands for which: align={to: from}",
            )  # fmt: skip
        return replace(self, source=source, align=align, lengths=lengths, ids=ids)

    def taken(self, value: Tensor, at: At) -> Tensor:
        """The value with what the source has put in, wherever its positions and the run's correspond."""
        whole_source: Tensor = self.source[str(at.site)]
        axis, length = positions_axis(at.site), at.batch.ids.shape[1]
        if whole_source.shape[0] != 1 and at.rows is None and whole_source.shape[0] != len(value):
            raise CannotAlign(
                "the source has another number of prompts",
                received=str(len(whole_source)),
                allowed=f"1 or {len(value)}",
            )
        recorded = at.mine(whole_source).to(value)
        if self._whole(at, recorded.shape[axis]):
            ends = min(recorded.shape[axis], length)  # what is beyond is padding, of the run's rows or of the source's
            if "key" in at.site.kind.axes:
                recorded = recorded[..., :ends]
            new = recorded.narrow(axis, at.offset, max(0, ends - at.offset))
            if ends == length:
                return new.expand_as(value)
            padded = value.clone()
            here = padded.narrow(axis, 0, new.shape[axis])
            (here[..., :ends] if "key" in at.site.kind.axes else here).copy_(new)
            return padded
        if "key" in at.site.kind.axes:
            raise CannotAlign(
                f"{at.site} has positions twice, so prompts of unequal length cannot be aligned there",
                received=f"{tuple(recorded.shape)}",
                allowed=f"{length} positions",
            )
        new = value.clone()
        for row, ends in enumerate(at.batch.lengths):
            prompt = prompt_of(row, at)
            known = self._pairs(prompt, ends, recorded.shape[axis], at.batch.ids[row, :ends])
            mapping = {i: j for i, j in known.items() if i >= at.offset}
            to = torch.tensor([i - at.offset for i in mapping], dtype=torch.long, device=value.device)
            source = torch.tensor([*mapping.values()], dtype=torch.long, device=value.device)
            own = recorded[0 if recorded.shape[0] == 1 else row]
            new[row] = new[row].index_copy(axis - 1, to, own.index_select(axis - 1, source))
        return new

    def _whole(self, at: At, width: int) -> bool:
        """Whether every position takes the source's value at that very position."""
        if self.align is None or self.align == "tokens":
            corresponds = self._corresponds(at, width)
            if self.align is None or not corresponds:
                return corresponds
            rows = [
                self._pairs(prompt_of(i, at), n, width, at.batch.ids[i, :n]) for i, n in enumerate(at.batch.lengths)
            ]
            return all(
                len(own) == n and all(i == j for i, j in own.items())
                for own, n in zip(rows, at.batch.lengths, strict=True)
            )
        return False

    def _corresponds(self, at: At, width: int) -> bool:
        """Whether each row is as long as its source, whatever both were padded to; bare tensors are as long as they are wide."""
        if self.lengths is None:
            return width == at.batch.ids.shape[1]
        return all(self._length(prompt_of(i, at), 0) == n for i, n in enumerate(at.batch.lengths))

    def _length(self, prompt: int, unsaid: int) -> int:
        return unsaid if self.lengths is None else self.lengths[prompt if len(self.lengths) > 1 else 0]

    def _pairs(self, prompt: int, to: int, longest: int, tokens: Tensor) -> dict[int, int]:
        source = self._length(prompt, longest)
        if self.align == "tokens":
            assert self.ids is not None
            return align_tokens(tokens.tolist(), self.ids[prompt if len(self.ids) > 1 else 0])
        if self.align is not None:
            return pairs(self.align, prompt=prompt, to=to, source=source)
        if self.pos is None:
            raise CannotAlign(
                "the source's prompt is of another length",
                received=f"{source} tokens",
                allowed=f"{to} tokens",
                fix='say pos=, or align="tokens", "suffix", "prefix", {to: from}, or the prompt sets with their named positions',
            )
        from_start, from_end = {p: p for p in self.pos if p >= 0}, {p + to: p + source for p in self.pos if p < 0}
        for p in from_start.keys() & from_end.keys():
            if from_start[p] != from_end[p]:
                raise CannotAlign(
                    "one position of the prompt is named from its start and from its end, which are two of the source",
                    received=f"position {p} of {to} tokens: {from_start[p]} and {from_end[p]} of the source's {source}",
                    allowed="each position named once",
                    fix="say align={to: from}",
                )
        return pairs(from_start | from_end, prompt=prompt, to=to, source=source)

    def reached(self, prompt: int, length: int) -> set[int]:
        own = super().reached(prompt, length)
        if self.align is None or self.align == "tokens":
            return own
        source = self._length(prompt, length)
        return own & pairs(self.align, prompt=prompt, to=length, source=source).keys()

    def same(self, later: Held, site: Site) -> bool:
        if type(later) is not type(self) or later.align != self.align:
            return False
        a, b = (edit.source[str(site)] for edit in (self, later))
        return a.shape == b.shape and torch.equal(a, b)

    def to_dict(self, tensors: MutableMapping[str, Tensor] | None = None) -> dict[str, Any]:
        if isinstance(self.source, Recording):
            return self.prepare(self.source.model).to_dict(tensors)
        named = self.align if isinstance(self.align, tuple | list) else (self.align,)
        if not isinstance(self.source, Mapping | Tensor | str | list | tuple) or any(
            isinstance(a, PromptSet) for a in named
        ):
            raise BadEdit("a prompt set is serialised once it has been run", fix="edit.prepare(model).to_dict()")
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
            if self.dictionary.write_site != self.dictionary.read_site:
                raise BadEdit(
                    "features that are read at one site and written at another are not patched from another run",
                    received=self.dictionary.place,
                    allowed="a dictionary of one site",
                    fix="set the coefficient: edits.feature(dictionary, index, value=)",
                )

    def change(self, value: Tensor, at: At) -> Tensor:
        taken = self.taken(value, at)
        if self.dictionary is None or self.feature is None:
            return taken
        read = joined(self.dictionary, wide(taken))  # in the precision of the value's own
        coefficients = self.dictionary.encode(read, indices=self.feature)
        return with_features(self.dictionary, self.feature, value, coefficients)

    def refuse(self, later: Any, sites: Sequence[Site], lengths: tuple[int, ...]) -> None:
        """Features of one dictionary clash with each other alone: the rest of the value is held by nobody."""
        theirs = later.feature if isinstance(later, Patch) else None
        if self.feature is None and theirs is None:
            super().refuse(later, sites, lengths)
            return
        shared = {*(self.feature or ())} & {*(theirs or ())}
        if isinstance(later, Patch) and _same_dictionary(later.dictionary, self.dictionary) and shared:
            super().refuse(later, sites, lengths)


def check_source(source: Any, sites: Sequence[Site]) -> None:
    """Refuse what is no mapping with a tensor for each site."""
    known = source if isinstance(source, Mapping) else {}
    lacking = [str(site) for site in sites if not isinstance(known.get(str(site)), Tensor)]
    if lacking:
        raise BadEdit(
            f"the source has no value at {lacking[0]}",
            received=", ".join(map(str, known))[:200] or type(source).__name__,
            allowed=f"a tensor for each of {', '.join(map(str, sites))}"[:200],
        )


def _same_dictionary(a: Dictionary | None, b: Dictionary | None) -> bool:
    """Whether two are one, also where each came out of a file of its own."""
    if a is b or a is None or b is None:
        return a is b
    return a.hash == b.hash


@edit(title="Freeze", glyph="❄", says="at its unedited values")
def freeze(
    site: Annotated[str, fields.site(groups=("norms", "patterns"), usual="pattern")], **where: Unpack[Where]
) -> Freeze:
    """Hold a site (`"norms"` and `"patterns"`: all of them) at what the unedited run of the same prompt has there."""
    return Freeze(str(site), **indices(where))


@edit(title="Patch from another run", glyph="⇄", says="from {source}")
def patch(
    site: Annotated[str, fields.site(usual="resid_pre")],
    source: Annotated[Any, fields.source()],
    *,
    align: Annotated[Align, fields.align()] = None,
    feature: Annotated[Index, fields.heads(axis="feature")] = None,
    dictionary: Annotated[Dictionary | None, fields.dictionary()] = None,
    **where: Unpack[Where],
) -> Patch:
    """Take the value that `source` (a recording, or a prompt to run) has at the site.

    align: {to: from}, one such for each prompt, "prefix" or "suffix" (as far as both prompts go), "tokens" (by the fewest
    changes that make one prompt of the other, `rs.align_tokens`), or the run's PromptSet, whose named positions are those
    of the source. Positions alone (`pos=-1`) say it too. feature=, dictionary=: take
    those coefficients alone, x + sum_i (a_i(source) - a_i(x)) write_i.
    """
    features = indices({"neuron": feature})["neuron"]
    places = indices(of_head(str(site), [dictionary], where))
    return Patch(str(site), source=source, align=align, feature=features, dictionary=dictionary, **places)
