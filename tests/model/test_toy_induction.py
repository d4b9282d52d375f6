"""The shipped toy: what it learnt is found where it is, by every method that looks for it, and in an untrained twin by none."""

import copy

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.model import catalog, toys, weights

HOW = {"n": 4, "length": 14, "draws": 4, "progress": False}


@pytest.fixture(scope="module")
def toy():
    return rs.load("toy-induction")


@pytest.fixture(scope="module")
def untrained(toy):
    torch.manual_seed(0)
    return Model(toys.ToyForCausalLM(toy.hf.config).eval(), toy.tokenizer, name="untrained", bos=True)


@pytest.fixture(scope="module")
def scores(toy):
    return rs.head_scores(toy, n=6, length=30, draws=5, progress=False)


def test_it_is_small_part_of_the_package_and_passes_its_certificate(toy):
    folder = catalog.model_folder(catalog.CATALOG["toy-induction"])
    assert catalog.bytes_in(folder) < 3_000_000
    assert folder.is_relative_to(catalog.SHIPPED)
    assert toy.certificate.passed
    assert (toy.n_layers, toy.n_heads, toy.bos) == (2, 8, True)
    assert "mlp_out" in toy.sites.absent
    assert weights.cached("toy-induction")
    with pytest.raises(errors.ModelNotFound, match="part of Residscope"):
        weights.remove("toy-induction")
    assert folder.is_dir()


def right(model, n=8, length=20):
    """The share of next tokens that are guessed, in the first and in the second half of repeated random tokens."""
    data = rs.repeated_tokens(model, n=n, length=length, seed=3)
    logits = model.run(data, capture=["logits"]).logits
    ids = torch.tensor(data.prompts)
    hits = (logits[:, :-1].argmax(-1) == ids[:, 1:]).double()
    return float(hits[:, :length].mean()), float(hits[:, length:].mean())


def test_it_repeats_what_it_has_seen_once_and_untrained_it_does_not(toy, untrained):
    first, second = right(toy)
    assert first < 0.1
    assert second > 0.8
    assert max(right(untrained)) < 0.05


def test_its_heads_are_found_above_their_shuffled_controls(scores, untrained):
    previous, induction = scores.found["previous-token"], scores.found["induction"]
    assert {layer for layer, _ in previous} == {0}
    assert {layer for layer, _ in induction} == {1}
    assert len(induction) == 8
    for name, heads in (("previous-token", previous[:3]), ("induction", induction[:5])):
        for layer, head in heads:
            value, control = (float(x.select(score=name).values[layer, head]) for x in (scores.scores, scores.control))
            assert value > max(0.2, 3 * control), (name, layer, head)
    none = rs.head_scores(untrained, n=6, length=30, draws=5, progress=False)
    for name in ("previous-token", "induction"):
        assert float(none.select(score=name).values.max()) < 0.1


def test_the_mechanism_is_k_composition_with_the_previous_token_heads(toy, scores):
    at = scores.found["induction"][0]
    found = rs.induction_mechanism(toy, *at, **HOW)
    assert found.verdict == "K-composition"
    assert found.moved["keys"] > 0.9
    assert found.moved["queries"] < 0.1
    assert {*found.members["previous-token"]} >= {*scores.found["previous-token"][:2]}
    assert not found.members["duplicate-token"]
    assert float(found.groups.values[0, 0]) > float(found.control.high[0, 0]) + 0.1
    strongest = divmod(int(found.lost.select(side="keys").values.argmax()), toy.n_heads)
    assert strongest in found.members["previous-token"]


def test_without_its_previous_token_heads_there_is_no_induction_head(toy, scores):
    hf = copy.deepcopy(toy.hf)
    with torch.no_grad():
        for _, head in scores.found["previous-token"]:
            hf.model.layers[0].self_attn.o_proj.weight[:, head * toy.d_head : (head + 1) * toy.d_head] = 0
    cut = Model(hf, toy.tokenizer, name="cut", bos=True)
    assert rs.induction_mechanism(cut, *scores.found["induction"][0], **HOW).verdict == "no induction head"
    assert right(cut)[1] < 0.3


def test_composition_finds_the_pair_by_the_weights_alone(toy, scores, untrained):
    found = rs.composition(toy, ["result.0"], ["k.1"], random=20, progress=False)
    over = found.score.values - found.random_high.values
    writers = {head for _, head in scores.found["previous-token"][:4]}
    others = {*range(toy.n_heads)} - {head for _, head in scores.found["previous-token"]}
    assert {writer.rpartition(" ")[2] for writer, *_ in found.top(5)} <= {*map(str, writers)}
    assert float(over[[*writers]].min()) > 0
    assert float(over[[*writers]].mean()) > float(over[[*others]].mean()) + 0.02
    none = rs.composition(untrained, ["result.0"], ["k.1"], random=20, progress=False)
    assert float((none.score.values > none.random_high.values).double().mean()) < 0.25
