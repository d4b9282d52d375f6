"""Windows: a run of only some layers and only the later positions, the rest taken from a recording.

Under causal attention an edit at layer l and position p can change only layers >= l and positions >= p, so a window that
holds those gives the whole run's numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from residscope.errors import UnknownLayer, UnknownPosition


@dataclass(frozen=True)
class Window:
    """Layers `start` to `stop` (inclusive; None: to the logits) and positions from `pos` on, of the run `base` recorded."""

    base: Any
    start: int = 0
    stop: int | None = None
    pos: int = 0

    def __post_init__(self) -> None:
        n, longest = self.base.model.n_layers, self.base.tokens.shape[1]
        if not 0 <= self.start <= n or not (self.stop is None or -1 <= self.stop < n):
            raise UnknownLayer(
                f"the model has {n} layers", received=f"start={self.start}, stop={self.stop}", allowed=f"0 to {n - 1}"
            )
        if not 0 <= self.pos < longest:
            raise UnknownPosition(
                "the window starts outside the prompt", received=f"pos={self.pos}", allowed=f"0 to {longest - 1}"
            )


def prefix_cache(pos: int, serve: Callable[[int, int], tuple[Tensor, Tensor]]) -> Any:
    """A cache of the keys and values before `pos`, which stores nothing.

    `serve(layer, rows)` gives them, each [rows, kv_head, pos, d_head].
    """
    from transformers import DynamicCache

    class PrefixCache(DynamicCache):  # type: ignore[misc]
        def get_seq_length(self, layer_idx: int = 0) -> int:
            return pos

        def get_query_offset(self, layer_idx: int = 0) -> int:
            return pos

        def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
            return pos + query_length, 0

        def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            k, v = serve(layer_idx, key.shape[0])
            return torch.cat([k, key], 2), torch.cat([v, value], 2)

    return PrefixCache()


def window_cache(window: Window, *, stop: int) -> Any:
    """The base's own keys and values before a window, up to layer `stop`."""
    keys_values = window.base.keys_values(window.pos, start=window.start, stop=stop)
    return prefix_cache(window.pos, lambda layer, rows: tuple(x.expand(rows, -1, -1, -1) for x in keys_values[layer]))


def whole_cache() -> Any:
    """A cache that keeps every layer's keys and values whole: one made from a configuration would cut sliding layers."""
    from transformers import DynamicCache

    return DynamicCache()
