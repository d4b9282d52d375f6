"""Devices and dtypes: one model's numbers wherever its weights lie, and a clear refusal where there are none."""

import pytest
import torch
from accelerate import cpu_offload, init_empty_weights
from transformers import AutoModelForCausalLM, OlmoConfig

import residscope as rs
from residscope import directions, edits
from residscope.engine.certificate import measure
from residscope.engine.model import Model
from residscope.errors import ModelError, NoWeights
from residscope.model import tiny
from tiny_models import IOI, tiny_gpt2, tiny_llama

IDS = [[5, 9, 2, 7, 7, 3], [4, 8, 6]]
BUILDS = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "olmo": lambda: tiny.build(tiny.shrink(OlmoConfig())),
}  # the last is found
BLOCKS = {"llama": "model.layers", "gpt2": "transformer.h", "olmo": "model.layers"}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch, request):
    if "smollm2" not in request.fixturenames:
        monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))


def some_edits(model):
    d = torch.randn(model.d_model, generator=torch.Generator().manual_seed(3)).double()
    steer = edits.steer("resid_pre.1", d, 3.0, pos=1)
    return [
        steer,
        edits.ablate("z.2", head=1),
        edits.freeze("pattern.3"),
        edits.patch("mlp_out.2", [[1, 2, 3, 4, 5, 6]], pos=2),
    ]


def same_numbers(model, reference, **tolerance):
    """Every site, edited runs, windows, recomputed sites, lens and directions; the two may be on different devices."""

    def close(a, b):
        torch.testing.assert_close(a.cpu().double(), b.cpu().double(), **tolerance)

    run, expected = (m.run(IDS, m.sites.names, edits=some_edits(m)) for m in (model, reference))
    for site in expected.sites:
        close(run[site], expected[site])
    assert not torch.allclose(expected.logits, reference.run(IDS).logits)
    bases = [m.run(IDS) for m in (model, reference)]
    late, expected = (
        m.run(IDS, ["logits"], edits=[edits.ablate("z.2", pos=2)], window=rs.Window(base, start=2, pos=2))
        for m, base in zip((model, reference), bases, strict=True)
    )
    close(late.logits, expected.logits)
    for site in ("k.2", "mlp_post.1", "logits"):
        close(bases[0][site], bases[1][site])
    close(bases[0].stack("resid_post"), bases[1].stack("resid_post"))
    close(model.lens(bases[0]["resid_post.1"]), reference.lens(bases[1]["resid_post.1"]))
    close(directions.unembedding(model, 7).read, directions.unembedding(reference, 7).read)


@pytest.mark.parametrize("name", BUILDS)
def test_offloaded_weights_give_the_same_numbers(name):
    model = Model(cpu_offload(BUILDS[name](), execution_device=torch.device("cpu")))
    assert all(w.is_meta for w in model.hf.parameters())
    same_numbers(model, Model(BUILDS[name]()), rtol=1e-9, atol=1e-9)
    assert measure(model).passed
    run = model.run(IDS)
    assert not run.stale  # weights come and go with every forward: that is no change
    assert all(w.is_meta for w in model.hf.parameters())


@pytest.mark.parametrize("name", BUILDS)
def test_device_maps_give_the_same_numbers(name, tmp_path):
    BUILDS[name]().save_pretrained(tmp_path / "model")
    folder, parts = str(tmp_path / "model"), AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    reference = rs.load(folder, dtype=torch.float64)
    whole = rs.load(folder, dtype=torch.float64, device_map={"": "cpu"})
    same_numbers(whole, reference, rtol=1e-9, atol=1e-9)

    blocks = parts.get_submodule(BLOCKS[name])
    trunk = BLOCKS[name].split(".")[0]
    mapped = {f"{trunk}.{child}": "cpu" for child, _ in parts.get_submodule(trunk).named_children()} | {
        "lm_head": "cpu"
    }
    del mapped[BLOCKS[name]]
    mapped |= {f"{BLOCKS[name]}.{i}": "disk" if i % 2 else "cpu" for i in range(len(blocks))}
    spread = rs.load(folder, dtype=torch.float64, device_map=mapped)
    assert {w.device.type for w in spread.hf.parameters()} == {"cpu", "meta"}
    assert spread.hash == reference.hash
    assert spread.certificate.passed
    same_numbers(spread, reference, rtol=1e-9, atol=1e-9)
    rs.save_recording(spread.run(IDS), tmp_path / "run")
    torch.testing.assert_close(rs.load_recording(tmp_path / "run", reference).logits, reference.run(IDS).logits)


