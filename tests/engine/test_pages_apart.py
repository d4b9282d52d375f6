"""What a long pass lets go of is the system's again at once, and the C library is told so for as long as it runs."""

import subprocess
import sys

import pytest

from residscope.engine import memory, passes

PROGRAM = """
import torch
from residscope.engine import memory

def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * 4096

def left_behind():
    before = resident()
    for _ in range(3):
        held = [torch.ones(size) for size in (4 << 20, 5 << 20, 6 << 20, 7 << 20)]  # 16 MB and more
        fence = torch.ones(1 << 10)  # keeps what lies below it in a heap
        del held
    return resident() - before

with memory.pages_apart():
    print(left_behind())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or memory._libc() is None, reason="glibc's own way")
def test_large_tensors_leave_nothing_behind_inside():
    """In a process of its own, whose heap has no room that others left."""
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert int(told.stdout) < 8 << 20


def test_a_long_pass_asks_for_it_and_a_short_one_does_not(llama, monkeypatch):
    asked = []
    libc = type(
        "Libc", (), {"mallopt": lambda self, what, to: asked.append((what, to)), "malloc_trim": lambda self, x: 0}
    )
    monkeypatch.setattr(memory, "_libc", lambda: libc())
    llama.run([1] * 8)
    assert asked == []
    monkeypatch.setattr(passes, "LONG", 16)
    llama.run([1] * 20)
    assert asked == [(-3, 1 << 23), (-3, 1 << 25), (-1, 1 << 26)]
