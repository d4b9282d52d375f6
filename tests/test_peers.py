"""Peers in processes of their own: the wire between, and what a peer's failure looks like from here."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from bench import peers

RUNNER = """
import os

import numpy as np

from wire import serve


def twice(clock, x):
    print("a library that chatters")
    clock.seconds = 1.25
    return {"doubled": np.array(x) * 2, "told": "yes"}


def fail(clock):
    raise ValueError("on purpose")


serve({"load": lambda clock, **given: given, "twice": twice, "fail": fail, "die": lambda clock: os._exit(3)})
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    shutil.copy(peers.HERE / "wire.py", tmp_path)
    (tmp_path / "fake.py").write_text(RUNNER)
    monkeypatch.setattr(peers, "HERE", tmp_path)
    with peers.Peer("fake", folder=tmp_path, threads=1, python=Path(sys.executable)) as peer:
        yield peer


def test_an_operation_brings_back_arrays_facts_and_its_own_time(peer, tmp_path):
    assert peer.about == {"folder": str(tmp_path), "threads": 1}
    for x in ([1, 2], [3.5]):
        answer = peer.call("twice", x=x)
        np.testing.assert_array_equal(answer["doubled"], np.array(x) * 2)
        assert answer.facts == {"told": "yes"}
        assert answer.seconds == 1.25


def test_an_operation_that_raises_is_told_and_the_peer_goes_on(peer):
    with pytest.raises(peers.PeerError, match=r"fake refused fail(.|\n)*ValueError: on purpose"):
        peer.call("fail")
    assert peer.call("twice", x=[1])["doubled"] == [2]


def test_a_peer_that_dies_says_its_last_words(peer):
    peer.call("twice", x=[1])
    with pytest.raises(peers.PeerError, match=r"has gone(.|\n)*chatters"):
        peer.call("die")
    with pytest.raises(peers.PeerError, match="has gone"):
        peer.call("twice", x=[1])


def test_without_the_environment_the_error_says_how_to_make_it(tmp_path):
    with pytest.raises(peers.PeerError, match="make peers"):
        peers.Peer("nnsight", python=tmp_path / "bin/python")


def test_every_peer_has_its_runner_and_is_pinned():
    pinned = (peers.HERE / "requirements.txt").read_text()
    for name in peers.PEERS:
        assert (peers.HERE / f"{name}.py").is_file()
        assert f"{name.replace('transformer_lens', 'transformer-lens').replace('_', '-')}==" in pinned
