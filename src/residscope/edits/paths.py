"""Path edits: a sender takes the value it has in another run, but only as one receiver reads it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Unpack

import torch
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.edits.align import Align
from residscope.edits.base import BaseEdit, Index, Where, along, at_positions, indices
from residscope.edits.sources import Sourced
from residscope.engine.branches import raw_of, stream_of
from residscope.engine.protocols import At, Change
from residscope.errors import BadEdit
from residscope.model.sites import Site, SiteTable

SENDERS = ("embed", "pos_embed", "z", "attn_out", "mlp_out")
RECEIVERS = ("q", "k", "v", "mlp_in", "final_norm")


@dataclass(frozen=True, eq=False, repr=False)
class Path(Sourced):
    """The direct path from a sender to a receiver, `site`. See `path`."""

    sender: str = ""
    sender_head: tuple[int, ...] | None = None
    kind: ClassVar[str] = "path"
    rereads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for word, site, allowed in (("sender", self.sender, SENDERS), ("receiver", self.site, RECEIVERS)):
            if not isinstance(site, str) or Site.parse(site).name not in allowed:
                raise BadEdit(f"no such {word} of a path", received=repr(site), allowed=", ".join(allowed))
        if self.sender_head is not None and Site.parse(self.sender).name != "z":
            raise BadEdit("only z has heads to send from", received=self.label, allowed="a sender such as z.3")
        if self.head is not None and Site.parse(self.site).name in ("k", "v"):
            raise BadEdit(
                "several query heads may read one key or value, so no query head has one of its own to change",
                received=f"head={list(self.head)}",
                allowed="kv_head=",
            )

    def places(self, table: SiteTable) -> list[Site]:
        sender, receivers = self.from_site(table), super().places(table)
        if self.sender_head is not None:
            table.check_index(sender, "head", self.sender_head)
        for receiver in receivers:
            if written(sender) >= read_from(receiver, table):
                raise BadEdit(
                    "the sender writes after the receiver has read",
                    received=f"{sender} to {receiver}",
                    allowed=f"a receiver later than {sender}",
                )
        return receivers

    def from_site(self, table: SiteTable) -> Site:
        return table.canonical(self.sender)

    def taken_from(self, table: SiteTable) -> list[Site]:
        self.places(table)
        return [self.from_site(table)]

    def reads(self, table: SiteTable) -> list[Site]:
        sender = self.from_site(table)
        raw = raw_of(sender, table)
        streams = [table.canonical(stream_of(receiver, table)) for receiver in self.places(table)]
        return [sender, *streams, *([raw] if raw else [])]

    def sent(self, at: At) -> tuple[Site, Tensor]:
        """The sender, and its change: what it has in the source less what it has in this run."""
        there = replace(at, site=self.from_site(at.table))
        seen = at.seen(there.site)
        change = self.taken(seen, there) - seen
        heads = None if self.sender_head is None else along(seen, there.site.kind.axes.index("head"), self.sender_head)
        for mask in (heads, at_positions(self.pos, seen, there)):
            if mask is not None:
                change = torch.where(mask, change, 0)
        return there.site, change

    def refuse(self, later: Any, sites: Sequence[Site], lengths: tuple[int, ...]) -> None:
        if not isinstance(later, Path):
            super().refuse(later, sites, lengths)

    def joined(self, later: Any) -> "Paths | None":
        return _join((self,), later)

    def sends(self, at: At) -> list[Sequence[Change]]:
        return _sends((self,), at)

    def apply(self, value: Tensor, at: At) -> Tensor:
        return _apply((self,), value, at)

    @property
    def label(self) -> str:
        heads = "" if self.sender_head is None else f" head {', '.join(map(str, self.sender_head))}"
        return f"path {self.sender}{heads} to {super().label.removeprefix('path ')}"


@dataclass(frozen=True, eq=False, repr=False)
class Paths(BaseEdit):
    """Paths of one run that meet at a receiver: each head reads the stream with the sum of its senders' changes."""

    parts: tuple[Path, ...] = ()
    rereads: ClassVar[bool] = True
    prompt_only: ClassVar[bool] = True

    def places(self, table: SiteTable) -> list[Site]:
        return [*dict.fromkeys(site for part in self.parts for site in part.places(table))]

    def reads(self, table: SiteTable) -> list[Site]:
        return [*dict.fromkeys(site for part in self.parts for site in part.reads(table))]

    def refuse(self, later: Any, sites: Sequence[Site], lengths: tuple[int, ...]) -> None:
        for part in self.parts:
            part.refuse(later, sites, lengths)

    def joined(self, later: Any) -> "Paths | None":
        return _join(self.parts, later)

    def sends(self, at: At) -> list[Sequence[Change]]:
        return _sends(self._here(at), at)

    def apply(self, value: Tensor, at: At) -> Tensor:
        return _apply(self._here(at), value, at)

    def _here(self, at: At) -> list[Path]:
        return [part for part in self.parts if at.site in part.places(at.table)]

    @property
    def label(self) -> str:
        return ", ".join(part.label for part in self.parts)


