"""A joined pass run through the stock model: rows come in in front of each block, of the embedding and of the final norm."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import torch

from residscope.engine.branches import spread
from residscope.engine.hooks import Hooks
from residscope.engine.layout import BlockParts
from residscope.engine.passes import Stop
from residscope.engine.planner.joined import FINAL, EmbeddingPass, JoinedPass
from residscope.engine.planner.packing import Pack
from residscope.engine.planner.strands import Base
from residscope.engine.protocols import Edit
from residscope.engine.stock import call
from residscope.engine.turns import in_turn
from residscope.engine.windows import prefix_cache
from residscope.model.sites import Site, rank


class JoinedHooks(Hooks):
    """Hooks that let the rows of a joined pass in, in front of each block and of the final norm."""

    now: JoinedPass

    def _entry(self, layer: int, parts: BlockParts) -> None:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            joined = self.now.join(layer, args[0] if args else kwargs["hidden_states"])
            kwargs = {name: spread(name, value, joined.shape[0]) for name, value in kwargs.items()}
            args = tuple(spread("attention_mask", value, joined.shape[0]) for value in args)
            return ((joined, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": joined})

        self._on(parts.block, before=before)

    def _in_pieces(self, layer: int, parts: BlockParts) -> None:
        """No MLP piece by piece: the planner has sized the pass. The last one is for the positions alone that are read."""
        now, mlp = self.now, parts.mlp
        if now.at is None or mlp is None or layer != now.n - 1 or not _by_token(now, parts):
            return
        at = now.at

        def run(stock: Any, *args: Any, **kwargs: Any) -> Any:
            if len(args) != 1 or kwargs or args[0].ndim != 3:
                return stock(*args, **kwargs)
            rows = torch.arange(len(args[0]), device=args[0].device)
            here = rows, torch.tensor(at[: len(rows)], device=args[0].device)
            out = torch.zeros_like(args[0])
            out[here] = stock(args[0][here][:, None])[:, 0]
            return out

        self._around(mlp, run)

    def _end(self) -> None:
        def before(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return (self.now.join(self.now.n, args[0]), *args[1:]), kwargs

        self._on(self.now.layout.final_norm.module, before=before)


def _by_token(now: JoinedPass, parts: BlockParts) -> bool:
    """Whether the last MLP works on each token by itself, and nobody sees what it gives at others than those that are read."""
    layout, mlp = now.layout, parts.mlp
    behind = {site.name for site in now.touched if site.layer == now.n - 1}
    if now.overlays or layout.whole or layout.quantised or parts.router is not None:
        return False
    if parts.mlp_in_place or parts.mlp_beside is not None:
        return False
    if "resid_post" in behind or any(name.startswith("mlp") for name in behind):
        return False
    return mlp is not None and not any(m._forward_hooks or m._forward_pre_hooks for m in mlp.modules())


def run_joined(
    base: Base,
    pack: Pack,
    *,
    capture: Iterable[Site],
    background: Sequence[Edit],
    stop: int,
    last: Sequence[int] | None = None,
) -> JoinedPass:
    """Run one pack through the stock model, to the site of rank `stop`; the pass holds what was captured, a row each.

    last: the one position of each of the base's prompts that is read, of the final norm; the others are not what they would be.

    Some models shape their last stream by the rows of the embedding: so the forward ends at the final norm in any case.
    At a site of layer l only the rows that had joined by then are there: the first `counts[l]`.
    """
    model, wanted, start = base.recording.model, frozenset(capture), pack.start
    with in_turn(model.hf), torch.no_grad():
        now = JoinedPass(base, pack, capture=wanted, background=background)
        if pack.strands[0].layer < 0:
            _embed(now, wanted, background)
        now.ends = not model.layout.offloaded
        now.at = None if last is None else [last[row] - now.offset for row in now.index]
        if stop < 0:
            return now
        cache = prefix_cache(pack.pos, now.prefix) if pack.pos else None
        ids = base.batch.ids[:1, pack.pos :]  # stands for the rows until the first of them join
        resume = base.rows(now.entry(start), [0])[:, pack.pos :] if start else None
        with JoinedHooks(now, start=start, resume=resume, stop=stop)(), suppress(Stop):
            call(model.hf, ids, cache=cache)
        if Site("logits") in wanted:
            logits, final = model.layout.logits(now.values[FINAL], overlays=_common(now)), now.values[FINAL]
            for strand, here in now.unembedding():
                logits[here] = model.layout.logits(final[here], overlays=[*_common(now), *strand.overlays])
            with suppress(Stop):
                now.visit(Site("logits"), logits)
    return now


def _common(now: JoinedPass) -> list[Any]:
    return now.overlays[: len(now.overlays) - sum(len(strand.overlays) for strand in now.pack.strands)]


def _embed(now: JoinedPass, capture: frozenset[Site], background: Sequence[Edit]) -> None:
    """Take the rows that part at the embedding to the first block, and put what they leave on the way into the pass."""
    strands = tuple(strand for strand in now.pack.strands if strand.layer < 0)
    first, pos = Site("resid_pre", 0), now.offset
    early = {site for site in capture if rank(site, now.n) < 0}
    here = EmbeddingPass(now.base, Pack(pos, strands), capture=early | {first}, background=background)
    cache = prefix_cache(pos, here.prefix) if pos else None
    with Hooks(here, stop=-1)(), suppress(Stop):
        call(now.layout.hf, here.batch.ids[:, pos:], cache=cache)
    now.entered = here.values.pop(first)
    now.values |= here.values
    now.read |= here.read