def test_a_model_without_weights_is_refused():
    built = tiny_llama()
    with init_empty_weights():
        hf = type(built)(built.config)
    for make in (lambda: rs.load((hf, None)), lambda: Model(hf)):
        with pytest.raises(NoWeights, match=r"not in memory.*meta device.*loaded"):
            make()


def test_a_weight_taken_away_is_refused_where_it_is_read():
    model = Model(tiny_llama())
    model.hf.lm_head.to("meta")
    assert model.run(IDS)["resid_post.3"].shape == (2, 6, 32)
    with pytest.raises(NoWeights, match="the weight of a Linear on the meta device"):
        _ = model.W_U


def test_device_map_places_what_is_loaded_by_name():
    for name, device in ((("model", None), None), ("smollm2-135m", "cpu")):
        with pytest.raises(ModelError, match="device or device_map, and a name"):
            rs.load(name, device=device, device_map="auto")


def test_half_precision_is_certified_and_says_the_same(smollm2):
    half = rs.load("smollm2-135m", dtype=torch.bfloat16)
    assert half.certificate.passed
    assert half.run(IOI, ["z.3"])["z.3"].dtype == torch.bfloat16
    texts = [{text for text, _, _ in m.run(IOI).top(3)} for m in (half, smollm2)]
    assert len(texts[0] & texts[1]) >= 2
    p, q = (m.run(IOI).logits[0, -1].float().softmax(-1) for m in (half, smollm2))
    assert 0 < float((p - q).abs().sum()) / 2 < 0.1  # total variation: near, and not the same run
    same = edits.scale("mlp_out.5", 0.5)
    assert float((half.run(IOI, edits=[same]).logits - half.run(IOI).logits).abs().max()) > 0


@needs_cuda
@pytest.mark.cuda
@pytest.mark.parametrize("name", BUILDS)
def test_cuda_gives_the_cpus_numbers(name):
    reference = Model(BUILDS[name]())
    model = rs.load((BUILDS[name]().cuda(), None))
    assert model.device.type == "cuda"
    assert model.certificate.passed
    same_numbers(model, reference, rtol=1e-8, atol=1e-8)


@needs_cuda
@pytest.mark.cuda
@pytest.mark.parametrize("name", BUILDS)
def test_blocks_on_the_card_and_the_rest_elsewhere(name, tmp_path):
    BUILDS[name]().save_pretrained(tmp_path / "model")
    folder = str(tmp_path / "model")
    reference = rs.load(folder, dtype=torch.float64)
    trunk = BLOCKS[name].split(".")[0]
    parts = dict(reference.hf.get_submodule(trunk).named_children())
    mapped = {f"{trunk}.{child}": 0 for child in parts} | {"lm_head": 0}
    del mapped[BLOCKS[name]]
    mapped |= {f"{BLOCKS[name]}.{i}": "cpu" if i == 2 else 0 for i in range(reference.n_layers)}
    spread = rs.load(folder, dtype=torch.float64, device_map=mapped)
    assert spread.certificate.passed
    same_numbers(spread, reference, rtol=1e-8, atol=1e-8)


@needs_cuda
@pytest.mark.cuda
def test_the_default_model_on_a_card(smollm2, tmp_path):
    model = rs.load("smollm2-135m", device="cuda")
    assert model.certificate.passed
    run, expected = model.run(IOI), smollm2.run(IOI)
    scale = expected.logits.abs().max()
    assert float((run.logits.cpu() - expected.logits).abs().max() / scale) < 1e-3
    assert [i for _, i, _ in run.top(5)] == [i for _, i, _ in expected.top(5)]
    rs.save_recording(run, tmp_path / "run")
    found = rs.load_recording(tmp_path / "run", smollm2)  # recorded on a card, read on the CPU
    torch.testing.assert_close(found["z.3"], expected["z.3"], rtol=1e-2, atol=1e-2)
    assert rs.load("smollm2-135m", device="cuda", dtype=torch.bfloat16).certificate.passed
