"""Layer swap: the metric of a stock model into which another's weights were written, layer by layer, and its sums."""

from copy import deepcopy

import pytest
import torch

import residscope as rs
from engine.families import FAMILIES
from methods.two import logits, pair
from residscope.errors import OtherModel, SweepCancelled
from residscope.model.adapters import SHIPPED
from tiny_models import tiny_llama

METRIC = rs.logit_diff(5, 7)
EXACT = 1e-7  # float64, but some stock families attend in float32
PROMPT = "When John and Mary went to the store, John gave a bottle of milk to"


def metric(hf, ids):
    last = logits(hf, ids).double()
    return (last[:, 5] - last[:, 7]).mean().item()


def written(base, other, modules):
    """A copy of a stock model with these modules' parameters written over by another's."""
    hf = deepcopy(base.hf)
    for mine, theirs in modules(hf, other.hf):
        mine.load_state_dict(theirs.state_dict())
    return hf


def blocks(model, hf):
    return list(hf.get_submodule(model.family.blocks).children())


BESIDE = "toy, shortformer"  # its layers read positions beside the stream


@pytest.fixture(params=[name for name in FAMILIES if name != BESIDE], scope="module")
def two(request):
    return pair(request.param)


@pytest.fixture(scope="module")
def found(two, ids):
    *_, whole = rs.layer_swap(*two, ids, METRIC)
    return whole


def test_a_layer_swapped_is_a_layer_s_weights_written_over(two, ids, found):
    for word, (here, there) in {"swapped": two, "restored": two[::-1]}.items():
        own = metric(here.hf, ids)
        for layer in range(here.n_layers):
            hf = written(here, there, lambda a, b, n=layer, of=here: [(blocks(of, a)[n], blocks(of, b)[n])])
            value = getattr(found, word).select(part="layer", layer=layer).values
            assert value == pytest.approx(metric(hf, ids) - own, abs=EXACT)


def test_attention_and_mlp_alone(two, ids, found):
    """Each with the norms that are its own: only where a block has them apart."""
    base, other = two
    parts = base.layout.blocks[0]
    if parts.mlp is None or "resid_mid" not in base.sites.names:
        pytest.skip("the two are not one after the other")
    path = {id(module): name for name, module in parts.block.named_modules()}

    def names(*given):
        return [path[id(getattr(part, "module", part))] for part in given if part is not None]

    attention = names(parts.attn, parts.attn_norm, parts.attn_post_norm)
    mlp = names(parts.mlp, parts.mlp_up, parts.mlp_gate, parts.mlp_down, parts.mlp_norm, parts.mlp_post_norm)
    own = metric(base.hf, ids)
    for part, modules in (("attention", attention), ("MLP", mlp)):
        hf = written(
            base, other,
            lambda a, b, modules=modules: [
                (blocks(base, a)[1].get_submodule(name), blocks(base, b)[1].get_submodule(name)) for name in modules
            ],
        )  # fmt: skip
        value = found.swapped.select(part=part, layer=1).values
        assert value == pytest.approx(metric(hf, ids) - own, abs=EXACT)


def test_the_graft_begins_and_ends_at_the_models_and_its_steps_sum_to_the_whole(two, ids, found):
    base, other = two
    ends = metric(base.hf, ids), metric(other.hf, ids)
    assert found.ends.values.tolist() == pytest.approx(list(ends), abs=EXACT)
    assert found.grafted.values[0].item() == pytest.approx(ends[0], abs=EXACT)
    n = base.n_layers
    last = other.run(ids, [f"resid_post.{n - 1}"])[f"resid_post.{n - 1}"]
    read = base.lens(last)[:, -1].double()
    assert found.grafted.values[-1].item() == pytest.approx((read[:, 5] - read[:, 7]).mean().item(), abs=EXACT)
    assert found.total == pytest.approx(ends[1] - ends[0], abs=EXACT)


def test_a_model_beside_itself_changes_nothing(two, ids):
    *_, whole = rs.layer_swap(two[0], two[0], ids, METRIC)
    assert whole.swapped.values.abs().max() < EXACT
    assert whole.total == 0
    assert abs(whole.interaction) < 1e-7


def test_fuller_and_fuller_and_stopped_between(two, ids):
    shapes = [(found.swapped is None, found.restored is None) for found in rs.layer_swap(*two, ids, METRIC)]
    assert shapes == [(True, True), (False, True), (False, False)]
    with pytest.raises(SweepCancelled):
        next(rs.layer_swap(*two, ids, METRIC, cancel=lambda: True))


def test_other_shapes_are_refused(two, ids):
    from residscope.engine.model import Model

    with pytest.raises(OtherModel, match="n_layers"):
        next(rs.layer_swap(Model(tiny_llama()), Model(tiny_llama(layers=3)), ids, METRIC))


def test_layers_that_read_positions_beside_the_stream_are_refused_where_these_differ(ids):
    base, other = pair(BESIDE)
    with pytest.raises(OtherModel, match="position"):
        next(rs.layer_swap(base, other, ids, METRIC))
    *_, whole = rs.layer_swap(base, base, ids, METRIC)
    assert whole.total == 0


def test_a_file_gives_it_back(found, tmp_path):
    found.save(tmp_path / "swap.safetensors")
    assert rs.Report.load(tmp_path / "swap.safetensors") == found
    found.view().to_dict()


def test_a_real_adapter_by_writing_its_layers(smollm2):
    """The stock model with the adapter's matrices added in one layer alone."""
    from safetensors.torch import load_file

    tuned = rs.load("smollm2-135m", adapter="repeated-name")
    answers = rs.logit_diff(" Mary", " John")
    *_, found = rs.layer_swap(smollm2, tuned, PROMPT, answers)
    tensors = load_file(SHIPPED / "repeated-name/adapter_model.safetensors")
    ids, layer = smollm2.tokens(PROMPT), int(found.swapped.select(part="layer").values.argmin())
    mary, john = smollm2.token_id(" Mary"), smollm2.token_id(" John")
    hf = deepcopy(smollm2.hf)

    def read():
        last = logits(hf, ids)[0]
        return (last[mary] - last[john]).item()

    before = read()
    with torch.no_grad():
        for name in ("q_proj", "v_proj", "o_proj"):
            key = f"model.layers.{layer}.self_attn.{name}"
            A, B = (tensors[f"base_model.model.{key}.lora_{side}.weight"].float() for side in "AB")
            hf.get_submodule(key).weight += 8 / 4 * B @ A
    value = found.swapped.select(part="layer", layer=layer).values.item()
    assert value == pytest.approx(read() - before, abs=2e-3)
    assert (layer, round(value, 2)) == (19, -0.84), "as docs/two-models.md has it"
    assert [round(x, 2) for x in found.ends.values.tolist()] == [4.26, -3.50]
    assert found.interaction == pytest.approx(0.3, abs=0.01)
    assert abs(found.swapped.select(part="MLP").values).max() == 0, "it changed no MLP"