def _join(parts: tuple[Path, ...], later: Any) -> Paths | None:
    if not isinstance(later, Path):
        return None
    return Paths(parts[0].site, parts=(*parts, later))


def _heads_axis(site: Site) -> int | None:
    return next((i for i, name in enumerate(site.kind.axes) if name in ("head", "kv_head")), None)


def _receivers(parts: Sequence[Path], at: At) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Which heads of the receiver (all: head 0, where it has none) read the sum of which paths."""
    axis = _heads_axis(at.site)
    receivers: dict[tuple[int, ...], tuple[int, ...]] = {}
    for head in range(1 if axis is None else at.table.size(at.site, at.site.kind.axes[axis]) or 1):
        own = [(i, p.head if p.head is not None else p.kv_head) for i, p in enumerate(parts)]
        if received := tuple(i for i, heads in own if heads is None or head in heads):
            receivers[received] = (*receivers.get(received, ()), head)
    return receivers


def _sends(parts: Sequence[Path], at: At) -> list[Sequence[Change]]:
    """The senders of one second reading for each set of paths that some head is the receiver of."""
    sent = [part.sent(at) for part in parts]
    return [[sent[i] for i in received] for received in _receivers(parts, at)]


def _apply(parts: Sequence[Path], value: Tensor, at: At) -> Tensor:
    if at.reread is None:
        raise BadEdit("a path needs a run of the model", received=str(at.site))
    axis, new = _heads_axis(at.site), value
    for (received, heads), changes in zip(_receivers(parts, at).items(), _sends(parts, at), strict=True):
        reread = at.reread(at.site, changes)
        where = [at_positions(parts[i].pos, value, at) for i in received]
        chosen = torch.ones((1,) * value.ndim, dtype=torch.bool, device=value.device)
        masks = [mask for mask in where if mask is not None]
        if len(masks) == len(where):
            chosen = torch.stack(masks).any(0)
        if axis is not None:
            chosen = chosen & along(value, axis, heads)
        new = torch.where(chosen, reread.to(value.dtype), new)
    return new


def written(sender: Site) -> int:
    """When a sender writes: attention at 2 layer, MLP at 2 layer + 1."""
    return -1 if sender.layer is None else 2 * sender.layer + (sender.name == "mlp_out")


def read_from(receiver: Site, table: SiteTable) -> int:
    """The first writes that a receiver does not see."""
    if receiver.layer is None:
        return 2 * table.sizes.n_layers
    return 2 * receiver.layer + (receiver.name == "mlp_in" and "resid_mid" not in table.absent)


@edit(title="Patch a path", glyph="⤳", says="from {source}")
def path(
    sender: Annotated[str, fields.site(only=SENDERS, usual="z")],
    receiver: Annotated[str, fields.site(only=RECEIVERS, usual="final_norm")],
    source: Annotated[Any, fields.source()],
    *,
    sender_head: Annotated[Index, fields.heads(title="sender's head")] = None,
    align: Annotated[Align, fields.align()] = None,
    **where: Unpack[Where],
) -> Path:
    """The direct path: the sender takes the value it has in `source`, but only as the receiver reads it.

    sender: z.L (with `sender_head=`), attn_out.L, mlp_out.L, embed, pos_embed. receiver: q.L (`head=`), k.L, v.L
    (`kv_head=`), mlp_in.L or final_norm. The receiver's branch reads stream + (the sender's write under the source - its
    write in this run), through its own norm; everything else reads the stream as it is. Several paths to one receiver add
    up before the norm (Wang et al., 2022, arXiv:2211.00593; Goldowsky-Dill et al., 2023, arXiv:2304.05969).
    """
    heads = indices({"head": sender_head})["head"]
    return Path(str(receiver), source=source, align=align, sender=sender, sender_head=heads, **indices(where))
