"""What a map keeps, and that its numbers are those of the whole run all the same; and that reading one can be stopped."""

import threading
from typing import Any

import pytest
import torch
from safetensors.torch import load

import residscope as rs
from residscope import edits
from residscope.errors import Cancelled
from residscope.session import Session
from residscope.session.maps import reading
from session import worlds
from session.test_map import PAIR, asked, told

LONG = "the quick brown fox jumps over the lazy dog again"
STACKS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "a head, everywhere": [{"kind": "ablate", "site": "z.0", "head": [1], "to": "zero"}],
    "the stream, early": [{"kind": "scale", "site": "resid_pre.1", "pos": [2], "factor": 1.5}],
    "frozen patterns": [
        {"kind": "freeze", "site": "pattern.2"},
        {"kind": "scale", "site": "resid_post.0", "factor": 2.0},
    ],
    "keys alone": [{"kind": "ablate", "site": "k.1", "kv_head": [0], "pos": [3], "to": "zero"}],
    "the last position": [{"kind": "scale", "site": "mlp_out.3", "pos": [-1], "factor": -1.0}],
}
MADE: dict[str, list[Any]] = {
    "none": [],
    "a head, everywhere": [edits.ablate("z.0", head=1)],
    "the stream, early": [edits.scale("resid_pre.1", 1.5, pos=2)],
    "frozen patterns": [edits.freeze("pattern.2"), edits.scale("resid_post.0", 2.0)],
    "keys alone": [edits.ablate("k.1", kv_head=0, pos=3)],
    "the last position": [edits.scale("mlp_out.3", -1.0, pos=-1)],
}


@pytest.fixture
def one() -> Any:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": LONG})
        assert session.wait(60)
        yield session


def kept(session: Session) -> Any:
    (mapped,) = session.maps._held._held.values()
    return mapped


@pytest.mark.parametrize("group", [1, 1 << 28], ids=["a layer at a time", "all at once"])
@pytest.mark.parametrize("stack", STACKS)
def test_the_numbers_are_those_of_the_whole_run(
    one: Session, stack: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "GROUP_BYTES", group)
    one.intent("set_edits", {"edits": STACKS[stack]})
    assert one.wait(60)
    prompt = one.state.prompt
    assert prompt is not None
    whole = worlds.model().run([[*prompt.ids]], edits=MADE[stack])
    metric = rs.logit_diff(PAIR["positive"], PAIR["negative"])
    want = rs.attribute_logits(whole, metric, by="head")
    assert want.heads is not None
    tensors, about = asked(one, which="b" if STACKS[stack] else "a")
    torch.testing.assert_close(
        tensors["heads"], torch.as_tensor(want.heads.values).float().squeeze(), atol=2e-6, rtol=2e-6
    )
    assert about["metric"] == pytest.approx(float(metric(whole)), abs=2e-6)
    layer, _ = asked(one, "map_layer", layer=2, which="b" if STACKS[stack] else "a")
    torch.testing.assert_close(layer["pattern"], whole["pattern.2"][0].float(), atol=2e-6, rtol=2e-6)


def test_of_a_longer_prompt_no_more_is_kept(one: Session) -> None:
    sizes = []
    for text in (LONG[:12], LONG):
        one.maps.clear()
        one.intent("set_prompt", {"text": text})
        assert one.wait(60)
        asked(one)
        sizes.append(kept(one).recording.nbytes)
        assert {x.shape[1] for x in kept(one).recording.held.values()} == {1}
    assert sizes[0] == sizes[1]
    model = worlds.model()
    most = (5 * model.n_layers + 3) * model.d_model * 8
    assert sizes[1] <= most, "one position of what is read: stream, z, attention, MLP"
    thumbs = kept(one).thumbs
    assert kept(one).bytes == sizes[1] + thumbs.numel()


