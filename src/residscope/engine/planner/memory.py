"""Memory: how much a sweep may take, and the many ways in which torch says that it ran out."""

import os

import torch


def budget(device: torch.device) -> int:
    """Half of the bytes that are free on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with open("/proc/meminfo") as lines:  # what the system would give up counts as free
            found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        return (found[0] if found else free) // 2
    except (OSError, ValueError, AttributeError):
        return 2**31


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory running out, on the CPU or on a card."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
