"""Activations of labelled prompts at their named positions: one recorded pass for any number of sites and positions."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.sinks import kept, streams
from residscope.engine.turns import lock_of
from residscope.errors import UnknownHead, UnknownPosition, UnknownSite
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage

Key = tuple[str, str]
"""A site and a named position."""
BATCH = 16  # prompts: small enough to see it get on
MOST_HELD = 512 << 20  # bytes of vectors that `Recordings` holds


@dataclass(frozen=True, eq=False)
class Recorded:
    """Vectors by (site, position), and of each whether a statistic may be taken of it: `kept` is False where the token is an
    attention sink or first in its prompt (`engine.sinks.kept`), `first` True where it is first."""

    vectors: Mapping[Key, Float[Tensor, "prompt d"]]
    kept: Mapping[Key, Bool[Tensor, "prompt"]]
    first: Mapping[Key, Bool[Tensor, "prompt"]]

    def left_out(self, key: Key) -> dict[str, Any]:
        """Which prompts' vectors no statistic is taken of, and why: `first` and `sinks`, as `probe_fit.fit` takes them."""
        return {"first": self.first[key], "sinks": ~self.kept[key] & ~self.first[key]}


class Recordings:
    """What was recorded last of one set of prompts on one model, so that more of the same runs only what is lacking.

    Within `most` bytes; other prompts, another model or other weights take its place. `worked`: what was worked out from it,
    which goes with it. It may be called from any thread.
    """

    def __init__(self, *, most: int = MOST_HELD) -> None:
        self._most, self._lock = most, Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._of: _Of | None = None
            self._parts: tuple[dict[Key, Tensor], ...] = ({}, {}, {})
            self._worked: dict[Hashable, Any] = {}

    @property
    def nbytes(self) -> int:
        """Memory held by the vectors, in bytes."""
        with self._lock:
            return sum(x.nbytes for x in self._parts[0].values())

    def worked(self, model: Model, data: PromptSet) -> dict[Hashable, Any]:
        """A place for what is worked out from the recordings of these prompts."""
        of = _of(model, data)
        with self._lock:
            self._take(of)
            return self._worked

    def recorded(
        self,
        model: Model,
        data: PromptSet,
        sites: Sequence[str],
        positions: Sequence[str],
        *,
        what: str = "Recording activations",
        progress: Progress = None,
        cancel: Cancel = None,
    ) -> Recorded:
        """`recorded`; the model runs for those sites alone that are not there yet. Raises what that does."""
        of = _of(model, data)
        with self._lock:
            self._take(of)
            known = tuple(map(dict, self._parts))
        lacking = [site for site in sites if any((site, position) not in known[0] for position in positions)]
        if not lacking:
            return Recorded(*known)
        how: dict[str, Any] = {"batch": BATCH, "what": what, "progress": progress, "cancel": cancel}
        new = recorded(model, data, lacking, positions, **how)
        fresh = (new.vectors, new.kept, new.first)
        parts = tuple({**a, **b} for a, b in zip(known, fresh, strict=True))
        with self._lock:
            if self._is(of) and sum(x.nbytes for x in parts[0].values()) <= self._most:
                self._parts = parts
        return Recorded(*parts)

    def _is(self, of: "_Of") -> bool:
        return self._of is not None and self._of[0] is of[0] and self._of[1:] == of[1:]

    def _take(self, of: "_Of") -> None:
        if not self._is(of):
            self._of, self._parts, self._worked = of, ({}, {}, {}), {}


_Of = tuple[Model, tuple[int, ...], PromptSet]


def _of(model: Model, data: PromptSet) -> _Of:
    with lock_of(model.hf):
        return model, model.weights_version(), data


