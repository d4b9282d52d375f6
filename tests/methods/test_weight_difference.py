"""The difference of two models' weights, against numpy on their state dicts, and against the adapter it is of."""

import numpy as np
import pytest
from safetensors.torch import load_file

import residscope as rs
from engine.families import FAMILIES
from methods.two import pair
from residscope.engine.model import Model
from residscope.errors import OtherModel
from residscope.model.adapters import SHIPPED
from tiny_models import tiny_llama


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_s_share_is_numpy_s(family):
    base, other = pair(family)
    found = rs.weight_difference(base, other)
    own, theirs = base.hf.state_dict(), other.hf.state_dict()
    compared = 0
    for layer in range(base.n_layers):
        for name in found.share.coords["weight"]:
            key = f"{base.family.blocks}.{layer}.{name}"
            key = key if key in own else f"{key}.weight"
            W, V = own[key].double().numpy(), theirs[key].double().numpy()
            at = {"layer": layer, "weight": name}
            assert found.norm.select(**at).values == pytest.approx(np.linalg.norm(V - W), rel=1e-5)
            assert found.share.select(**at).values == pytest.approx(np.linalg.norm(V - W) / np.linalg.norm(W), rel=1e-5)
            if W.ndim == 2:
                s = np.linalg.svd(V - W, compute_uv=False)
                p = s / s.sum()
                p = p[p > 0]
                assert found.rank.select(**at).values == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-3)
                assert found.singular.select(**at).values.numpy() == pytest.approx(np.pad(s, (0, 4))[:4], rel=1e-4)
            compared += 1
    assert compared == found.share.values.numel()


def test_heads_are_the_rows_of_q_k_v_and_the_columns_of_o():
    base, other = pair("llama")
    found = rs.weight_difference(base, other)
    d = base.d_head
    for layer in range(base.n_layers):
        own, theirs = (m.hf.model.layers[layer].self_attn for m in (base, other))
        for name, count in (("q", base.n_heads), ("k", base.n_kv_heads), ("v", base.n_kv_heads), ("o", base.n_heads)):
            W, V = (getattr(part, f"{name}_proj").weight.detach().double() for part in (own, theirs))
            W, V = (W.T, V.T) if name == "o" else (W, V)
            shares = found.heads.select(weight=name, layer=layer).values
            for head in range(count):
                rows = slice(head * d, (head + 1) * d)
                assert shares[head] == pytest.approx(((V[rows] - W[rows]).norm() / W[rows].norm()).item(), rel=1e-4)
            assert bool(shares[count:].isnan().all())


def test_a_head_s_weights_together_and_the_mlp_s():
    """Grouped: k and v count for each query head that reads them."""
    base, other = pair("llama")
    found, d, group = rs.weight_difference(base, other), base.d_head, base.n_heads // base.n_kv_heads
    for layer in range(base.n_layers):
        own, theirs = (m.hf.model.layers[layer] for m in (base, other))
        for head in range(base.n_heads):
            squares = np.zeros(2)
            for name, at in (("q", head), ("k", head // group), ("v", head // group), ("o", head)):
                W, V = (getattr(b.self_attn, f"{name}_proj").weight.detach().double().numpy() for b in (own, theirs))
                W, V = (W.T, V.T) if name == "o" else (W, V)
                rows = slice(at * d, (at + 1) * d)
                squares += [((V - W)[rows] ** 2).sum(), (W[rows] ** 2).sum()]
            share = found.parts.select(layer=layer, part=str(head)).values
            assert share == pytest.approx((squares[0] / squares[1]) ** 0.5, rel=1e-4)
        W, V = (
            np.concatenate([x.detach().double().numpy().ravel() for x in b.mlp.parameters()]) for b in (own, theirs)
        )
        share = found.parts.select(layer=layer, part="MLP").values
        assert share == pytest.approx(np.linalg.norm(V - W) / np.linalg.norm(W), rel=1e-4)


def test_the_adapter_s_own_products_are_the_difference(smollm2):
    """(alpha / r) B A, weight by weight; what the adapter does not name has not changed at all."""
    tuned = rs.load("smollm2-135m", adapter="repeated-name")
    found = rs.weight_difference(smollm2, tuned)
    tensors = load_file(SHIPPED / "repeated-name/adapter_model.safetensors")
    total = 0.0
    for layer in range(smollm2.n_layers):
        for name in found.norm.coords["weight"]:
            key = f"base_model.model.model.layers.{layer}.{name}.lora_"
            value = found.norm.select(layer=layer, weight=name).values.item()
            if f"{key}A.weight" not in tensors:
                assert value == 0
                continue
            change = 8 / 4 * tensors[f"{key}B.weight"].double() @ tensors[f"{key}A.weight"].double()
            assert value == pytest.approx(change.norm().item(), rel=1e-4)
            assert 1 <= found.rank.select(layer=layer, weight=name).values <= 4.1
            total += value**2
    assert found.norm.values.double().square().sum().item() == pytest.approx(total)
    assert found.outside.values.tolist() == [0.0] * len(found.outside.values)


def test_a_model_beside_itself_and_one_of_another_shape(llama):
    found = rs.weight_difference(llama, llama)
    assert float(found.norm.values.sum()) == 0
    with pytest.raises(OtherModel, match="n_kv_heads"):
        rs.weight_difference(llama, Model(tiny_llama(kv_heads=4)))


def test_a_file_gives_it_back(tmp_path):
    found = rs.weight_difference(*pair("llama"))
    found.save(tmp_path / "difference.safetensors")
    assert rs.Report.load(tmp_path / "difference.safetensors") == found
    found.view().to_dict()
