"""Dictionaries that other libraries wrote give their own features here; the files are of `bench/peers/saes.py write`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import residscope as rs

PEERS = Path(__file__).parent / "peers"
WRITTEN = sorted(path.parent for path in PEERS.rglob("expected.safetensors"))
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SITES = {
    "saelens5-heads": ("z.2", "z.2"), "sparsify-80": ("resid_post.2", "resid_post.2"), "sparsify-81": ("mlp_in.1", "mlp_raw.1"),
    "sparsify-82": ("mlp_in.3", "mlp_raw.3"),
}  # fmt: skip


def name(folder: Path) -> str:
    return folder.relative_to(PEERS).parts[0]


def test_every_library_wrote_some():
    assert {name(folder).split("-")[0] for folder in WRITTEN} == {
        "saelens",
        "saelens5",
        "dictionary_learning",
        "sparsify",
    }
    assert json.loads((PEERS / "versions.json").read_text()).keys() == {
        "sae-lens",
        "dictionary-learning",
        "eai-sparsify",
        "torch",
    }


@pytest.mark.parametrize("folder", WRITTEN, ids=name)
def test_the_peer_s_own_features(folder):
    told = load_file(folder / "expected.safetensors")
    sae = rs.sae.load(folder)
    torch.testing.assert_close(sae.encode(told["x"]), told["features"], **CLOSE)
    torch.testing.assert_close(sae.reconstruct(told["x"]), told["output"], **CLOSE)
    active = (told["features"] > 0).float().mean()
    assert 0.02 < active < 0.9  # something is on, and something off
    kind = name(folder)
    usual = "resid_post.2" if kind.startswith("dict") else "mlp_in.2" if "transcoder" in kind else "resid_pre.2"
    other = "mlp_out.2" if "transcoder" in kind else usual
    assert (sae.site, sae.write_site) == SITES.get(kind, (usual, other))
    assert sae.provenance["format"].lower().startswith(kind.split("-")[0].rstrip("5"))


@pytest.mark.parametrize("folder", WRITTEN, ids=name)
def test_what_is_saved_for_saelens_is_the_same_again(folder, tmp_path):
    sae = rs.sae.load(folder)
    if sae.activation in ("topk", "gated") and sae.write_site != sae.site:
        with pytest.raises(rs.errors.DirectionError, match="SAELens has no transcoder"):
            rs.sae.save(sae, tmp_path / "sae")
        assert not (tmp_path / "sae").exists()
        return
    rs.sae.save(sae, tmp_path / "sae")
    again, x = rs.sae.load(tmp_path / "sae"), load_file(folder / "expected.safetensors")["x"]
    torch.testing.assert_close(again.encode(x), sae.encode(x), **CLOSE)
    torch.testing.assert_close(again.reconstruct(x), sae.reconstruct(x), **CLOSE)
    assert (again.site, again.write_site, again.name) == (sae.site, sae.write_site, sae.name)
    assert again.provenance["format"] == "SAELens 6"
