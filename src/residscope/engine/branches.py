"""Branches: what a receiver would be, had it alone read a stream in which some senders had written something else.

    receiver' = read(stream + sum_s (write_s' - write_s))

The stream is the run's own, the norm and, for queries, keys and values, the attention module's first steps are the stock
ones, called once more with hooks asleep; the run's edits of the divisors and inputs on that way act there too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residscope.engine.attention import active
from residscope.engine.layout import Norm
from residscope.engine.passes import Pass, Rows
from residscope.engine.places import Places
from residscope.engine.protocols import Change
from residscope.engine.seams import AttentionProducts
from residscope.model.sites import Site, SiteTable


def stream_of(receiver: Site, table: SiteTable) -> Site:
    """The stream that a receiver reads."""
    if receiver.layer is None:
        return Site("resid_post", table.sizes.n_layers - 1)
    return Site(
        "resid_mid" if receiver.name == "mlp_in" and "resid_mid" not in table.absent else "resid_pre", receiver.layer
    )


def raw_of(sender: Site, table: SiteTable) -> Site | None:
    """What else must be known of a sender whose write goes through a norm: what the norm reads."""
    return Site("attn_raw", sender.layer) if sender.name == "z" and "attn_post_scale" not in table.absent else None


class Seen(Exception):
    """Raised in a second reading when the receiver has been seen."""


@dataclass(frozen=True)
class Asked:
    """One second reading that is asked for: some rows of the pass, and how much the senders' values differ for them alone."""

    rows: Rows
    changes: Sequence[Change]


class Peek(Pass):
    """A second reading under way, of some rows: it ends at the receiver; other places have the run's own edits."""

    def __init__(self, now: Pass, rows: Rows, receiver: Site | None, *edited: Site) -> None:
        super().__init__(now.layout, now.batch, capture=(), offset=now.offset)
        self.receiver, self.rereads, self.rows = receiver, now, rows
        self.touched = frozenset(site for site in edited if now.edited(site)) | ({receiver} if receiver else set())

    def visit(self, site: Site, value: Tensor) -> Tensor:
        if site == self.receiver:
            self.values[site] = value
            raise Seen
        return self.rereads.again(site, value, self.rows) if site in self.touched and self.rereads else value

    def rows_of(self, count: int) -> Sequence[int]:
        return range(count) if self.rows is None else self.rows


