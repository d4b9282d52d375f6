"""Dictionaries of a hub: a real server on the loopback, and what it does wrong."""

import pytest
import torch

import residscope as rs
from loopback_hub import COMMIT
from residscope import errors
from sae.written import saelens, weights


def test_a_repository_a_folder_and_a_revision(hub, tmp_path):
    local = rs.sae.load(saelens(tmp_path / "local", weights()))
    for source in (
        "someone/one",
        "hub:someone/one",
        "someone/several/4",
        f"someone/one@{COMMIT}",
        "someone/several/3@main",
    ):
        found = rs.sae.load(source)
        assert found.hash == local.hash
        assert COMMIT in found.provenance["source"]
    assert [*rs.sae.load("someone/several")] == ["3", "4"]
    assert not any("README" in line for line in hub.asked)


def test_many_are_not_all_fetched(hub):
    with pytest.raises(errors.WrongEnding, match=r"70 dictionaries.*layer_0"):
        rs.sae.load("someone/many")
    assert not any("resolve" in line for line in hub.asked)
    assert rs.sae.load("someone/many/layer_7").site == "resid_pre.3"


def test_what_is_in_the_cache_needs_no_hub(hub):
    fetched = rs.sae.load("someone/several/4")
    hub.down = True
    assert rs.sae.load("someone/several/4").hash == fetched.hash
    with pytest.raises(errors.Offline, match="someone/several"):
        rs.sae.load("someone/several/3")
    with pytest.raises(errors.Offline, match="does not answer for someone/one"):
        rs.sae.load("someone/one")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("someone/nothing", "no such repository"), ("someone/one@nothing", "no such revision"), ("someone/secret", "gated"),
        ("someone/several/9", "no folder 9"),
    ],
)  # fmt: skip
def test_what_is_not_there(hub, source, words):
    with pytest.raises(errors.FileNotThere, match=words):
        rs.sae.load(source)


def test_what_arrives_short_is_refused(hub):
    hub.short = 100
    with pytest.raises((errors.Offline, errors.DamagedFile)):
        rs.sae.load("someone/one")
    hub.short = 0
    assert torch.isfinite(rs.sae.load("someone/one").read).all()
