"""Models of which some layers have other heads than others: how many, how many of keys and values, how long their vectors."""

import pytest
import safetensors.torch
import torch

import residscope as rs
from residscope import edits
from residscope.engine.tried import found
from residscope.errors import RecordingError, UnknownHead
from residscope.model import tiny

CLEAN, OTHER = [5, 9, 3, 17, 8, 2], [5, 31, 3, 17, 40, 2]
DIFF = rs.logit_diff(5, 7)
# of each layer: heads, KV heads, d_head, as the configuration has them
HEADS = {
    "gemma4_unified_text": [(4, 2, 16), (4, 2, 32), (4, 2, 16), (4, 2, 32)],
    "mimo_v2_flash": [(4, 2, 8), (4, 4, 8), (4, 2, 8), (4, 4, 8)],
    "dots3_note_text": [(4, 4, 8), (4, 4, 8), (2, 2, 8), (2, 2, 8)],
}


@pytest.fixture(params=HEADS, scope="module")
def model(request):
    hf = tiny.build(tiny.variants(request.param)["default"], dtype=torch.float64)
    made, certificate = found(hf, request.param)
    assert certificate.passed
    return made


def without_head(model, layer: int, head: int) -> torch.Tensor:
    """The stock logits, the head's entries of what the output projection reads set to zero by a plain hook."""
    d = HEADS[model.name][layer][2]

    def before(_module, args):
        z = args[0].clone()
        z[..., head * d : (head + 1) * d] = 0
        return (z, *args[1:])

    handle = model.layout.blocks[layer].attn_proj.register_forward_pre_hook(before)
    try:
        with torch.no_grad():
            return model.hf(torch.tensor([CLEAN]), use_cache=False).logits[0]
    finally:
        handle.remove()


def test_every_layer_has_its_own_heads(model):
    wanted = HEADS[model.name]
    rec = model.run(CLEAN)
    for layer, (heads, kv, d) in enumerate(wanted):
        own = model.heads_at(layer)
        assert (own.n_heads, own.n_kv_heads, own.d_head) == (heads, kv, d)
        assert rec["z", layer].shape == (1, len(CLEAN), heads, d)
        assert rec["v", layer].shape == (1, len(CLEAN), kv, d)
        assert rec["pattern", layer].shape == (1, heads, len(CLEAN), len(CLEAN))
        assert rec["q", layer].shape[2:] == (heads, own.d_qk)
    assert model.n_heads == max(heads for heads, *_ in wanted)
    with pytest.raises(RecordingError, match="one layer's"):
        rec.stack("z" if len({(h, d) for h, _, d in wanted}) > 1 else "v")


def test_heads_are_edited_as_plain_hooks_edit_them(model):
    for layer, (heads, *_) in enumerate(HEADS[model.name]):
        run = model.run(CLEAN, ["logits"], edits=[edits.ablate(f"z.{layer}", head=heads - 1)])
        torch.testing.assert_close(run.logits[0], without_head(model, layer, heads - 1), atol=1e-6, rtol=1e-5)
        with pytest.raises(UnknownHead, match=f"{heads} heads"):
            model.run(CLEAN, edits=[edits.ablate(f"z.{layer}", head=heads)])


@pytest.mark.parametrize("model", ["dots3_note_text"], indirect=True)
def test_sweeps_have_the_heads_that_are_there(model):
    counts = torch.tensor([heads for heads, *_ in HEADS[model.name]])
    there = torch.arange(model.n_heads)[None] < counts[:, None]
    swept = rs.ablation_sweep(model, CLEAN, DIFF, site="z", relative=False)
    assert torch.equal(~swept.values.isnan(), there)
    for layer, head in ((0, 1), (model.n_layers - 1, int(counts[-1]) - 1)):
        logits = without_head(model, layer, head)[-1]
        assert float(swept.values[layer, head]) == pytest.approx(float(logits[5] - logits[7]), abs=1e-6)
    ways = rs.compare_ablations(model, CLEAN, DIFF, site="z", over=[OTHER], draws=1)
    assert torch.equal(~ways.disagree.values.isnan(), there)
    assert not ways.agreement.values.isnan().any()
    same = rs.activation_patching(model, CLEAN, CLEAN, DIFF, site="z", normalize=False)
    own = float(DIFF(model.run(CLEAN)))
    assert torch.allclose(same.values[there], torch.full((), own, dtype=same.values.dtype), atol=1e-6)
    estimated = rs.attribution_patching(model, CLEAN, OTHER, DIFF, site="z", normalize=False, sample=4)
    assert torch.equal(~estimated.values.isnan(), there)
    gradient = rs.gradient_attribution(model, CLEAN, DIFF, of="heads", sample=4)
    assert torch.equal(~gradient.attribution.values.isnan(), there)


@pytest.mark.parametrize("model", ["dots3_note_text"], indirect=True)
def test_paths_start_at_the_heads_that_are_there(model):
    paths = rs.path_patching(model, CLEAN, OTHER, DIFF, normalize=False)
    first = len(HEADS[model.name]) - 1
    heads = HEADS[model.name][first][0]
    assert not paths.values[first, :heads].isnan().any()
    assert paths.values[first, heads:].isnan().all()


def test_heads_and_biases_sum_to_what_attention_adds(model):
    told = rs.attribute_logits(model.run(CLEAN), DIFF, by="head")
    names = told.components.coords["component"]
    attn = torch.stack([told.components.values[names.index(f"attn_out.{i}")] for i in range(model.n_layers)])
    whole = told.heads.values.double().sum(1) + told.attn_bias.values.double()
    torch.testing.assert_close(whole, attn.double(), atol=1e-5, rtol=1e-4)


def test_head_tables_leave_out_what_a_layer_lacks(model):
    counts = [heads for heads, *_ in HEADS[model.name]]
    tables = [
        rs.head_scores(
            model, prompts=[[*range(5, 17), *range(5, 17)]], kinds=("previous-token", "induction")
        ).scores.values[0],
        rs.copying_scores(model).values,
        rs.compare_models(model, model, CLEAN).patterns.values,
        rs.weight_difference(model, model).heads.values[-1],
    ]
    for table in tables:
        for layer, n in enumerate(counts):
            assert not table[layer, :n].isnan().any()
            assert table[layer, n:].isnan().all()


def test_descriptions_are_kept_with_their_heads(model):
    from residscope.engine.look.kept import read, written

    assert read(written(model.family)) == model.family


def test_model_facts_tell_them_apart(model):
    facts = dict(zip(*(getattr(rs.model_facts(model), name) for name in ("names", "values")), strict=True))
    told = facts["heads by layer"]
    for heads, kv, d in {*HEADS[model.name]}:
        assert f"{heads} heads ({kv} KV) of {d}" in told


@pytest.mark.parametrize("model", ["dots3_note_text"], indirect=True)
def test_the_map_of_the_page_has_every_layers_own(model):
    from residscope.session.maps.layer import layer_file
    from residscope.session.maps.reading import read

    run = model.run(CLEAN)
    mapped = read(run, len(CLEAN) - 1)
    for layer, (heads, *_) in enumerate(HEADS[model.name]):
        assert not mapped.looks[layer, heads:].any()
        sums = mapped.looks[layer, :heads].sum(-1)
        assert bool(((sums > 0) & (sums < 1 + 1e-5)).all())
        file = safetensors.torch.load(bytes(layer_file(run, layer, len(CLEAN) - 1)))
        assert file["z_norm"].shape == (heads,)