def test_the_stream_is_the_session_s_own_and_not_copied(one: Session) -> None:
    asked(one)
    held = one._held(one.snapshot()[1]["current"]["a"])[0]
    run = one.snapshot()[1]["current"]["a"]
    whole, model = one.maps._run(run)
    assert whole.held[next(iter(whole.held))].untyped_storage().data_ptr() == held.rows.untyped_storage().data_ptr()
    assert len(whole.held) == model.n_layers


def test_neurons_are_read_at_the_position_that_is_asked_for_and_left_out_where_not_wanted(one: Session) -> None:
    run = one.snapshot()[1]["current"]["a"]
    args = {"run": run, **PAIR, "layer": 1, "pos": 5}
    tensors = load(one.query("map_layer", args))
    prompt = one.state.prompt
    assert prompt is not None
    whole = worlds.model().run([[*prompt.ids]], ["mlp_post.1"])
    found = rs.attribute_logits(whole, rs.logit_diff(PAIR["positive"], PAIR["negative"], pos=5), by="neuron")
    assert found.neurons is not None
    want = torch.as_tensor(found.neurons.values)[..., 1, :].flatten()
    assert tensors["neuron"].tolist() == want.abs().topk(len(tensors["neuron"])).indices.tolist()
    bare = one.query("map_layer", args | {"neurons": False})
    assert "neuron" not in load(bare)
    assert told(bare)["pos"] == 5


def test_reading_a_map_can_be_stopped_and_begun_again(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "GROUP_BYTES", 1)
    entered, leave, small = threading.Event(), threading.Event(), reading.small

    def waits(pattern: Any) -> Any:
        entered.set()
        assert leave.wait(30)
        return small(pattern)

    monkeypatch.setattr(reading, "small", waits)
    refused: list[Exception] = []

    def ask() -> None:
        try:
            asked(one)
        except Cancelled as error:
            refused.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert entered.wait(30)
    assert one.query("map_stop", {}) == {"stopped": 1}
    leave.set()
    asking.join(30)
    assert [type(error) for error in refused] == [Cancelled]
    assert not one.maps._held._held
    assert asked(one)[0]["heads"].isfinite().all()
    assert one.query("map_stop", {}) == {"stopped": 0}


def test_a_run_that_is_shown_no_more_makes_way(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "GROUP_BYTES", 1)
    entered, leave, small = threading.Event(), threading.Event(), reading.small
    seen: list[int] = []

    def waits(pattern: Any) -> Any:
        seen.append(pattern.shape[-1])
        entered.set()
        assert leave.wait(30)
        return small(pattern)

    monkeypatch.setattr(reading, "small", waits)
    refused: list[Exception] = []

    def ask() -> None:
        try:
            asked(one)
        except Cancelled as error:
            refused.append(error)

    first, second = threading.Thread(target=ask), threading.Thread(target=ask)
    first.start()
    assert entered.wait(30)
    one.intent("set_prompt", {"text": "another"})
    assert one.wait(60)
    second.start()
    while one.maps._reading < 2:
        pass
    leave.set()
    first.join(30)
    second.join(30)
    assert [type(error) for error in refused] == [Cancelled]
    assert seen == [len(LONG)] + [len("another")] * worlds.model().n_layers


def test_a_long_prompt_s_patterns_are_not_sent_in_full_but_where_heads_look_is(
    one: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, about = asked(one, "map_layer", layer=1)
    monkeypatch.setattr("residscope.session.maps.layer.MOST_WHOLE", 10)
    bare, still = asked(one, "map_layer", layer=1)
    assert "pattern" not in bare
    assert still["sites"] == about["sites"]
    (looks,) = [row for row in about["sites"] if row["site"] == "pattern.1"]
    weight, key = whole["pattern"][:, -1].max(-1)
    assert looks["where"] == key.tolist()
    assert looks["values"] == pytest.approx(weight.tolist(), abs=1e-6)


def test_a_changed_model_is_read_anew(one: Session) -> None:
    model = worlds.model()
    before = asked(one)[0]["heads"]
    weight = model.hf.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        weight.mul_(1.5)
    try:
        assert not torch.allclose(asked(one)[0]["heads"], before)
    finally:
        with torch.no_grad():
            weight.div_(1.5)
