"""Attribution patching: the slope of the metric along each patch, and the exact sample beside it."""

from dataclasses import dataclass

import pytest
import torch

import residscope as rs
from residscope import edits, errors
from tiny_models import IOI

METRIC = rs.logit_diff(5, 7)
PAIR = ([list(range(2, 8)), list(range(12, 18))], [list(range(32, 38)), list(range(22, 28))])
STEP = 1e-2  # llama norms in float32: smaller steps measure its rounding


@pytest.mark.parametrize("mode", ["denoise", "noise"])
@pytest.mark.parametrize(
    ("site", "positions"), [("resid_pre", "each"), ("mlp_out", [1, -1]), ("z", None), ("k", "each"), ("pattern", None)]
)
def test_it_is_the_slope_along_the_patch(tiny, site, positions, mode):
    """Central differences of plain runs with a part of the way to the other prompt's value put in."""
    clean, corrupted = PAIR
    found = rs.attribution_patching(
        tiny, clean, corrupted, METRIC, site=site, positions=positions, mode=mode, sample=0, progress=False
    )
    target, source = (corrupted, clean) if mode == "denoise" else (clean, corrupted)
    own, other = tiny.run(target, [site]), tiny.run(source, [site])
    base = METRIC(tiny.run(target, ["logits"]))
    axis = found.dims[-2] if found.dims[-2] in ("head", "kv_head") else None
    for layer in (0, 3):
        name = f"{site}.{layer}"
        where = {} if "pos" not in found.dims else {"pos": found.coords["pos"][-1]}
        where |= {} if axis is None else {axis: 0}
        ends = []
        for step in (STEP, -STEP):
            part = {name: own[name] + step * (other[name] - own[name])}
            ends.append(METRIC(tiny.run(target, ["logits"], edits=edits.patch(name, part, **where))))
        slope = (ends[0] - ends[1]) / (2 * STEP)
        at = {"layer": layer, **where}
        torch.testing.assert_close(found.select(**at).values, (base + slope).double(), atol=3e-4, rtol=1e-3)


def test_it_is_exact_where_the_metric_is_linear_in_the_cell(llama):
    """The last stream under a held norm: the logits are linear in it."""
    held = [edits.freeze("final_scale")]
    last = {"site": "resid_post", "layers": [3], "positions": "all", "background": held, "progress": False}
    for mode in ("denoise", "noise"):
        found = rs.attribution_patching(llama, *PAIR, METRIC, mode=mode, **last)
        exact = rs.activation_patching(llama, *PAIR, METRIC, mode=mode, **last)
        torch.testing.assert_close(found.values, exact.values.double(), atol=1e-6, rtol=1e-6)
        assert (exact.values - torch.tensor(exact.provenance["no effect"])).abs().min() > 1e-4
    bent = rs.attribution_patching(llama, *PAIR, METRIC, **last | {"background": ()})
    exact = rs.activation_patching(llama, *PAIR, METRIC, **last | {"background": ()})
    assert (bent.values - exact.values).abs().max() > 1e-6  # the norm bends


def test_same_shape_labels_and_unit_as_exact(llama):
    for site, normalize in (("resid_pre", False), ("v", True)):
        how = {"site": site, "normalize": normalize, "progress": False}
        found, exact = (f(llama, *PAIR, METRIC, **how) for f in (rs.attribution_patching, rs.activation_patching))
        assert (found.dims, dict(found.coords), found.unit, found.name) == (
            exact.dims,
            dict(exact.coords),
            exact.unit,
            exact.name,
        )
        assert found.provenance["no effect"] == exact.provenance["no effect"]
        assert exact.exact is True
        assert "estimated" in found.exact


def test_patching_a_run_into_itself_changes_nothing(llama):
    clean, _ = PAIR
    found = rs.attribution_patching(llama, clean, clean, METRIC, progress=False)
    assert torch.equal(found.values, found.values[:1, :1].expand_as(found.values))
    assert found.provenance["sample"]["pearson"] is None


def test_the_sample_is_activation_patching(smollm2):
    other = IOI.replace("John gave", "Mary gave")
    m = rs.logit_diff(" Mary", " John")
    how = {"site": "z", "layers": [22, 23], "progress": False}
    found = rs.attribution_patching(smollm2, IOI, other, m, sample=8, seed=3, **how)
    exact = rs.activation_patching(smollm2, IOI, other, m, **how)
    told = found.provenance["sample"]
    assert len(told["cells"]) == len({tuple(c) for c in told["cells"]}) == 8
    for (layer, head), value, guess in zip(told["cells"], told["exact"], told["estimate"], strict=True):
        assert value[0] == pytest.approx(float(exact.select(layer=layer, head=head).values), abs=1e-4)
        assert guess[0] == pytest.approx(float(found.select(layer=layer, head=head).values), abs=1e-9)
    assert told["pearson"] > 0.8
    assert f"pearson {told['pearson']:.2f}" in found.exact
    again = rs.attribution_patching(smollm2, IOI, other, m, sample=8, seed=4, **how).provenance["sample"]
    assert again["cells"][:4] == told["cells"][:4]
    assert again["cells"] != told["cells"]


