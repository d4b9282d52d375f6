"""Two prompt sets, one metric: whatever each set says for itself, both ends and every cell are scored alike."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labelled

import residscope as rs
from residscope import edits, errors
from residscope.methods.heads.head_roles import _patched
from residscope.methods.probes.das import das
from tiny_models import VOCAB

TOKENS = st.integers(2, VOCAB - 1)
ANSWERS = st.tuples(TOKENS, TOKENS).filter(lambda pair: pair[0] != pair[1])
CLEAN, CORRUPTED = (tuple(range(2, 11)), tuple(range(20, 29))), (tuple(range(32, 41)), tuple(range(50, 59)))


def alone(model, prompt, answers, cell=()):
    """One forward of one prompt, scored by two tokens."""
    right, wrong = answers
    logits = model.run([prompt], ["logits"], edits=cell).logits[0, -1]
    return float(logits[right] - logits[wrong])


@settings(max_examples=15, deadline=None)
@given(st.lists(ANSWERS, min_size=4, max_size=4), st.sampled_from(["both", "clean", "corrupted"]), st.booleans())
def test_both_ends_and_every_cell_go_by_one_sets_answers(llama, answers, given_by, noise):
    of_clean = tuple(answers[:2]) if given_by != "corrupted" else None
    of_corrupted = tuple(answers[2:]) if given_by != "clean" else None
    clean, corrupted = rs.PromptSet(CLEAN, answers=of_clean), rs.PromptSet(CORRUPTED, answers=of_corrupted)
    mode = "noise" if noise else "denoise"
    found = rs.activation_patching(llama, clean, corrupted, rs.logit_diff(), mode=mode, layers=[3], positions=[-1])
    judged_by = of_clean or of_corrupted
    into, source = (CLEAN, CORRUPTED) if noise else (CORRUPTED, CLEAN)
    for i, own in enumerate(judged_by):
        assert found.provenance["clean"][i] == pytest.approx(alone(llama, CLEAN[i], own), abs=1e-6)
        assert found.provenance["corrupted"][i] == pytest.approx(alone(llama, CORRUPTED[i], own), abs=1e-6)
        patch = edits.patch("resid_pre.3", llama.run([source[i]], ["resid_pre.3"]), pos=-1)
        assert float(found.values[0, 0, i]) == pytest.approx(alone(llama, into[i], own, patch), abs=1e-6)
    assert found.provenance["scored by"] == f"the {'clean' if of_clean else 'corrupted'} prompts' answers"


def test_opposite_answers_do_not_turn_the_corrupted_end_round(llama):
    """With each end scored by its own answers, the whole stream patched restored another share than all of the gap."""
    clean, corrupted = rs.PromptSet(CLEAN[:1], answers=((5, 7),)), rs.PromptSet(CORRUPTED[:1], answers=((7, 5),))
    found = rs.activation_patching(llama, clean, corrupted, rs.logit_diff(), positions="all", normalize=True)
    torch.testing.assert_close(found.values, torch.ones(4, dtype=torch.float64), atol=1e-7, rtol=0)
    assert found.provenance["corrupted"][0] == pytest.approx(alone(llama, CORRUPTED[0], (5, 7)), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=4, max_size=4), st.booleans())
def test_a_name_stands_for_each_sets_own_token(llama, places, noise):
    clean = rs.PromptSet(CLEAN, positions={"S": tuple(places[:2])})
    corrupted = rs.PromptSet(CORRUPTED, positions={"S": tuple(places[2:])})
    mode = "noise" if noise else "denoise"
    metric = rs.logit_diff(5, 7)
    found = rs.activation_patching(llama, clean, corrupted, metric, mode=mode, layers=[2], positions=["S"])
    into, source = (clean, corrupted) if noise else (corrupted, clean)
    for i in range(2):
        to, taken = into.positions["S"][i], source.positions["S"][i]
        mixed = llama.run([into.prompts[i]], ["resid_pre.2"])["resid_pre.2"].clone()
        mixed[0, to] = llama.run([source.prompts[i]], ["resid_pre.2"])["resid_pre.2"][0, taken]
        patch = edits.patch("resid_pre.2", {"resid_pre.2": mixed})
        assert float(found.values[0, 0, i]) == pytest.approx(alone(llama, into.prompts[i], (5, 7), patch), abs=1e-6)


def test_a_set_without_names_takes_its_partners(llama):
    named = rs.PromptSet(CLEAN, positions={"S": (3, 1)})
    metric = rs.logit_diff(5, 7)
    both = rs.PromptSet(CORRUPTED, positions={"S": (3, 1)})
    want = rs.activation_patching(llama, named, both, metric, positions=["S"])
    for clean, corrupted in ((named, list(CORRUPTED)), (list(CLEAN), both)):
        found = rs.activation_patching(llama, clean, corrupted, metric, positions=["S"])
        torch.testing.assert_close(found.values, want.values, atol=0, rtol=0)
    lacking = rs.PromptSet(CORRUPTED, positions={"S": (3, None)})
    with pytest.raises(errors.UnknownPosition, match="lack"):
        rs.activation_patching(llama, named, lacking, metric, positions=["S"])
    with pytest.raises(errors.UnknownPosition, match="S"):
        rs.activation_patching(llama, named, rs.PromptSet(CORRUPTED, positions={"T": (3, 1)}), metric, positions=["S"])
    with pytest.raises(errors.UnalignedPrompts, match="2 clean and 1 corrupted"):
        rs.activation_patching(llama, named, CORRUPTED[:1], metric, positions=["S"])


@pytest.mark.parametrize("mode", ["denoise", "noise"])
def test_the_loss_of_a_pair_is_of_the_clean_prompts_tokens(llama, mode):
    found = rs.activation_patching(llama, list(CLEAN), list(CORRUPTED), rs.loss(), mode=mode, layers=[1])

    def scored(recording, i):
        next_ = torch.tensor(CLEAN[i][1:])
        return float(-recording.logits[0, :-1].log_softmax(-1)[torch.arange(8), next_].mean())

    into, source = (CORRUPTED, CLEAN) if mode == "denoise" else (CLEAN, CORRUPTED)
    for i in range(2):
        assert found.provenance["clean"][i] == pytest.approx(scored(llama.run([CLEAN[i]], ["logits"]), i))
        assert found.provenance["corrupted"][i] == pytest.approx(scored(llama.run([CORRUPTED[i]], ["logits"]), i))
        patch = edits.patch("resid_pre.1", llama.run([source[i]], ["resid_pre.1"]), pos=4)
        assert float(found.values[0, 4, i]) == pytest.approx(scored(llama.run([into[i]], ["logits"], edits=patch), i))
    assert found.provenance["scored by"] == "the clean prompts' tokens"


def test_a_reference_of_another_number_of_prompts_is_refused(llama):
    three = llama.run([*CLEAN, CORRUPTED[0]], ["logits"])
    for prompts in (list(CLEAN), list(CLEAN[:1])):
        with pytest.raises(errors.PromptError, match="another number of prompts"):
            rs.kl(three)(llama.run(prompts, ["logits"]))
        with pytest.raises(errors.PromptError, match="another number of prompts"):
            rs.sweep(llama, prompts, [edits.ablate("z.1")], rs.kl(three)).run()
    one = rs.kl(llama.run([CLEAN[0]], ["logits"]))(llama.run(list(CLEAN), ["logits"]))
    assert one[0] == pytest.approx(0, abs=1e-9)
    assert one[1] > 0


def test_partners_of_another_length_are_taken_from_their_own_ends(llama):
    """Head roles patch END from END: a shorter partner among longer ones is padded, and its padding is no token of it."""
    data = labelled(8, ragged=False)
    shorter = tuple(row[1:] if i % 2 else row for i, row in enumerate(data.corrupted))
    ragged = rs.PromptSet(
        data.prompts, corrupted=shorter, answers=data.answers, labels=data.labels,
        positions={**data.positions, **dict.fromkeys(("IO", "S1", "S2", "END"), data.positions["P"])},
    )  # fmt: skip
    changed, _ = _patched(llama, ragged, [(3, 0)], 8)
    want = []
    for row, partner, answers in zip(ragged.prompts, shorter, ragged.answers, strict=True):
        z = llama.run([partner], ["z.2"])["z.2"][0, -1, 1]
        held = llama.run([row], ["z.2"])["z.2"].clone()
        held[0, -1, 1] = z
        patch = edits.patch("z.2", {"z.2": held}, pos=-1, head=1)
        want.append(alone(llama, row, answers, patch) - alone(llama, row, answers))
    assert float(changed[2, 1]) == pytest.approx(sum(want) / len(want), abs=1e-5)


def test_an_exchange_with_a_partner_of_another_length_is_refused(llama):
    data = labelled(24, ragged=False)
    probe = rs.fit_probe(llama, data, site="resid_pre.1", position="P", label="parity", Cs=(0.01,))
    longer = rs.PromptSet(
        data.prompts, corrupted=tuple((3, *row) for row in data.corrupted), answers=data.answers, labels=data.labels,
        positions=data.positions,
    )  # fmt: skip
    with pytest.raises(errors.UnalignedPrompts, match="token by token"):
        das(llama, longer, probe, steps=1)
