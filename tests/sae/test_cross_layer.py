"""Cross-layer transcoders: each (i, j), their sum, and their files."""

import pytest
import torch
from safetensors.torch import save_file

import residscope as rs
from residscope import errors

LAYERS, D, F = 3, 8, 10


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def written(tmp_path):
    """As circuit-tracer writes them."""
    for i in range(LAYERS):
        encoder = {
            f"W_enc_{i}": draw(F, D, seed=i),
            f"b_enc_{i}": draw(F, seed=10 + i),
            f"b_dec_{i}": draw(D, seed=20 + i),
        }
        encoder |= {f"threshold_{i}": draw(F, seed=30 + i).abs()}
        save_file(encoder, tmp_path / f"W_enc_{i}.safetensors")
        save_file({f"W_dec_{i}": draw(F, LAYERS - i, D, seed=40 + i)}, tmp_path / f"W_dec_{i}.safetensors")
    (tmp_path / "config.yaml").write_text("feature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n")
    return tmp_path


def by_hand(x):
    """Sums over sources in float64."""
    ys = [draw(D, seed=20 + j).double().expand(len(x[0]), D).clone() for j in range(LAYERS)]
    for i in range(LAYERS):
        p = x[i].double() @ draw(F, D, seed=i).double().T + draw(F, seed=10 + i)
        a = torch.where(p > draw(F, seed=30 + i).abs(), p, 0)
        for j in range(i, LAYERS):
            ys[j] += a @ draw(F, LAYERS - i, D, seed=40 + i)[:, j - i].double()
    return ys


def test_the_reconstruction_is_the_sum_over_sources(written):
    clt = rs.sae.load(written)
    assert isinstance(clt, rs.sae.CrossLayer)
    assert len(clt) == LAYERS
    x = {i: draw(5, D, seed=50 + i) for i in range(LAYERS)}
    found, wanted = clt.reconstruct(x), by_hand(x)
    for j in range(LAYERS):
        torch.testing.assert_close(found[j], wanted[j].float(), atol=1e-5, rtol=1e-5)
        parts = sum(clt.at(i, j).reconstruct(x[i]) for i in range(j + 1))
        torch.testing.assert_close(parts, found[j], atol=1e-5, rtol=1e-5)


def test_one_pair_of_layers_is_a_dictionary_that_shares_the_tensors(written):
    clt = rs.sae.load(written)
    one = clt.at(0, 2)
    assert (one.site, one.write_site) == ("resid_mid.0", "mlp_out.2")
    assert one.read.data_ptr() == clt.at(0, 1).read.data_ptr() == clt.read[0].data_ptr()
    assert not one.base.any()
    assert torch.equal(clt.at(2, 2).base, clt.base[2])
    assert len({clt.at(0, j).hash for j in range(3)}) == 3
    assert clt.hash == rs.sae.load(written).hash
    for pair in ((2, 1), (0, 3), (-1, 0)):
        with pytest.raises(errors.UnknownLayer):
            clt.at(*pair)


def test_an_edit_of_one_pair_moves_that_layer_alone(written):
    model = rs.load("smollm2-135m")
    clt = rs.sae.load(written)
    wide = rs.sae.CrossLayer(
        read=tuple(draw(F, model.d_model, seed=i) / 20 for i in range(2)), bias=(torch.ones(F),) * 2,
        write=tuple(draw(F, 2 - i, model.d_model, seed=7 + i) for i in range(2)), base=(torch.zeros(model.d_model),) * 2,
    )  # fmt: skip
    assert clt.name == wide.name == "clt"
    sites = ["resid_mid.0", "mlp_out.0", "mlp_out.1"]
    plain = model.run("Hello there", sites)
    moved = model.run("Hello there", sites, edits=rs.edits.feature(wide.at(0, 1), 3, value=5.0))
    old = wide.encode(0, plain["resid_mid.0"])[..., 3:4]
    torch.testing.assert_close(moved["mlp_out.0"], plain["mlp_out.0"])
    wanted = plain["mlp_out.1"] + (5 - old) * wide.write[0][3, 1]
    torch.testing.assert_close(moved["mlp_out.1"], wanted, atol=1e-4, rtol=1e-4)


def test_a_missing_layer_and_a_wrong_shape_are_refused(written):
    (written / "W_dec_1.safetensors").unlink()
    with pytest.raises(errors.DamagedFile, match="W_dec_1"):
        rs.sae.load(written)
    save_file({"W_dec_1": draw(F, LAYERS, D)}, written / "W_dec_1.safetensors")
    with pytest.raises((errors.DamagedFile, errors.WrongWidth), match="layer 1"):
        rs.sae.load(written)
