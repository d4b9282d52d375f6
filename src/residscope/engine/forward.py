"""One forward of a stock model: what is captured, what is edited, where it starts and where it stops."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from residscope.engine.hooks import Hooks
from residscope.engine.layout import Layout
from residscope.engine.memory import out_of_memory, require_room, too_large
from residscope.engine.passes import Pass, Stop
from residscope.engine.protocols import Edit
from residscope.engine.spans import Span, Spans, spans_of
from residscope.engine.stock import call
from residscope.engine.turns import in_turn
from residscope.engine.windows import Window, window_cache
from residscope.model.prompts import Batch
from residscope.model.sites import Site, rank


def forward(
    layout: Layout,
    batch: Batch,
    *,
    capture: Iterable[Site],
    edits: Sequence[Edit] = (),
    earlier: Sequence[Edit] = (),
    window: Window | None = None,
    unedited: Mapping[Site, Tensor] | None = None,
    grad: bool = False,
    cache: Any = None,
    memory: int | None = None,
) -> dict[Site, Tensor]:
    """Run the stock model's own forward and return the captured sites; blocks outside the window cost nothing.

    Shapes are the sites' own, with the window's positions only. The model is as it was afterwards, also when this raises.
    `earlier`: edits that the window's stream has been through already (see `Pass`). `grad`: keep the graph that autograd
    needs. `cache`: a transformers cache for the run to fill. `memory`: bytes to keep within.
    Raises TooLarge, also where memory runs out on the way.
    """
    capture = frozenset(capture)
    require_room(layout, batch, capture, offset=0 if window is None else window.pos, most=memory)

    try:
        return _once(layout, batch, capture, edits, earlier, window, unedited, grad, cache)
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
    raise too_large(layout, batch, capture, offset=0 if window is None else window.pos)


def _once(
    layout: Layout,
    batch: Batch,
    capture: frozenset[Site],
    edits: Sequence[Edit],
    earlier: Sequence[Edit],
    window: Window | None,
    unedited: Mapping[Site, Tensor] | None,
    grad: bool,
    cache: Any,
) -> dict[Site, Tensor]:
    n = layout.sizes.n_layers
    pos, start, resume, whole = 0, 0, None, cache is None
    stop = max((rank(site, n) for site in capture), default=-1)
    with in_turn(layout.hf), torch.set_grad_enabled(grad):
        if window is not None:
            pos, start = window.pos, window.start
            if start < n:
                stop = max(stop, start)  # the stream it starts from is seen at that block's entry
            together = layout.whole and start < n
            if start > 0:
                stream = window.base[Site("resid_pre", start) if start < n else Site("resid_post", n - 1)]
                resume = stream if together else stream[:, pos:]
            if pos > 0 and start < n and not together:  # above the blocks, nothing looks back
                cache = window_cache(window, stop=min(stop, n - 1))
        below = None if window is None else window.base.__getitem__
        if window is not None and pos and layout.whole and start < n:
            spans = (*spans_of(window.base, pos), Span(pos, batch.ids.shape[1], tuple(edits)))
            now: Pass = Spans(
                layout,
                batch,
                spans,
                kept=pos,
                capture=capture,
                earlier=earlier,
                start=start,
                unedited=unedited,
                below=below,
            )
            pos = 0
        else:
            now = Pass(
                layout, batch, capture=capture, edits=edits, earlier=earlier, offset=pos, start=start, unedited=unedited,
                below=below,
            )  # fmt: skip
        now.ends = whole and not layout.offloaded
        wants_logits = Site("logits") in capture
        hooks = Hooks(now, start=start, resume=resume, stop=None if wants_logits else stop)
        with hooks():
            try:
                out = call(layout.hf, batch.ids[:, pos:], cache=cache)
                if wants_logits:
                    now.visit(Site("logits"), out.logits)  # of all positions that ran
            except Stop:
                pass
        return now.values
