"""What a long pass lets go of is the system's again at once, and the C library is told so for as long as it runs."""

import sys

import pytest
import torch

from residscope.engine import memory, passes

PAGE = 4096


def resident() -> int:
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * PAGE


@pytest.mark.skipif(not sys.platform.startswith("linux") or memory._libc() is None, reason="glibc's own way")
def test_large_tensors_leave_nothing_behind_inside():
    with memory.pages_apart():
        before = resident()
        for _ in range(3):
            held = [torch.ones(4 << 20) for _ in range(4)]  # 16 MB each
            fence = torch.ones(1 << 10)  # would keep what lies below it in a heap
            del held
            assert resident() - before < 8 << 20
            del fence


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
