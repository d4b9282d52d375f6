"""Memory: what a run would keep, how much it or a sweep may take, and the many ways in which torch says that it ran out."""

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.layout import Layout
from residscope.errors import TooLarge
from residscope.model.prompts import Batch
from residscope.model.sites import Site

MOST_HELD = 1 << 30  # bytes
_SMALL = 1 << 27  # bytes below which nobody asks what is free
_BLOCK = 32  # values of the stream's width that a block has in memory at a time for a token, about

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names of what mallopt sets
_LEARNT = 1 << 25  # bytes: the most that glibc raises its own threshold to


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


def together(parts: Sequence[Tensor]) -> Float[Tensor, "part ..."]:
    """Tensors of one shape as one: without a copy where they stand in one piece of memory, each behind the one before."""
    first, step = parts[0], parts[0].numel()
    storage, begin = first.untyped_storage().data_ptr(), first.storage_offset()
    in_order = all(
        part.is_contiguous()
        and part.untyped_storage().data_ptr() == storage
        and part.storage_offset() == begin + i * step
        for i, part in enumerate(parts)
    )
    return first.as_strided((len(parts), *first.shape), (step, *first.stride())) if in_order else torch.stack([*parts])


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
def held_share() -> int:
    """Bytes that a session holds at most of each of four things that it can make again: its runs, its runs at other sites, its
    maps and its pages of prompts. A sixteenth of the machine's memory, at most 1 GiB."""
    try:
        return min(MOST_HELD, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 16)
    except (OSError, ValueError, AttributeError):
        return MOST_HELD // 4


def too_large(layout: Layout, batch: Batch, sites: Iterable[Site], *, offset: int = 0) -> TooLarge:
    """What to say of a forward that ran out of memory, and about how many tokens would have fitted."""
    rows, length = batch.ids.shape
    held = bytes_of(layout, batch, list(sites), offset=offset)
    each = held // (rows * length) + _BLOCK * layout.sizes.d_model * layout.dtype.itemsize
    room = budget(layout.device)
    return TooLarge(
        "the run does not fit in memory",
        received=f"{rows} x {length} tokens, of which {held:,} bytes were to be recorded",
        allowed=f"about {room // max(each, 1):,} tokens in half of what is free, {room:,} bytes",
        fix="run a shorter prompt or fewer at once, or record fewer sites",
    )


@cache
def _libc() -> ctypes.CDLL | None:
    """The C library, where it is glibc: the one that keeps what was let go of, and can be told how much."""
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "gnu_get_libc_version") else None
    except OSError:
        return None


def give_back() -> None:
    """Hand what a long forward has let go of back to the system, which the C library would keep in pieces."""
    if (libc := _libc()) is not None:
        libc.malloc_trim(0)


@contextmanager
def pages_apart() -> Iterator[None]:
    """Inside, each large tensor has pages of its own, which are the system's again once it is let go of.

    Else the C library learns from the first large one that is freed to keep the next ones in its heap, where they leave gaps;
    what it would learn at most is what holds afterwards.
    """
    libc = _libc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, 1 << 23)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _LEARNT)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LEARNT)


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory running out, on the CPU or on a card."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
