"""The map's numbers against plain torch hooks on the stock model: none of our engine's arithmetic is used for them."""

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope.errors import NotFound, ResidscopeError, UnknownLayer, UnknownPosition
from residscope.session import Session
from residscope.session.maps.reading import SMALL, small
from session import worlds

PAIR = {"positive": 41, "negative": 52}


def told(file: bytes) -> dict[str, Any]:
    size = int.from_bytes(file[:8], "little")
    return {name: json.loads(text) for name, text in json.loads(file[8 : 8 + size])["__metadata__"].items()}


def asked(
    session: Session, name: str = "map", *, which: str = "a", **args: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    run = session.snapshot()[1]["current"][which]
    file = session.query(name, {"run": run, **PAIR, **args})
    assert isinstance(file, bytes)
    return load(file), told(file)


def hooked(
    hf: Any, ids: list[int], at: int, pair: dict[str, int], ablated: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Direct effects of a Llama by hooks on its own modules: what each projection reads, over the last norm's divisor."""
    reads: dict[str, torch.Tensor] = {}
    hooks = []
    d_head = hf.config.hidden_size // hf.config.num_attention_heads

    def cut(module: Any, args: Any, layer: int) -> Any:
        x = args[0].clone()
        if ablated is not None and ablated[0] == layer:
            x[..., ablated[1] * d_head : (ablated[1] + 1) * d_head] = 0
        reads[f"z.{layer}"] = x[0, at]
        return (x, *args[1:])

    for i, block in enumerate(hf.model.layers):
        hooks.append(block.self_attn.o_proj.register_forward_pre_hook(lambda m, a, i=i: cut(m, a, i)))
        hooks.append(block.mlp.register_forward_hook(lambda m, a, out, i=i: reads.update({f"mlp.{i}": out[0, at]})))
        hooks.append(
            block.mlp.down_proj.register_forward_pre_hook(lambda m, a, i=i: reads.update({f"neuron.{i}": a[0][0, at]}))
        )
    hooks.append(hf.model.embed_tokens.register_forward_hook(lambda m, a, out: reads.update(embed=out[0, at])))
    hooks.append(hf.model.norm.register_forward_pre_hook(lambda m, a: reads.update(end=a[0][0, at])))
    with torch.no_grad():
        logits = hf(torch.tensor([ids])).logits[0, at]
    for hook in hooks:
        hook.remove()
    column = (hf.lm_head.weight[pair["positive"]] - hf.lm_head.weight[pair["negative"]]).detach()
    sigma = (reads["end"].square().mean() + hf.model.norm.variance_epsilon).sqrt()
    read = (hf.model.norm.weight.detach() * column / sigma).double().numpy()

    heads, neurons = [], []
    for i, block in enumerate(hf.model.layers):
        z = reads[f"z.{i}"].double().numpy().reshape(-1, d_head)
        w_o = block.self_attn.o_proj.weight.detach().double().numpy().reshape(hf.config.hidden_size, -1, d_head)
        heads.append(np.einsum("hk,mhk,m->h", z, w_o, read))
        w_out = block.mlp.down_proj.weight.detach().double().numpy()
        neurons.append(reads[f"neuron.{i}"].double().numpy() * (read @ w_out))
    mlp = [reads[f"mlp.{i}"].double().numpy() @ read for i in range(len(hf.model.layers))]
    metric = float(logits[pair["positive"]] - logits[pair["negative"]])
    embed = float(reads["embed"].double().numpy() @ read)
    return {"heads": np.array(heads), "mlp": np.array(mlp), "embed": embed, "neurons": neurons, "metric": metric}


@pytest.fixture
def one() -> Any:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "a small prompt"})
        assert session.wait(60)
        yield session


def ids_of(session: Session) -> list[int]:
    prompt = session.state.prompt
    assert prompt is not None
    return [*prompt.ids]


