"""Loading costs the weights and little more: the peak of a fresh process, counted from after the imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")


def measured(kind):
    run = subprocess.run(
        [sys.executable, "-m", "bench.memory", kind], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.usefixtures("smollm2")  # its certificate is known from then on
def test_loading_and_reading_every_weight_costs_the_weights_once():
    found = measured("load")
    assert found["cached"]
    assert 0.9 < found["grown"] / found["weights"] <= 1.1  # the lower bound: every page was read, none twice


@pytest.mark.usefixtures("smollm2")
def test_the_certificate_adds_little():
    found = measured("first")
    assert not found["cached"]
    assert 0.9 < found["grown"] / found["weights"] <= 1.12  # 1.10 measured, and 10 MB for another machine's allocator
