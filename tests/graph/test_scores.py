"""A score's terms: they sum to what eager attention has, and each is what the stock modules make of its two writes."""

import pytest
import torch
from families import FAMILIES
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.graph.scores.writes import writes

from .test_exact import TEXT, encoders

LAST = len(TEXT) - 1


def load(name):
    return Model(FAMILIES[name].build().float(), name=name)


@pytest.fixture(scope="module")
def llama():
    return load("llama")


@pytest.mark.parametrize(
    "name",
    ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen3", "phi", "olmo2", "bloom", "opt", "mpt", "gptj",
     "cohere, normed heads", "gpt_oss", "gpt_bigcode", "stablelm, normed heads", "smollm3"],
)  # fmt: skip
def test_terms_sum_to_the_difference_of_eager_log_attention(name):
    """log pattern[q, k] - log pattern[q, k'] is the difference of two scores: of the stock model's own eager attention."""
    model = load(name)
    implementation = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            patterns = model.hf(torch.tensor([TEXT]), output_attentions=True).attentions
    finally:
        model.hf.set_attn_implementation(implementation)
    layer = model.n_layers - 1
    record = model.run(TEXT)
    keys = [LAST, LAST - 1]  # near enough for every window
    for head in (0, model.n_heads - 1):
        found = [rs.attribute_scores(record, (layer, head), -1, key) for key in keys]
        wholes = [float(one.terms.values.sum()) for one in found]
        cap = model.layout.factors.scores_cap
        if cap is not None:
            wholes = [float(cap * torch.tanh(torch.tensor(whole / cap))) for whole in wholes]
            assert [one.capped for one in found] == pytest.approx(wholes, abs=1e-4)
        wholes = [whole + one.slope for whole, one in zip(wholes, found, strict=True)]
        log = patterns[layer][0, head, LAST].double().log()
        assert wholes[0] - wholes[1] == pytest.approx(float(log[keys[0]] - log[keys[1]]), abs=1e-4)


@pytest.mark.parametrize("name", ["toy, shortformer", "falcon, slopes"])
def test_terms_sum_to_the_score_where_the_stock_model_shows_none(name):
    model = load(name)
    record = model.run(TEXT)
    found = rs.attribute_scores(record, (2, 1), -1, 3)
    score = float(record["scores.2"][0, 1, LAST, 3])
    assert float(found.terms.values.sum()) + found.slope == pytest.approx(score, abs=1e-4)
    assert (found.slope != 0) == (name == "falcon, slopes")


@pytest.mark.parametrize("name", ["gemma2", "qwen3"])
def test_in_half_precision_too(name):
    model = Model(FAMILIES[name].build().bfloat16(), name=name)
    found = rs.score_attribution(model, TEXT, 2, 1, -1, 4)
    wide = rs.score_attribution(load(name), TEXT, 2, 1, -1, 4)
    assert found.error < 0.05
    assert found.score == pytest.approx(wide.score, abs=0.2)


@pytest.mark.parametrize("by", ["head", "component"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "granite", "olmo2", "gpt_neox"])
def test_what_was_written_sums_to_the_stream(name, by):
    model = load(name)
    record = model.run(TEXT)
    for layer in range(3):
        parts = writes(record, layer, LAST, by=by, dictionary=None)
        torch.testing.assert_close(sum(parts.values()), record["resid_pre", layer][0, LAST], atol=1e-4, rtol=1e-4)


