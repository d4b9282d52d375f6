"""Every family on tiny random models: certified, equal to the stock model, its sites and their absences as the table says."""

import threading
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from by_hand import families
from families import FAMILIES

import residscope as rs
from residscope import directions, edits, errors
from residscope.engine.certificate import measure
from residscope.engine.model import Model
from residscope.engine.windows import Window
from residscope.model.sites import KINDS
from tiny_models import hook_count

EXACT = 2e-6  # float64, but many stock families norm or softmax in float32 whatever the model's dtype


@pytest.fixture(params=FAMILIES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return Model(FAMILIES[name].build(), name=name)


@pytest.fixture(scope="module")
def rec(model, ids):
    return model.run(ids, capture=model.sites.names)


def close(a, b, tolerance=EXACT):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def mlp_write(rec, layer):
    return rec["mlp_out", layer] if "mlp_out" in rec.model.sites.names else 0


@torch.no_grad()
def stock(model, ids):
    return model.hf(ids, use_cache=False).logits


def test_every_family_described_by_hand_is_in_the_table():
    assert {FAMILIES[name].build().config.model_type for name in FAMILIES} == families().keys()


def test_every_family_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text()
    for model_type, family in families().items():
        assert f"`{model_type}`" in page
        for name in family.absent:
            assert f"`{name}`" in page


def test_the_certificate_passes(model):
    certificate = measure(model)
    assert certificate.passed, certificate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_certificate_passes_in_lower_precision(name, dtype):
    certificate = measure(Model(FAMILIES[name].build(seed=1).to(dtype)))
    assert certificate.passed, certificate


def test_logits_are_the_stock_models_and_no_hook_is_left(model, rec, ids):
    before = stock(model, ids)
    close(rec.logits, before)
    close(model.lens(rec["resid_post", model.n_layers - 1]), before)
    assert hook_count(model.hf) == 0
    assert torch.equal(stock(model, ids), before)


def test_every_site_is_there_with_its_shape_or_absent_with_a_reason(model, name, rec):
    assert set(model.sites.absent) == set(FAMILIES[name].absent)
    assert all(len(why) > 15 for why in model.sites.absent.values())
    assert set(model.sites.names) == KINDS.keys() - model.sites.absent.keys()
    for site in rec.sites:
        for size, axis in zip(rec[site].shape, site.kind.axes, strict=True):
            expected = {"batch": 2, "pos": 11, "query": 11, "key": 11}.get(axis) or model.sites.size(site, axis)
            assert size == expected, (str(site), axis)


def test_components_sum_to_the_stream(model, rec):
    total = rec["embed"] + (rec["pos_embed"] if "pos_embed" in model.sites.names else 0)
    for layer in range(model.n_layers):
        close(rec["resid_pre", layer], total)
        total = total + rec["attn_out", layer] + mlp_write(rec, layer)
    close(rec["resid_post", model.n_layers - 1], total)


def test_windows_and_batches_give_the_same_numbers(model, rec, ids):
    base = model.run(ids)
    for start, pos in ((0, 5), (1, 0), (1, 7), (model.n_layers, 3)):
        window = Window(base, start, None, pos)
        close(model.run(ids, ["logits"], window=window).logits, rec.logits[:, pos:])
    one = model.run(ids[1:], capture=["logits", "pattern.1", "k.1"])
    for site in one.sites:
        close(one[site], rec[site][1:])
    rows = [ids[0].tolist(), ids[1, :6].tolist()]
    close(model.run(rows, ["logits"]).logits[1, :6], rec.logits[1, :6])


def test_ablating_a_head_is_zeroing_its_columns(model, ids):
    """The plain hooked equivalent: zero the head's slice of what the output projection reads."""
    d, proj = model.d_head, model.layout.blocks[1].attn_proj

    def zero(module, args):
        z = args[0].clone()
        z[..., 2 * d : 3 * d] = 0
        return (z,)

    handle = proj.register_forward_pre_hook(zero)
    expected = stock(model, ids)
    handle.remove()
    cut = [edits.ablate("z.1", head=2)]
    close(model.run(ids, ["logits"], edits=cut).logits, expected)
    close(model.run(ids, ["logits"], edits=[edits.ablate("result.1", head=2)]).logits, expected)
    base = model.run(ids)
    close(model.run(ids, ["logits"], edits=cut, window=Window(base, 1)).logits, expected)
    late = [edits.ablate("z.1", head=2, pos=[6, 8])]
    window = Window(base, 1, None, 6)
    close(model.run(ids, ["logits"], edits=late, window=window).logits, model.run(ids, edits=late).logits[:, 6:])


def test_writing_the_stream_is_replacing_the_blocks_input(model, rec, ids):
    x = torch.randn(rec["resid_pre.1"].shape, generator=torch.Generator().manual_seed(5)).double()

    def replace(module, args, kwargs):
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    handle = model.layout.blocks[1].block.register_forward_pre_hook(replace, with_kwargs=True)
    expected = stock(model, ids)
    handle.remove()
    site = "resid_mid.1" if "resid_mid" in model.sites.names else "resid_pre.1"
    close(model.run(ids, ["logits"], edits=[edits.patch("resid_pre.1", {"resid_pre.1": x})]).logits, expected)
    run = model.run(ids, ["resid_post.1"], edits=[edits.patch(site, {site: x})])
    close(run["resid_post.1"], x + mlp_write(run, 1) + (0 if site == "resid_mid.1" else run["attn_out.1"]))


def test_the_norms_can_all_be_frozen(model, ids):
    held = [edits.freeze("norms"), edits.freeze("patterns")]
    close(model.run(ids, ["logits"], edits=held).logits, model.run(ids, ["logits"]).logits)
    scales = [site for site in model.sites.names if site.endswith("_scale")]
    moved = model.run(ids, scales, edits=[edits.scale("embed", 3.0), *held])
    for site in moved.sites:
        close(moved[site], model.run(ids, [site])[site])


def test_the_unembedding_as_directions(model, rec):
    if model.layout.factors.logits_cap is None:
        close(rec.project(directions.unembedding(model, 7)), rec.logits[..., 7], 1e-4)
        close(rec.project(directions.logit_diff(model, 7, 9)), rec.logits[..., 7] - rec.logits[..., 9], 1e-4)
        return
    with pytest.raises(errors.CappedLogits, match="before_cap"):
        directions.unembedding(model, 7)
    cap = model.layout.factors.logits_cap
    before = rec.project(directions.unembedding(model, 7, before_cap=True))
    close(torch.tanh(before / cap) * cap, rec.logits[..., 7], 1e-4)


class Meanwhile(edits.Scale):
    """An edit that changes nothing; while it is applied, another thread calls the user's own model."""

    kind = ""
    call = None
    seen: ClassVar[list] = []

    def change(self, value, at):
        thread = threading.Thread(target=lambda: self.seen.append(Meanwhile.call()))
        thread.start()
        thread.join()
        return value


def test_a_users_own_call_in_the_middle_of_a_run_is_stock(model, ids, monkeypatch):
    expected = stock(model, ids)
    monkeypatch.setattr(Meanwhile, "call", staticmethod(lambda: stock(model, ids)))
    monkeypatch.setattr(Meanwhile, "seen", [])
    sites = ["q.1", "pattern.1", "mlp_out.1" if "mlp_out" in model.sites.names else "attn_out.1"]
    run = model.run(ids, ["logits"], edits=[Meanwhile(site) for site in sites], window=Window(model.run(ids), 1))
    assert len(Meanwhile.seen) == 3
    for logits in (*Meanwhile.seen, run.logits):
        close(logits, expected)


class Broken(edits.Scale):
    kind = ""

    def change(self, value, at):
        raise RuntimeError("on purpose")


def test_a_run_that_raises_leaves_nothing_behind(model, ids):
    before = stock(model, ids)
    for site in ("z.1", "k.0", *(f"{name}.1" for name in ("mlp_in", "mlp_out", "router") if name in model.sites.names)):
        with pytest.raises(RuntimeError, match="on purpose"):
            model.run(ids, edits=[Broken(site)])
    assert hook_count(model.hf) == 0
    assert torch.equal(stock(model, ids), before)


@torch.no_grad()
def test_an_attention_sink_takes_its_share(ids):
    rec = Model(FAMILIES["gpt_oss"].build()).run(ids, capture=["pattern"])
    assert (rec["pattern.0"].sum(-1) < 0.999).all()


def test_a_sliding_window_shorter_than_the_prompt_is_seen(ids):
    for name in ("mistral", "gemma2", "gemma3", "gpt_neo", "gpt_oss"):
        model = Model(FAMILIES[name].build())
        layer = 1 if name == "gpt_neo" else 0
        pattern = model.run(ids, capture=[f"pattern.{layer}"])[f"pattern.{layer}"]
        assert pattern[..., 10, :7].max() == 0, name
        assert (pattern[..., 10, 7:] > 0).all(), name


def test_another_runs_router_logits_pick_other_experts(ids):
    for name in ("mixtral", "qwen3_moe", "gpt_oss"):
        model = Model(FAMILIES[name].build())
        plain, cut = model.run(ids), model.run(ids, edits=[edits.scale("router.1", -1.0)])
        assert not torch.allclose(plain.logits, cut.logits, atol=1e-3)
        with pytest.raises(errors.AbsentSite, match="fused"):
            model.run(ids, capture=["mlp_post.0"])


def changed(name, fields):
    tiny = FAMILIES[name]
    return type(tiny)(tiny.stem, {**tiny.fields, **fields}).build()


@pytest.mark.parametrize(
    ("name", "fields", "error", "words"),
    [("opt", {"do_layer_norm_before": False}, errors.UnknownFamily, "a norm of the stream"),  # OPT-350m
     ("opt", {"word_embed_proj_dim": 16}, errors.UnknownFamily, "a norm of the stream"),
     ("opt", {"_remove_final_layer_norm": True}, errors.UnknownFamily, "a norm of the stream"),
     ("bloom", {"apply_residual_connection_post_layernorm": True}, errors.UnknownConfig, "instead of the stream"),
     ("mpt", {"attn_config": {"qk_ln": True}}, errors.UnknownConfig, "ignores it"),
     ("gemma", {"use_bidirectional_attention": True}, errors.UnknownFamily, "tokens after it")],
)  # fmt: skip
def test_configurations_that_are_not_served_are_refused_with_the_reason(name, fields, error, words):
    with pytest.raises(error, match=words):
        Model(changed(name, fields))


@pytest.mark.parametrize(
    ("name", "fields", "absent"),
    [("qwen3_moe", {"mlp_only_layers": [1]}, {"router.1", *(f"{site}.{i}" for site in ("mlp_pre", "mlp_post") for i in (0, 2))}),
     ("falcon", {"apply_residual_connection_post_layernorm": True}, {"resid_mid", "mlp_scale"}),
     ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, {"mlp_gate"}),
     ("opt", {"layer_norm_elementwise_affine": False}, {"mlp_gate"})],
)  # fmt: skip
def test_switches_are_served_as_the_stock_model_takes_them(name, fields, absent, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    model = rs.load(changed(name, fields))
    assert absent <= {*model.sites.absent}
    assert model.certificate.passed
    close(model.run(ids, ["logits"]).logits, stock(model, ids))