@pytest.mark.parametrize("pos", [-1, 4])
def test_effects_are_those_of_plain_hooks_and_sum_to_the_metric(one: Session, pos: int) -> None:
    ids = ids_of(one)
    want = hooked(worlds.model().hf, ids, pos % len(ids), PAIR)
    tensors, about = asked(one, pos=pos)
    np.testing.assert_allclose(tensors["heads"].numpy(), want["heads"], atol=2e-6)
    np.testing.assert_allclose(tensors["mlp"].numpy(), want["mlp"], atol=2e-6)
    assert about["terms"] == {"embed": pytest.approx(want["embed"], abs=2e-6)}
    assert about["metric"] == pytest.approx(want["metric"], abs=2e-6)
    assert about["pos"] == pos % len(ids)
    total = tensors["heads"].sum() + tensors["attn_bias"].sum() + tensors["mlp"].sum() + sum(about["terms"].values())
    assert float(total) == pytest.approx(want["metric"], abs=5e-6)


def test_the_run_s_edits_are_done_in_it(one: Session) -> None:
    before = asked(one)[0]["heads"]
    one.intent("add_edit", {"edit": {"kind": "ablate", "site": "z.0", "head": [1], "to": "zero"}})
    assert one.wait(60)
    want = hooked(worlds.model().hf, ids_of(one), len(ids_of(one)) - 1, PAIR, ablated=(0, 1))
    tensors, about = asked(one, which="b")
    assert float(tensors["heads"][0, 1]) == 0
    np.testing.assert_allclose(tensors["heads"].numpy(), want["heads"], atol=2e-6)
    assert about["metric"] == pytest.approx(want["metric"], abs=2e-6)
    assert not torch.equal(tensors["heads"][1], before[1])  # what reads the head has changed
    assert torch.equal(asked(one, which="a")[0]["heads"], before)


def eager(session: Session) -> Any:
    """The stock model's own attention probabilities."""
    hf = copy.deepcopy(worlds.model().hf)
    hf.set_attn_implementation("eager")
    with torch.no_grad():
        return hf(torch.tensor([ids_of(session)]), output_attentions=True).attentions


def test_patterns_are_the_stock_model_s_whole_and_made_small(one: Session) -> None:
    stock = eager(one)
    thumbs, looks = (asked(one)[0][name] for name in ("thumbs", "looks"))
    for layer, pattern in enumerate(stock):
        whole = asked(one, "map_layer", layer=layer)[0]["pattern"]
        np.testing.assert_allclose(whole.numpy(), pattern[0].numpy(), atol=1e-6)
        np.testing.assert_allclose(looks[layer].numpy(), pattern[0, :, -1].numpy(), atol=1e-5)
        np.testing.assert_allclose(thumbs[layer].numpy() / 255, pattern[0].numpy(), atol=1 / 255 + 1e-6)