class Branches:
    """Second readings in one pass."""

    def __init__(self, now: Pass) -> None:
        self.now = now
        self._calls: dict[int, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {}

    def keep(self, layer: int) -> Callable[..., Any]:
        """A stand-in forward that remembers how the attention module was called."""

        def run(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self._calls[layer] = stock, args, kwargs
            try:
                return stock(*args, **kwargs)
            finally:
                del self._calls[layer]

        return run

    def __call__(self, receiver: Site, changes: Sequence[Change]) -> Tensor:
        """The receiver's value, had each sender's value been changed by this much for it alone."""
        return self.several(receiver, [Asked(None, changes)])

    def several(self, receiver: Site, asked: Sequence[Asked]) -> Tensor:
        """The receiver's value for the rows of each reading asked for, one after another, from one call of each module."""
        layout = self.now.layout
        rows = None if asked[0].rows is None else [row for reading in asked for row in reading.rows or ()]
        stream = self.now.seen_by(layout.table.canonical(stream_of(receiver, layout.table)), rows)
        stream = stream + self._sent(asked, stream)
        if receiver.layer is None:
            return self._normed(layout.final_norm, Site("final_scale"), stream, rows)
        layer, parts = receiver.layer, layout.blocks[receiver.layer]
        if receiver.name != "mlp_in":
            normed = self._normed(parts.attn_norm, Site("attn_scale", layer), stream, rows)
            return self._attention(receiver, normed, rows)
        if parts.mlp_norm is None and "resid_mid" in layout.table.absent:
            return self._normed(parts.attn_norm, Site("attn_scale", layer), stream, rows)
        return self._normed(parts.mlp_norm, Site("mlp_scale", layer), stream, rows)

    def _sent(self, asked: Sequence[Asked], stream: Tensor) -> Tensor:
        """What the senders write more into each row's stream; rows with one sender go through its weights together."""
        senders: dict[Site, list[tuple[slice, Rows, Tensor]]] = {}
        first = 0
        for reading in asked:
            here = slice(first, first + (len(stream) if reading.rows is None else len(reading.rows)))
            first = here.stop
            for sender, change in reading.changes:
                senders.setdefault(sender, []).append((here, reading.rows, change))
        written = torch.zeros_like(stream)
        for sender, sent in senders.items():
            if sent[0][1] is None:
                wrote = [self._written(sender, change, None) for _, _, change in sent]
            else:
                rows = [row for _, own, _ in sent for row in own or ()]
                changes = [change for _, _, change in sent]
                wrote = [*torch.split(self._written(sender, torch.cat(changes), rows), [len(c) for c in changes])]
            for (here, _, _), more in zip(sent, wrote, strict=True):
                written[here] += more.to(stream.device)
        return written

    def _written(self, sender: Site, change: Tensor, rows: Rows) -> Tensor:
        """The change of what the stream gets, for a change of z: through W_O, the norm after it and the model's factor."""
        if sender.name != "z":
            return change
        layout, layer = self.now.layout, sender.layer
        assert layer is not None
        parts = layout.blocks[layer]
        wrote = self._stock(parts.attn_proj, change.flatten(2), rows)
        if (bias := getattr(parts.attn_proj, "bias", None)) is not None:
            wrote = wrote - bias.detach()
        if parts.attn_post_norm is not None:
            scale, raw = Site("attn_post_scale", layer), self.now.seen_by(Site("attn_raw", layer), rows)
            before, after = (self._normed(parts.attn_post_norm, scale, x, rows) for x in (raw, raw + wrote))
            wrote = after - before
        return wrote * layout.factors.residual

    def _normed(self, norm: Norm | None, scale: Site, x: Tensor, rows: Rows) -> Tensor:
        if norm is None:
            return x
        out, old = self._stock(norm.module, x, rows), norm.sigma(x)
        new = Peek(self.now, rows, None, scale).visit(scale, old)
        return out if new is old else norm.rescale(out, old, new, x)

    def _stock(self, module: Any, x: Tensor, rows: Rows) -> Tensor:
        """A module's output with the pass's hooks asleep."""
        token = active.set(Peek(self.now, rows, None))
        try:
            out: Tensor = module(x)
            return out
        finally:
            active.reset(token)

    def _attention(self, receiver: Site, x: Tensor, rows: Rows) -> Tensor:
        """Queries, keys or values of the attention module under way, had it been called with x."""
        layer, layout = receiver.layer, self.now.layout
        assert layer is not None
        norms, inputs = (Site("q_scale", layer), Site("k_scale", layer)), Site("attn_in", layer)
        peek, parts = Peek(self.now, rows, receiver, inputs, *norms), layout.blocks[layer]
        x = peek.visit(inputs, x)
        stock, args, kwargs = self._calls[layer]
        if rows is not None:
            present = len(args[0] if args else kwargs["hidden_states"])
            kwargs = {name: spread(name, value, len(rows), of=present) for name, value in kwargs.items()}
        args, kwargs = ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})
        places = Places(peek)
        token = active.set(peek)
        try:
            for norm, site in zip((parts.q_norm, parts.k_norm), norms, strict=True):
                places._head_scale(norm, site)
            if layout.family.attention == "products":
                with AttentionProducts(peek, layer):
                    stock(*args, **kwargs)
            else:
                stock(*args, **kwargs)
        except Seen:
            pass
        finally:
            active.reset(token)
            places.undo()
        return peek.values[receiver]


def spread(name: str, value: Any, rows: int, *, of: int = 1) -> Any:
    """What is alike for every row, for so many rows: slopes on the scores, which BLOOM and Falcon build for the rows of the
    embedding, and a mask, which some modules take for as many rows as they are given."""
    if not isinstance(value, Tensor):
        return value
    if name == "attention_mask" and value.ndim == 4 and value.shape[1] == 1 and len(value) in (1, of):
        return value[:1].expand(rows, -1, -1, -1)
    if name != "alibi":
        return value
    return value[: len(value) // of].repeat(rows, *[1] * (value.ndim - 1))