@dataclass(frozen=True)
class Likeliest:
    """A metric that has no gradient."""

    sites = ("logits",)
    unit = "ids"

    def __call__(self, recording):
        return recording.logits_at(-1, None).argmax(-1).double()


def test_it_refuses(llama):
    with pytest.raises(errors.NoGradient, match=r"no gradient"):
        rs.attribution_patching(llama, *PAIR, Likeliest(), progress=False)
    with pytest.raises(errors.BadSweep, match="same metric"):
        rs.attribution_patching(llama, PAIR[0], PAIR[0], METRIC, normalize=True, progress=False)
    with pytest.raises(errors.UnalignedPrompts):
        rs.attribution_patching(llama, PAIR[0], [[2, 3]], METRIC, progress=False)
    with pytest.raises(errors.BadSweep, match="denoise"):
        rs.attribution_patching(llama, *PAIR, METRIC, mode="restore", progress=False)


@pytest.mark.parametrize("site", ["q", "k"])
@pytest.mark.parametrize("positions", ["all", "each"])
def test_with_attention_anew_it_is_exact_where_all_behind_the_pattern_is_linear(llama, site, positions):
    held = [edits.freeze("final_scale"), edits.freeze("mlp_out")]
    last = {"site": site, "layers": [3], "positions": positions, "background": held, "progress": False}
    exact = rs.activation_patching(llama, *PAIR, METRIC, **last).values
    fixed = rs.attribution_patching(llama, *PAIR, METRIC, qk_fix=True, sample=4, **last)
    torch.testing.assert_close(fixed.values, exact.double(), atol=1e-6, rtol=1e-6)
    assert fixed.provenance["sample"]["pearson"] == pytest.approx(1, abs=1e-6)
    assert "attention computed anew" in fixed.exact
    plain = rs.attribution_patching(llama, *PAIR, METRIC, sample=0, **last).values
    assert (plain - exact).abs().max() > 1e-5


def dropped(hf, ids, layer, cut):
    """dm / dz of a layer of a stock GPT-2, where nothing flows back through what another layer writes: torch's hooks alone."""
    kept, handles = [], []

    def keep(module, args):
        kept.append(args[0].detach().requires_grad_())
        return (kept[0],)

    def detached(module, args, out):
        return (out[0].detach(), *out[1:]) if isinstance(out, tuple) else out.detach()

    handles.append(hf.transformer.h[layer].attn.c_proj.register_forward_pre_hook(keep))
    handles += [
        part.register_forward_hook(detached) for part in (hf.transformer.h[cut].attn, hf.transformer.h[cut].mlp)
    ]
    try:
        logits = hf(torch.tensor(ids)).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()
    return torch.autograd.grad((logits[:, 5] - logits[:, 7]).sum(), kept[0])[0]


def test_sizes_without_a_layer_each_are_autograd_s(gpt2):
    clean, corrupted = PAIR
    found = rs.attribution_patching(
        gpt2, clean, corrupted, METRIC, site="z", mode="noise", grad_drop=True, sample=4, progress=False
    )
    here, there = gpt2.run(clean, ["z"]), gpt2.run(corrupted, ["z"])
    for layer in range(4):
        change, sizes = there["z", layer] - here["z", layer], 0
        for cut in {*range(4)} - {layer}:
            grad = dropped(gpt2.hf, clean, layer, cut).reshape(change.shape)
            sizes = sizes + (change * grad).sum((1, 3)).abs().T / 3
        torch.testing.assert_close(found.select(layer=layer).values, sizes, atol=1e-9, rtol=1e-6)
    assert found.provenance["no effect"] == 0
    assert found.name.startswith("size of the change of the")
    assert min(x for row in found.provenance["sample"]["exact"] for x in row) >= 0
    share = rs.attribution_patching(
        gpt2,
        clean[:1],
        corrupted[:1],
        METRIC,
        site="z",
        mode="noise",
        grad_drop=True,
        normalize=True,
        sample=0,
        progress=False,
    )
    gap = abs(share.provenance["clean"][0] - share.provenance["corrupted"][0])
    torch.testing.assert_close(share.values * gap, found.values[..., 0])


def test_both_remedies_together_and_neither_where_there_is_none(llama):
    both = rs.attribution_patching(
        llama, *PAIR, METRIC, site="q", qk_fix=True, grad_drop=True, sample=3, progress=False
    )
    assert (both.values >= 0).all()
    assert "4 gradients" in both.exact
    with pytest.raises(errors.BadSweep, match="queries and keys"):
        rs.attribution_patching(llama, *PAIR, METRIC, site="z", qk_fix=True, progress=False)
    with pytest.raises(errors.NoGradient):
        rs.attribution_patching(llama, *PAIR, Likeliest(), site="q", qk_fix=True, progress=False)
