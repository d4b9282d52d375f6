"""Tokens that came from elsewhere: what a model with edits gives them is what one whole run over them gives."""

import pytest
import torch
from families import FAMILIES

from residscope import edits
from residscope.engine.forced import Forced
from residscope.engine.model import Model
from tiny_models import VOCAB, hook_count, tiny_llama

EXACT = 2e-6  # as in test_generate
PROMPT, NEW = 7, 9
IDS = torch.randint(2, VOCAB, (1, PROMPT), generator=torch.Generator().manual_seed(5))
TOKENS = torch.randint(2, VOCAB, (NEW,), generator=torch.Generator().manual_seed(6)).tolist()


@pytest.fixture(scope="module")
def tiny():
    return Model(tiny_llama(), name="llama")


def whole_run(model, stack):
    whole = torch.cat([IDS, torch.tensor([TOKENS])], 1)
    log_probs = model.run(whole, ["logits"], edits=stack).logits.log_softmax(-1)
    return log_probs[0, torch.arange(PROMPT - 1, PROMPT + NEW - 1), torch.tensor(TOKENS)]


def inside(**where):
    return [
        edits.ablate("z.1", head=1, **where), edits.scale("k.0", 0.5, **where), edits.scale("v.1", -1.5, **where),
        edits.scale("pattern.1", 0.7, head=[0, 2], **where), edits.noise("resid_pre.1", 0.3, seed=4, **where),
    ]  # fmt: skip


def fed(model, stack, at="both", sizes=(NEW,)):
    forced, found, rest = Forced(model._starting(IDS, stack, NEW, at=at)), [], TOKENS
    for size in sizes:
        found += forced.feed(rest[:size])
        rest = rest[size:]
    assert not rest
    return torch.tensor(found)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_fed_at_once_or_bit_by_bit_is_one_whole_run_in_every_family(name):
    model = Model(FAMILIES[name].build(), name=name)
    plain = whole_run(model, [])
    for stack in ([], inside()):
        expected = whole_run(model, stack)
        for sizes in ((NEW,), (1,) * NEW, (1, 3, 0, 4, 1)):
            found = fed(model, stack, sizes=sizes)
            torch.testing.assert_close(found, expected.to(found), atol=EXACT, rtol=EXACT)
        if stack:
            assert (expected - plain).abs().max() > 1e-4
    assert hook_count(model.hf) == 0


@pytest.mark.parametrize("at", ["prompt", "new"])
def test_edits_act_where_they_do_in_a_generation(tiny, at):
    where = range(PROMPT) if at == "prompt" else range(PROMPT, PROMPT + NEW)
    expected = whole_run(tiny, inside(pos=[*where]))
    for sizes in ((NEW,), (2, 5, 2)):
        found = fed(tiny, inside(), at=at, sizes=sizes)
        torch.testing.assert_close(found, expected.to(found), atol=EXACT, rtol=EXACT)


def test_what_is_held_to_the_unedited_run_is_held_at_the_prompt(tiny):
    held = tiny.run(IDS, ["z.1"])
    expected = whole_run(tiny, [edits.scale("embed", 0.5), edits.patch("z.1", held, align="prefix")])
    found = fed(tiny, [edits.scale("embed", 0.5), edits.freeze("z.1")], sizes=(4, 5))
    torch.testing.assert_close(found, expected.to(found), atol=EXACT, rtol=EXACT)


def test_its_own_generation_is_given_the_log_probabilities_that_it_said(tiny):
    out = tiny.generate(IDS, inside(), NEW, temperature=1.0, seed=2, stop=())
    found = Forced(tiny._starting(IDS, inside(), NEW)).feed(out.ids)
    assert found == pytest.approx([token.log_prob for token in out], abs=1e-6)