def activations(
    model: Model,
    data: PromptSet,
    sites: Sequence[str],
    positions: Sequence[str],
    *,
    head: int | None = None,
    edits: Sequence[Any] = (),
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[Key, Float[Tensor, "prompt d"]]:
    """The vector at each site and named position of every prompt, by (site, position), on the CPU in the model's dtype.

    head: which one, at sites that have heads (`z`, `result`, `q` ...). edits: the run's own. Prompts of like length go together.

    Raises:
        UnknownPosition: not a position of these prompts, or one prompt lacks it. UnknownSite: no vector stands there.
        Cancelled: `cancel` said so.
    """
    captured = recorded(
        model, data, sites, positions, head=head, edits=edits, batch=batch, progress=progress, cancel=cancel
    )
    return dict(captured.vectors)


def recorded(
    model: Model,
    data: PromptSet,
    sites: Sequence[str],
    positions: Sequence[str],
    *,
    head: int | None = None,
    edits: Sequence[Any] = (),
    batch: int = 32,
    what: str = "Recording activations",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Recorded:
    """What `activations` gives, and which of the tokens are usable for a fit, judged among their own prompt's tokens.

    what: the stage that `progress` is told.
    """
    named = {name: model.sites.canonical(check_vector(model, name, head)) for name in sites}
    at = {position: data.at(position) for position in positions}
    capture = dict.fromkeys(s for site in named.values() for s in (site, *streams(model, site)))
    vectors: dict[Key, Tensor] = {}
    usable = {(name, position): torch.zeros(len(data), dtype=torch.bool) for name in named for position in at}
    done = 0
    with stage(what, len(data), progress, cancel) as tell:
        for rows in batches(model, data, size=batch):
            record = model.run(data.subset(rows), capture, edits=edits)
            for name, site in named.items():
                keep = kept(record, site).cpu()
                for position, index in at.items():
                    where = _checked([index[row] for row in rows], record.lengths, rows, position)
                    picked = record[site][torch.arange(len(rows)), where]
                    picked = picked if head is None else picked[:, head]
                    width = picked.shape[-1]
                    own = vectors.setdefault((name, position), torch.empty(len(data), width, dtype=picked.dtype))
                    own[rows] = picked.cpu()
                    usable[name, position][rows] = keep[torch.arange(len(rows)), where]
            done += len(rows)
            tell(done)
    first = {(name, position): torch.tensor([i == 0 for i in at[position]]) for name, position in usable}
    return Recorded(vectors, usable, first)


def recorded_halves(
    model: Model, train: PromptSet, test: PromptSet, sites: Sequence[str], positions: Sequence[str], **how: Any
) -> tuple[Recorded, Recorded]:
    """`recorded` of a training and a held-out half, each a stage of its own."""
    seen = recorded(model, train, sites, positions, what="Recording the training half", **how)
    return seen, recorded(model, test, sites, positions, what="Recording the held-out half", **how)


def _checked(where: Sequence[int], lengths: Sequence[int], rows: Sequence[int], position: str) -> Int[Tensor, "row"]:
    for row, p, length in zip(rows, where, lengths, strict=True):
        if not 0 <= p < length:
            raise UnknownPosition(
                f"prompt {row} has {length} tokens", received=f"{position} at {p}", allowed=f"0 to {length - 1}"
            )
    return torch.tensor(where)


def batches(model: Model, data: PromptSet, *, size: int) -> Iterator[list[int]]:
    """The prompts' indices in groups of like length, so that little is padding."""
    lengths = model.batch(data).lengths
    order = sorted(range(len(data)), key=lengths.__getitem__)
    return (order[start : start + size] for start in range(0, len(order), size))


def check_vector(model: Model, name: str, head: int | None = None) -> Site:
    """The site, which must hold a vector at each position, of the head given where it has heads."""
    site = model.sites.parse(name)
    axes = site.kind.axes
    if axes[:2] != ("batch", "pos") or axes[-1] == "1":
        raise UnknownSite(
            f"no vector stands at {site}",
            received=str(site),
            allowed="a site with a vector, such as resid_mid.6 or z.9",
        )
    heads = next((axis for axis in axes if axis.endswith("head")), None)
    if heads is not None and head is None:
        raise UnknownHead(f"{site} has a vector for each head", fix="say head=")
    if head is not None:
        model.sites.check_index(site, heads or "head", (head,))
    return site
