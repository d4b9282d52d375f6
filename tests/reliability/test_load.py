"""Some seconds of what `python -m reliability` does for half an hour, on a tiny model."""

import asyncio
import os
from pathlib import Path

import pytest

from reliability.load import PAGES, ask, faults, section
from reliability.serving import serving
from session import worlds

SECONDS = 6.0
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def test_two_hundred_pages_are_answered_or_told_when_to_come_back(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "data"
    data.mkdir()
    worlds.model().hf.save_pretrained(model)
    worlds.tokenizer().save_pretrained(model)
    with serving(str(model), data) as running:
        found = asyncio.run(ask(running, SECONDS, os.environ["RESIDSCOPE_SEED"]))
    assert faults(found) == [], section(found, SECONDS / 60)
    assert found.messages > PAGES
    for phase in found.phases[1:]:
        assert {kind for kind, told in phase.kinds.items() if told.seconds} >= {
            "vote",
            "set the prompt",
            "the owner acts",
        }
        assert not phase.of("the owner acts").refused
