"""The two by two of prompts against plain runs, what is planted into the output of a head, and what is refused."""

import pytest
import torch
from families import FAMILIES
from labelled import labelled, named

import residscope as rs
from residscope import edits, errors
from residscope.engine.model import Model
from residscope.methods.heads.signal_split import ALL, SIGNS, TURNED, turned

OWN, MOVERS = [(1, 0), (1, 2)], [(2, 1)]


def test_the_prompts_are_those_of_the_paper():
    """A B ... B: names in the other order, the other name repeated, both; and other names in either order."""
    data = rs.PromptSet(
        ((9, 1, 2, 8, 2, 7),), answers=((1, 2),), positions={"IO": (1,), "S1": (2,), "S2": (4,), "END": (5,)}
    )
    made = [turned(data, [(5, 6)], *pair).prompts[0] for pair in ALL]
    assert made == [
        (9, 1, 2, 8, 2, 7), (9, 2, 1, 8, 2, 7), (9, 2, 1, 8, 1, 7), (9, 1, 2, 8, 1, 7), (9, 5, 6, 8, 6, 7), (9, 6, 5, 8, 6, 7),
    ]  # fmt: skip


def test_turned_prompts_are_ioi_s_own_partners(smollm2):
    for partner, pair in (("order", ("S", "other place")), ("S2", ("IO", "other place"))):
        data = rs.tasks.ioi(smollm2, 4, prefixes=False, partner=partner, progress=False)
        assert turned(data, [(5, 6)] * 4, *pair).prompts == data.corrupted


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_each_cell_is_a_plain_run(family):
    model = Model(FAMILIES[family].build().double(), name=family)
    data = named(4, ragged=False)
    found = rs.signal_split(model, data, heads=OWN, movers=MOVERS, draws=2)
    m, told = rs.logit_diff(), {}
    plain = m(model.run(data, ["logits"]))
    for pair in TURNED:
        z = model.run(turned(data, [(5, 6)] * 4, *pair), ["z.1"])["z.1"]
        run = model.run(data, ["logits", "pattern.2"], edits=edits.patch("z.1", {"z.1": z}, head=[0, 2], pos=-1))
        told[pair] = m(run)
        cell = {"token": pair[0], "place": pair[1]}
        assert float(found.logit_diff.select(**cell).values) == pytest.approx(float(told[pair].mean()), abs=1e-4)
        pattern = run["pattern.2"][:, 1, -1]
        gap = (pattern[:, 1] - pattern[:, 2]).mean()
        assert float(found.gap.select(**cell).values) == pytest.approx(float(gap), abs=1e-5)
    assert float(told["S", "S1"].mean()) == pytest.approx(float(plain.mean()), abs=1e-6)  # from itself nothing changes
    four = [float(told[pair].mean()) for pair in TURNED]
    position = (four[0] - four[1] + four[2] - four[3]) / 4
    token = (four[0] + four[1] - four[2] - four[3]) / 4
    both = (four[0] - four[1] - four[2] + four[3]) / 4
    assert found.split.values.tolist() == pytest.approx([position, token, both], abs=1e-4)
    assert four[0] == pytest.approx(sum(four) / 4 + position + token + both)
    assert found.view().title == "Token or position"


def test_the_effects_are_orthogonal_and_of_unit_contrast():
    torch.testing.assert_close(SIGNS @ SIGNS.T, torch.eye(3).double() / 4)
    assert SIGNS.sum(1).tolist() == [0, 0, 0]


def planted(what):
    """GPT-2 in which head 0.0 alone writes anything: a mix of values that is even over all tokens."""
    model = Model(FAMILIES["gpt2"].build().double(), name=what)
    hf = model.hf
    d = model.d_model
    with torch.no_grad():
        for block in hf.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            block.mlp.c_proj.weight.zero_()
            block.mlp.c_proj.bias.zero_()
        first = hf.transformer.h[0].attn
        first.c_attn.weight[:, : 2 * d].zero_()  # attention is even over all tokens
        first.c_attn.bias.zero_()
        first.c_proj.weight[:8] = torch.randn(8, d, generator=torch.Generator().manual_seed(1)).double()
        if what == "no position":
            hf.transformer.wpe.weight.zero_()
        if what == "nothing":
            first.c_proj.weight.zero_()
    return model


def test_a_head_that_sees_no_positions_carries_no_position_signal():
    """Even attention over tokens without places is a bag of words: the order of the two names is nowhere in it."""
    data = named(8, ragged=False)
    found = rs.signal_split(planted("no position"), data, heads=[(0, 0)], movers=[(1, 0)], draws=2)
    assert float(found.split.values[1].abs()) > 1e-3
    assert abs(float(found.split.values[0])) < 1e-9
    assert abs(float(found.split.values[2])) < 1e-9
    assert found.position_share == pytest.approx(0, abs=1e-9)
    assert found.additive == pytest.approx(1)
    assert found.control.values.abs().max() < 1e-9  # the other heads write nothing
    nothing = rs.signal_split(planted("nothing"), data, heads=[(0, 0)], movers=[(1, 0)], draws=1)
    assert nothing.verdict == "neither"
    assert nothing.split.values.abs().max() < 1e-9


def test_layers_without_other_heads_have_no_control(llama):
    found = rs.signal_split(llama, named(4), heads=[(1, head) for head in range(4)], movers=MOVERS, draws=2)
    assert found.blanks == 6
    assert found.verdict
    assert len(found.view().views) == 2


def test_what_it_refuses(llama):
    data = named(4)
    with pytest.raises(errors.UnknownLayer, match=r"no such layer\. Received: 9"):
        rs.signal_split(llama, data, heads=[(9, 0)], movers=MOVERS)
    with pytest.raises(errors.BadPrompt, match="not repeated"):
        rs.signal_split(llama, labelled(4), heads=OWN, movers=MOVERS)
    with pytest.raises(errors.MissingLabel, match="answers"):
        rs.signal_split(llama, rs.PromptSet(data.prompts, positions=data.positions), heads=OWN, movers=MOVERS)
    one = rs.PromptSet(
        data.prompts[:1] * 2, answers=data.answers[:1] * 2, positions={k: v[:1] * 2 for k, v in data.positions.items()}
    )
    with pytest.raises(errors.BadPrompt, match="two other names"):
        rs.signal_split(llama, one, heads=OWN, movers=MOVERS)