def test_each_term_is_what_the_stock_modules_make_of_its_two_writes(llama):
    layer, head, query, key = 2, 3, 5, 2
    record = llama.run(TEXT)
    found = rs.attribute_scores(record, (layer, head), query, key)
    block, hf = llama.hf.model.layers[layer], llama.hf.model
    run = llama.run(TEXT, ["resid_pre.2", "embed", "mlp_out.0", "result.1"])
    with torch.no_grad():
        sigma = (run["resid_pre.2"].pow(2).mean(-1) + llama.hf.config.rms_norm_eps).sqrt()[0]
        cos, sin = hf.rotary_emb(run["embed"], torch.arange(len(TEXT))[None])

        def made(write, pos, projection, heads):
            x = write / sigma[pos] * block.input_layernorm.weight
            flat = (projection.weight @ x).view(1, heads, 1, -1)
            return apply_rotary_pos_emb(flat, flat, cos[:, pos : pos + 1], sin[:, pos : pos + 1])[0][0, :, 0]

        own = {
            "embed": run["embed"], "0.mlp": run["mlp_out.0"], "1.h2": run["result.1"][:, :, 2],
            "1.h0": run["result.1"][:, :, 0],
        }  # fmt: skip
        for a in own:
            for b in own:
                q = made(own[a][0, query], query, block.self_attn.q_proj, 4)[head]
                k = made(own[b][0, key], key, block.self_attn.k_proj, 2)[head // 2]
                got = float(found.terms.select(query=a, key=b).values)
                assert got == pytest.approx(float(q @ k) / 8**0.5, abs=1e-5)
    assert float(found.terms.select(query="bias").values.abs().max()) < 1e-5  # Llama's projections have none
    assert found.score == pytest.approx(float(record["scores.2"][0, head, query, key]), abs=1e-5)


def test_features_of_the_stream_are_rows_and_columns_too(llama):
    sae = encoders(llama, ["resid_post.1"], activation="topk")[0]
    record = llama.run(TEXT)
    found = rs.attribute_scores(record, (2, 1), -1, 3, dictionary=sae)
    x = record["resid_pre.2"][0]
    active = sae.encode(x)[LAST].nonzero()[:, 0].tolist()
    assert list(found.terms.coords["query"]) == [*(f"sae/{i}" for i in active), "mean", "error", "bias"]
    assert float(found.terms.values.sum()) == pytest.approx(float(record["scores.2"][0, 1, LAST, 3]), abs=1e-4)
    i = active[0]
    off = rs.edits.patch("resid_pre.2", {"resid_pre.2": (x - sae.encode(x)[LAST, i] * sae.write[i])[None]}, pos=LAST)
    held = rs.edits.freeze("attn_scale.2")
    cut = llama.run(TEXT, ["scores.2"], edits=[off, held])["scores.2"][0, 1, LAST, 3]
    row = found.terms.select(
        query=f"sae/{i}"
    ).values.sum()  # taken out under held norms, a feature takes its row with it
    assert float(record["scores.2"][0, 1, LAST, 3] - cut) == pytest.approx(float(row), abs=1e-4)


def test_the_method_the_report_and_its_picture(llama, tmp_path):
    found = rs.score_attribution(llama, TEXT, 2, 1, query=-1, key=2, background=[rs.edits.scale("mlp_out.0", 0.5)])
    plain = rs.score_attribution(llama, TEXT, 2, 1, query=-1, key=2)
    assert found.score != pytest.approx(plain.score, abs=1e-4)
    assert found.error < 1e-4
    a, b, value = found.top(3)[0]
    assert abs(value) == pytest.approx(float(found.terms.values.abs().max()))
    assert float(found.terms.select(query=a, key=b).values) == pytest.approx(value)
    view = found.view()
    assert [part.kind for part in view.views] == ["heat_map", "table"]
    assert "score is" in view.views[0].note
    found.save(tmp_path / "score.safetensors")
    assert rs.load_item(tmp_path / "score.safetensors") == found
    one = rs.score_attribution(llama, TEXT, 0, 0)
    assert set(one.terms.coords["query"]) == {"embed", "bias"}


def test_edits_of_the_stream_are_a_write_and_those_inside_attention_are_refused(llama):
    steered = rs.edits.steer("resid_pre.1", torch.ones(32), 2.0)
    found = rs.attribute_scores(llama.run(TEXT, edits=[steered]), (2, 0), -1, 2)
    assert "edits" in found.terms.coords["query"]
    with pytest.raises(errors.NotAdditive, match="do not sum"):
        rs.attribute_scores(llama.run(TEXT, edits=[rs.edits.scale("q.2", 3.0)]), (2, 0), -1, 2)


def test_errors_are_told(llama):
    record = llama.run(TEXT)
    with pytest.raises(errors.GraphError, match="does not see"):
        rs.attribute_scores(record, (1, 0), 2, 3)
    with pytest.raises(errors.UnknownLayer, match="0 to 2"):
        rs.attribute_scores(record, (7, 0), 3, 2)
    with pytest.raises(errors.UnknownHead, match="0 to 3"):
        rs.score_attribution(llama, TEXT, 1, 9)
    with pytest.raises(errors.UnknownPosition):
        rs.attribute_scores(record, (1, 0), 90, 2)
    with pytest.raises(errors.BadArguments, match="head, component"):
        rs.attribute_scores(record, (1, 0), 3, 2, by="feature")
    with pytest.raises(errors.GraphError, match="of one prompt"):
        rs.attribute_scores(llama.run([TEXT, TEXT]), (1, 0), 3, 2)
    sae = encoders(llama, ["resid_post.0"])[0]
    with pytest.raises(errors.GraphError, match="of the stream that its block reads"):
        rs.attribute_scores(record, (2, 0), 3, 2, dictionary=sae)
    mistral = load("mistral")
    with pytest.raises(errors.GraphError, match="within its window"):
        rs.attribute_scores(mistral.run(TEXT), (1, 0), 6, 0)


def test_on_the_default_model(smollm2):
    record = smollm2.run("When John and Mary went to the store, John gave a bottle of milk to")
    found = rs.attribute_scores(record, (20, 4), -1, 3)
    assert found.error < 1e-3 * max(1.0, abs(found.score))
    assert len(found.terms.coords["query"]) == 1 + 20 * 9 + 20 + 1 + 1
