"""Memory: what a run would keep, how much it or a sweep may take, and the many ways in which torch says that it ran out."""

import ctypes
import os
from collections.abc import Callable, Iterable
from functools import cache
from math import prod

import torch

from residscope.engine.layout import Layout
from residscope.errors import TooLarge
from residscope.model.prompts import Batch
from residscope.model.sites import Site

_SMALL = 1 << 27  # bytes below which nobody asks what is free


def bytes_of(layout: Layout, batch: Batch, sites: Iterable[Site], *, offset: int = 0) -> int:
    """What the values at some sites take, for the positions of a batch from `offset` on."""
    rows, length = batch.ids.shape
    given = {"batch": rows, "pos": length - offset, "query": length - offset, "key": length}
    return layout.dtype.itemsize * sum(
        prod(given.get(axis) or layout.table.size(site, axis) or 1 for axis in site.kind.axes) for site in sites
    )


def require_room(
    layout: Layout, batch: Batch, sites: Iterable[Site], *, offset: int = 0, most: int | None = None
) -> None:
    """Refuse to record what takes more than `most` bytes, or than half of what is free on the device. Raises TooLarge."""
    sites = list(sites)
    needed = bytes_of(layout, batch, sites, offset=offset)
    if most is None and needed <= _SMALL:
        return
    room = budget(layout.device) if most is None else most
    if needed > room:
        largest = max(sites, key=lambda site: bytes_of(layout, batch, [site], offset=offset))
        rows, length = batch.ids.shape
        raise TooLarge(
            "what is to be recorded does not fit in memory",
            received=f"{len(sites)} sites of {rows} x {length} tokens: {needed:,} bytes, "
            f"{bytes_of(layout, batch, [largest], offset=offset):,} for {largest} alone",
            allowed=f"{room:,} bytes, " + ("as asked" if most is not None else "half of what is free"),
            fix="record fewer layers or sites, or a shorter prompt, or say memory= in bytes",
        )


def budget(device: torch.device) -> int:
    """Half of the bytes that are free on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as lines:  # what the system would give up counts as free
            available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        return (available[0] if available else free) // 2
    except (OSError, ValueError, AttributeError):
        return 2**31


@cache
def _trim() -> Callable[[int], int] | None:
    """The C library's way to hand unused memory back to the system, where it has one (glibc)."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return None


def give_back() -> None:
    """Hand what a long forward has let go of back to the system, which the C library would keep in pieces."""
    if (trim := _trim()) is not None:
        trim(0)


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory running out, on the CPU or on a card."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