@pytest.mark.parametrize("length", [1, 23, 24, 25, 60, 97])
def test_one_bright_cell_stays_bright_however_long_the_prompt(length: int) -> None:
    pattern = torch.zeros(2, length, length)
    query, key = length - 1, length // 3
    pattern[1, query, key] = 1.0
    thumb, block = small(pattern), math.ceil(length / SMALL)
    assert thumb.shape[-1] <= SMALL
    assert thumb[1].nonzero().tolist() == [[query // block, key // block]]
    assert int(thumb[1].max()) == 255
    assert int(thumb[0].max()) == 0


def test_a_layer_has_its_strongest_neurons_and_every_site_with_its_shape(one: Session) -> None:
    ids = ids_of(one)
    want = hooked(worlds.model().hf, ids, len(ids) - 1, PAIR)["neurons"][1]
    tensors, about = asked(one, "map_layer", layer=1)
    order = np.argsort(-np.abs(want))[: len(tensors["neuron"])]
    assert tensors["neuron"].tolist() == order.tolist()
    np.testing.assert_allclose(tensors["neuron_effect"].numpy(), want[order], atol=2e-6)
    rec = worlds.model().run([ids], ["z.1"])
    np.testing.assert_allclose(tensors["z_norm"].numpy(), rec["z.1"][0, -1].norm(dim=-1).numpy(), atol=1e-6)
    sites = {row["site"]: row for row in about["sites"]}
    assert [*sites["pattern.1"]["shape"].values()] == [*tensors["pattern"].shape]
    assert [*sites["k.1"]["shape"]] == ["pos", "kv_head", "d_head"]
    assert sites["resid_pre.1"]["norm"] > 0


def test_a_layer_that_is_opened_is_not_kept_with_the_run(one: Session) -> None:
    before = asked(one)[0]
    (mapped,) = one.maps._held._held.values()
    sites, size = mapped.recording.sites, mapped.bytes
    asked(one, "map_layer", layer=1)
    assert (mapped.recording.sites, mapped.bytes) == (sites, size)
    assert before.keys() == asked(one)[0].keys()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_terms_attention_and_mlps_sum_to_the_stock_model_s_logits(family: str) -> None:
    """Under an edit of the stream too, which is a term of its own."""
    model = worlds.model(family)
    with worlds.session(model) as session:
        session.intent("set_prompt", {"text": "a small prompt"})
        session.intent("add_edit", {"edit": {"kind": "scale", "site": "resid_post.1", "factor": 1.5}})
        assert session.wait(60)

        def stretched(module: Any, args: Any, out: Any) -> Any:
            return out * 1.5 if isinstance(out, torch.Tensor) else (out[0] * 1.5, *out[1:])

        blocks = model.hf.model.layers if family == "llama" else model.hf.transformer.h
        for which in ("a", "b"):
            hook = blocks[1].register_forward_hook(stretched) if which == "b" else None
            with torch.no_grad():
                logits = model.hf(torch.tensor([ids_of(session)])).logits[0, -1]
            if hook is not None:
                hook.remove()
            tensors, about = asked(session, which=which)
            total = float(tensors["attn"].sum() + tensors["mlp"].sum()) + sum(about["terms"].values())
            assert total == pytest.approx(float(logits[PAIR["positive"]] - logits[PAIR["negative"]]), abs=5e-6)
            assert any("edits of" in name for name in about["terms"]) == (which == "b")
            torch.testing.assert_close(
                tensors["heads"].sum(1) + tensors["attn_bias"], tensors["attn"], atol=1e-5, rtol=0
            )


def test_the_lens_of_every_row_is_that_of_one_cell(one: Session) -> None:
    run = one.snapshot()[1]["current"]["a"]
    rows = one.query("lens_rows", {"run": run})["top"]
    n, last = worlds.model().n_layers, len(ids_of(one)) - 1
    cells = [one.query("lens", {"run": run, "layer": layer, "pos": last})["top"][0] for layer in range(-1, n)]
    assert [row["id"] for row in rows] == [cell["id"] for cell in cells]
    assert [row["p"] for row in rows] == pytest.approx([cell["p"] for cell in cells], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "args", "error"),
    [
        ("map", {"run": "none"}, NotFound),
        ("map", {"pos": 99}, UnknownPosition),
        ("map", {"positive": 10**6}, ResidscopeError),
        ("map_layer", {"layer": 99}, UnknownLayer),
        ("map_layer", {"layer": -1}, UnknownLayer),
    ],
)
def test_what_is_not_there_is_refused(one: Session, name: str, args: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        asked(one, name, **({"layer": 0} if name == "map_layer" else {}) | args)


def test_patterns_of_a_long_prompt_are_read_in_parts(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked(one)[0]
    one.maps.clear()
    monkeypatch.setattr("residscope.session.maps.reading.GROUP_BYTES", 1)
    parts = asked(one)[0]
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(
            parts[name], tensor, atol=2, rtol=1e-5
        ) if name == "thumbs" else torch.testing.assert_close(parts[name], tensor)


def test_the_name_mover_of_the_default_model_is_where_plain_hooks_find_it() -> None:
    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    try:
        session.load(model.name)
        assert session.wait(120)
        session.intent("set_prompt", {"text": "When John and Mary went to the store, John gave a bottle of milk to"})
        assert session.wait(60)
        pair = {"positive": model.token_id(" Mary"), "negative": model.token_id(" John")}
        ids = ids_of(session)
        want = hooked(model.hf, ids, len(ids) - 1, pair)
        tensors, about = asked(session, **pair)
        np.testing.assert_allclose(tensors["heads"].numpy(), want["heads"], atol=2e-4)
        np.testing.assert_allclose(tensors["mlp"].numpy(), want["mlp"], atol=2e-4)
        assert about["metric"] == pytest.approx(want["metric"], abs=1e-4)
        assert int(tensors["heads"].argmax()) == int(want["heads"].argmax()) == 23 * 9 + 3
    finally:
        session.close()
