"""Toys: our class gives TransformerLens' own numbers; its published checkpoints load, from a folder and from a hub."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import residscope as rs
from residscope.engine.certificate import measure
from residscope.engine.model import Model
from residscope.errors import DamagedModel, HashMismatch, Offline, UnknownConfig
from residscope.model import checkpoints, weights
from residscope.model.catalog import CATALOG
from residscope.model.toy_names import TOYS
from residscope.model.toys import ToyConfig, ToyForCausalLM

FIXTURE = Path(__file__).parent / "toys.safetensors"  # by recipes/toy_fixtures.py, in TransformerLens 3.2.1


def kept(name: str, part: str) -> dict[str, torch.Tensor]:
    with safe_open(FIXTURE, "pt") as file:
        keys = [key for key in list(file.keys()) if key.startswith(f"{name}:{part}:")]
        return {key.split(":")[2]: file.get_tensor(key) for key in keys}


with safe_open(FIXTURE, "pt") as opened:
    PUBLISHED = {name: json.loads(config) for name, config in sorted(opened.metadata().items())}
OLD = "NeelNanda/SoLU_1L_v9_old"
SHORT = "NeelNanda/Attn-Only-2L512W-Shortformer-6B-big-lr"
SOLU = "NeelNanda/SoLU_2L512W_C4_Code"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))


def write(folder: Path, name: str, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(PUBLISHED[name] | changes))
    torch.save(kept(name, "state"), folder / "model_final.pth")
    return folder


@pytest.fixture(params=PUBLISHED)
def name(request):
    return request.param


@pytest.fixture
def folder(tmp_path, name):
    return write(tmp_path / name.split("/")[1], name)


def test_a_published_checkpoint_gives_transformerlens_numbers(folder, name):
    model = rs.load(str(folder), dtype=torch.float64)
    seen, last = kept(name, "seen"), model.n_layers - 1
    run = model.run(seen.pop("tokens"), capture=["logits", f"pattern.{last}", f"z.{last}", f"resid_post.{last}"])
    assert {"logits", f"blocks.{last}.hook_resid_post", f"blocks.{last}.attn.hook_z"} <= seen.keys()
    torch.testing.assert_close(run.logits, seen.pop("logits"), rtol=0, atol=1e-12)
    for hook, value in seen.items():
        assert value.abs().max() > 0.1
        torch.testing.assert_close(run[hook], value, rtol=0, atol=1e-12)


def test_in_float32_too(folder, name):
    model = rs.load(str(folder))
    seen = kept(name, "seen")
    torch.testing.assert_close(model.run(seen["tokens"]).logits.double(), seen["logits"], rtol=1e-5, atol=2e-5)
    assert model.certificate.passed


@pytest.mark.parametrize(
    ("name", "changed"),
    [(SHORT, {"shortformer_pos": False}), (SOLU, {"act_fn": "solu"}), (OLD, {"final_rms": False}),
     ("NeelNanda/GELU_2L512W_C4_Code", {"act_fn": "gelu_new"})],
)  # fmt: skip
def test_each_switch_of_the_configuration_changes_the_numbers(tmp_path, name, changed):
    """The control: the reference would not be met by the wrong kind of toy."""
    path = write(tmp_path / name.split("/")[1], name)
    state = kept(name, "state")
    if name == SOLU:  # the norm of the neurons goes with the switch
        torch.save({k: v for k, v in state.items() if "mlp.ln" not in k}, path / "model_final.pth")
    (path / "config.json").write_text(json.dumps(PUBLISHED[name] | changed))
    seen = kept(name, "seen")
    logits = rs.load(str(path), dtype=torch.float64).run(seen["tokens"]).logits
    assert (logits - seen["logits"]).abs().max() > 1e-4


def test_attention_only_has_no_mlp_sites_and_says_why(tmp_path):
    model = rs.load(str(write(tmp_path / "a", "NeelNanda/Attn_Only_2L512W_C4_Code")))
    with pytest.raises(rs.errors.AbsentSite, match="attention only"):
        model.run([1, 2], capture=["mlp_out.0"])
    rec = model.run([1, 2, 3])
    torch.testing.assert_close(rec["resid_pre.0"] + rec["attn_out.0"], rec["resid_post.0"])
    cut = model.run([1, 2, 3], edits=[rs.edits.ablate("z.0", head=1)])
    assert not torch.allclose(cut.logits, rec.logits)


def test_shortformer_positions_are_read_but_never_in_the_stream(tmp_path):
    model = rs.load(str(write(tmp_path / "a", SHORT)), dtype=torch.float64)
    rec = model.run([3, 3, 3, 4], capture=["resid_pre.0", "v.0", "q.0", "attn_in.0"])
    assert torch.equal(rec["resid_pre.0"][0, 0], rec["resid_pre.0"][0, 2])
    assert torch.equal(rec["v.0"][0, 0], rec["v.0"][0, 2])
    assert not torch.allclose(rec["q.0"][0, 0], rec["q.0"][0, 2])
    with pytest.raises(rs.errors.AbsentSite, match="shortformer"):
        model.run([1, 2], capture=["pos_embed"])


# ── the class among transformers' own ───────────────────────────────────────────────────────────────────────────


@pytest.fixture(params=[{"shortformer": True}, {"attn_only": False, "hidden_act": "solu_ln"}], ids=["short", "solu"])
def toy(request):
    torch.manual_seed(0)
    sizes = {"vocab_size": 23, "hidden_size": 16, "num_attention_heads": 2, "head_dim": 6, "num_hidden_layers": 2}
    config = ToyConfig(
        **sizes, intermediate_size=24, max_position_embeddings=32, initializer_range=0.4, **request.param
    )
    return ToyForCausalLM(config).double().eval()


def test_cached_generation_and_padding_change_no_token(toy):
    ids = torch.randint(0, 23, (2, 5), generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    cached = toy.generate(ids, **options)
    assert cached.shape == (2, 13)
    assert torch.equal(cached, toy.generate(ids, use_cache=False, **options))
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(8) >= 3).long().expand(2, -1)
    assert torch.equal(toy.generate(padded, attention_mask=mask, **options)[:, 3:], cached)


@torch.no_grad()
def test_eager_and_sdpa_agree_and_logits_to_keep_are_the_last(toy):
    ids = torch.randint(0, 23, (2, 7), generator=torch.Generator().manual_seed(2))
    logits = toy(ids).logits
    torch.testing.assert_close(toy(ids, logits_to_keep=2).logits, logits[:, -2:])
    toy.set_attn_implementation("eager")
    torch.testing.assert_close(toy(ids).logits, logits)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(toy(ids, labels=ids).loss.double(), loss, rtol=1e-5, atol=1e-5)


def test_an_object_of_the_class_is_a_model_like_any_other(toy):
    assert measure(Model(toy)).passed


# ── the published format ────────────────────────────────────────────────────────────────────────────────────────


def test_the_conversion_is_made_once_and_kept(tmp_path, monkeypatch):
    path = write(tmp_path / "a", SHORT)
    first = weights.resolve(str(path))
    assert json.loads((first.path / "config.json").read_text())["shortformer"] is True
    monkeypatch.setattr(checkpoints, "_save", lambda *_: pytest.fail("made again"))
    assert weights.resolve(str(path)) == first
    assert not list(first.path.parent.glob(".residscope-*"))


def test_another_configuration_is_another_conversion(tmp_path):
    path = write(tmp_path / "a", SHORT)
    first = weights.resolve(str(path))
    (path / "config.json").write_text(json.dumps(PUBLISHED[SHORT] | {"shortformer_pos": False}))
    assert weights.resolve(str(path)).path != first.path


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/residscope-ran"),))


def test_code_in_a_pickle_is_never_run(tmp_path):
    path, ran = write(tmp_path / "a", SHORT), Path("/tmp/residscope-ran")
    torch.save({**kept(SHORT, "state"), "evil": Evil()}, path / "model_final.pth")
    with pytest.raises(DamagedModel, match=r"model_final\.pth is not a plain state dict"):
        weights.resolve(str(path))
    assert not ran.exists()


def spoil(state, how):
    if how == "lacks a matrix":
        del state["blocks.1.attn.W_K"]
    elif how == "no part of the model":
        state["blocks.0.attn.W_gate"] = state["blocks.0.attn.W_K"]
    elif how == "more than its configuration":
        state["blocks.0.mlp.W_in"] = torch.zeros(10, 14)
    else:
        state["embed.W_E"] = state["embed.W_E"][:5]
    return state


@pytest.mark.parametrize(
    "how", ["lacks a matrix", "no part of the model", "more than its configuration", "does not fit"]
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, how):
    path = write(tmp_path / "a", SHORT)
    torch.save(spoil(kept(SHORT, "state"), how), path / "model_final.pth")
    with pytest.raises(DamagedModel, match=how):
        weights.resolve(str(path))


def test_truncated_and_missing_checkpoints_are_refused(tmp_path):
    path = write(tmp_path / "a", SHORT)
    file = path / "model_final.pth"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DamagedModel, match="not a plain state dict"):
        weights.resolve(str(path))
    file.unlink()
    with pytest.raises(DamagedModel, match="no checkpoint"):
        weights.resolve(str(path))


@pytest.mark.parametrize("changed", [{"normalization": "RMS"}, {"architecture": "mingpt"}, {"d_head": None}])
def test_unknown_toys_are_refused(tmp_path, changed):
    with pytest.raises(UnknownConfig, match=f"{next(iter(changed))}"):
        weights.resolve(str(write(tmp_path / "a", SHORT, **changed)))


def test_what_the_first_solu_models_had_the_other_way_round():
    pos, square = torch.randn(8, 10), torch.randn(10, 14)
    state = {"pos_embed.W_pos": pos.T, "norm.w": pos[0], "blocks.0.mlp.W_in": square, "blocks.0.norm1.b": pos[0]}
    six, eight, ten = (checkpoints.straightened(state, n) for n in (6, 8, 10))
    assert six.keys() == {"pos_embed.W_pos", "ln_final.w", "blocks.0.mlp.W_in", "blocks.0.ln1.b"}
    assert torch.equal(six["pos_embed.W_pos"], pos)
    assert torch.equal(eight["pos_embed.W_pos"], pos)
    assert torch.equal(ten["pos_embed.W_pos"], pos.T)
    assert torch.equal(six["blocks.0.mlp.W_in"], square.T)
    assert torch.equal(eight["blocks.0.mlp.W_in"], square)


# ── the hub ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def toy_hub(hub, tiny_files, tmp_path):
    path = write(tmp_path / "published", SHORT, tokenizer_name="someone/words")
    hub.repositories[SHORT] = {file.name: file.read_bytes() for file in path.iterdir()}
    hub.repositories["someone/words"] = {k: v for k, v in tiny_files.items() if "token" in k}
    return hub


def test_a_toy_by_its_name_from_the_hub(toy_hub):
    assert not weights.cached("attn-only-2l-demo")
    model = rs.load("attn-only-2l-demo")
    seen = kept(SHORT, "seen")
    torch.testing.assert_close(model.run(seen["tokens"]).logits.double(), seen["logits"], rtol=1e-5, atol=2e-5)
    assert model.tokenizer("a b").input_ids == [0, 1]
    assert weights.cached("attn-only-2l-demo")
    assert weights.cached(SHORT)
    toy_hub.asked.clear()
    assert rs.load(SHORT).hash == model.hash
    assert not any("resolve" in request or "cdn" in request for request in toy_hub.asked)
    toy_hub.shutdown()
    toy_hub.server_close()
    assert rs.load("attn-only-2l-demo").hash == model.hash
    assert weights.remove("attn-only-2l-demo") > 0
    assert not list(checkpoints.folder_of(SHORT).parent.glob("NeelNanda--*-1"))
    assert not weights.cached("attn-only-2l-demo")


def test_toys_begin_with_bos(toy_hub, tiny_files):
    words = json.loads(tiny_files["tokenizer_config.json"]) | {"bos_token": "?", "eos_token": "?"}
    toy_hub.repositories["someone/words"]["tokenizer_config.json"] = json.dumps(words).encode()
    model = rs.load("attn-only-2l-demo")
    assert model.tokens("a b").tolist() == [[2, 0, 1]]
    assert model.tokens("a b", bos=False).tolist() == [[0, 1]]


def test_a_spoilt_checkpoint_is_thrown_away(toy_hub, tmp_path, monkeypatch):
    monkeypatch.setattr("loopback_hub.large", lambda path: path.endswith(".pth"))
    toy_hub.spoilt = True
    with pytest.raises(HashMismatch, match=r"model_final\.pth"):
        rs.load("attn-only-2l-demo")


def test_without_a_network_the_error_says_how_to_get_it(toy_hub):
    toy_hub.shutdown()
    toy_hub.server_close()
    with pytest.raises(Offline, match=r"folder with the files of https://huggingface.co/NeelNanda/Attn_Only_2L512W"):
        rs.load("attn-only-2l")


def test_every_toy_is_in_the_catalog():
    assert {f"attn-only-{n}l" for n in (1, 2, 3, 4)} | {f"gelu-{n}l" for n in (1, 2, 3, 4)} <= TOYS.keys()
    assert {f"solu-{n}l" for n in (1, 2, 3, 4, 6, 8, 10, 12)} <= TOYS.keys()
    assert set(PUBLISHED) <= {CATALOG[name].hub for name in TOYS}
