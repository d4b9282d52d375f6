"""Continuations against transformers' own `generate`, each side's reading of the other against plain forwards with a hook."""

import math
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pytest
import torch
from readers import reader

import residscope as rs
from residscope import edits, errors
from residscope.methods.reading.continuations import continued
from tiny_models import IOI, hook_count

NEW = 12
CUTS = {"temperature": 0.9, "top_k": 20, "top_p": 0.95}
HEADS = {"layer": 23, "heads": (3, 1)}  # on IOI, 23.3 helps " Mary"


@contextmanager
def cut(model, layer, heads):
    """Heads of a layer at zero by a plain hook of torch's, in front of the projection that reads them."""

    def zero(_, given):
        z = given[0].clone()
        for head in heads:
            z[..., head * model.d_head : (head + 1) * model.d_head] = 0
        return (z, *given[1:])

    handle = model.hf.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(zero)
    try:
        yield
    finally:
        handle.remove()


def stock(model, ids, seed=None, **how):
    """The tokens of transformers' own generation. seed: draws from the stream of random numbers that a seed stands for."""
    if seed is not None:
        state = int(np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64)[0])
        torch.manual_seed(state >> 1)
    how = {"do_sample": True, **how} if seed is not None else {"do_sample": False}
    with torch.no_grad():
        out = model.hf.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, pad_token_id=0, eos_token_id=None, **how
        )
    return tuple(out[0, ids.shape[1] :].tolist())


def plain(model, ids, chosen, within):
    """log p of each chosen token, by one plain forward over the prompt and all of them."""
    whole = torch.cat([ids, torch.tensor([chosen])], 1)
    with torch.no_grad(), within:
        log_probs = model.hf(whole).logits.log_softmax(-1)
    at = torch.arange(ids.shape[1] - 1, whole.shape[1] - 1)
    return log_probs[0, at, torch.tensor(chosen)].tolist()


@pytest.fixture(scope="module")
def stack():
    return [edits.ablate(f"z.{HEADS['layer']}", head=list(HEADS["heads"]))]


@pytest.mark.parametrize("seed", [None, 0, 3])
def test_both_sides_are_transformers_own_generation_and_each_reads_the_other(smollm2, stack, seed):
    how = {} if seed is None else CUTS
    ids = smollm2.tokens(IOI)
    found = rs.continuations(smollm2, IOI, edits=stack, max_new_tokens=NEW, seed=seed or 0, stop=(), **how)
    (draw,) = found.draws
    assert found.prompt == tuple(ids[0].tolist())
    assert draw.seed == (seed or 0)
    with cut(smollm2, **HEADS):
        edited = stock(smollm2, ids, seed, **how)
    assert draw.baseline.ids == stock(smollm2, ids, seed, **how)
    assert draw.edited.ids == edited
    for run, own, other in (
        (draw.baseline, nullcontext(), cut(smollm2, **HEADS)),
        (draw.edited, cut(smollm2, **HEADS), nullcontext()),
    ):
        assert run.log_probs == pytest.approx(plain(smollm2, ids, run.ids, own), abs=2e-4)
        assert run.other == pytest.approx(plain(smollm2, ids, run.ids, other), abs=2e-4)
        assert run.tokens == tuple(smollm2.token_texts(run.ids))
        assert run.text == smollm2.tokenizer.decode(run.ids)
        assert not run.stopped
    pairs = [*zip(draw.baseline.ids, draw.edited.ids, strict=True)]
    assert draw.same == next((i for i, (a, b) in enumerate(pairs) if a != b), NEW)
    differences = draw.differences()
    assert max(map(abs, differences["edited"])) > 0.1, "the heads matter here"
    assert differences["edited"][0] == pytest.approx(draw.edited.log_probs[0] - draw.edited.other[0])
    assert differences["baseline"][0] == pytest.approx(draw.baseline.other[0] - draw.baseline.log_probs[0])
    assert hook_count(smollm2.hf) == 0


def test_each_draw_is_what_generate_gives_for_its_seed(smollm2, stack):
    found = rs.continuations(smollm2, IOI, edits=stack, n=3, seed=5, max_new_tokens=6, **CUTS)
    assert [draw.seed for draw in found.draws] == [5, 6, 7]
    for draw in found.draws:
        how = {"max_new_tokens": 6, "seed": draw.seed, **CUTS}
        assert draw.baseline.ids == smollm2.generate(IOI, **how).ids
        assert draw.edited.ids == smollm2.generate(IOI, stack, **how).ids
    assert len({draw.baseline.ids for draw in found.draws}) > 1


def test_they_come_token_by_token_and_stop_each_at_its_own_stop(smollm2):
    prompt, stop = "Once upon a time there was a little girl who", ["."]
    cutting = [edits.ablate("mlp_out.28")]
    seen = []
    steps = continued(smollm2, prompt, edits=cutting, max_new_tokens=40, stop=stop)
    for known in steps:
        draw = known.draws[-1]
        seen.append((len(draw.baseline.ids), len(draw.edited.ids), sum(map(math.isfinite, draw.edited.other))))
    assert [a for a, _, _ in seen[:4]] == [1, 2, 3, 4]
    assert all(a <= b for one, two in pairwise(seen) for a, b in zip(one, two, strict=True))
    assert seen[-1][1] == seen[-1][2], "all of it was read by the other in the end"
    for run, stack in ((draw.baseline, []), (draw.edited, cutting)):
        assert run.ids == smollm2.generate(prompt, stack, 40, stop=stop).ids
        assert run.stopped == ("." in run.text)
    assert draw.baseline.stopped


def test_without_edits_there_is_one_side_and_it_says_so(smollm2):
    found = rs.continuations(smollm2, IOI, max_new_tokens=5)
    (draw,) = found.draws
    assert draw.edited is None
    assert draw.same is None
    assert draw.said == "No edits: the model as it is."
    assert all(map(math.isnan, draw.baseline.other))
    (strip,) = found.view().views
    assert strip.scale == "sequential"
    assert list(strip.values) == pytest.approx([-x for x in draw.baseline.log_probs])
    assert len(found.to_dataframe()) == 5


def test_what_changes_nothing_is_the_same_to_the_end():
    model = reader()
    (draw,) = rs.continuations(model, [5, 6, 7], edits=[edits.scale("z.1", 1.0)], max_new_tokens=NEW, stop=()).draws
    assert draw.same == NEW
    assert draw.said == f"The same tokens, {NEW} of {NEW}."
    assert draw.differences()["edited"] == pytest.approx([0.0] * NEW, abs=1e-12)


def test_one_that_was_stopped_keeps_a_prefix():
    model, seen = reader(), []
    how = {"edits": [edits.scale("z.1", -3.0)], "max_new_tokens": NEW, "temperature": 1.0, "n": 2, "stop": ()}
    whole = rs.continuations(model, [5, 6, 7], **how)
    told = lambda *step: seen.append(step)  # noqa: E731
    with pytest.raises(errors.Cancelled) as caught:
        rs.continuations(model, [5, 6, 7], **how, progress=told, cancel=lambda: len(seen) > NEW + 4)
    kept = caught.value.partial
    assert kept.draws[0] == whole.draws[0]
    for run, full in ((kept.draws[1].baseline, whole.draws[1].baseline), (kept.draws[1].edited, whole.draws[1].edited)):
        assert 0 < len(run.ids) < NEW
        assert run.ids == full.ids[: len(run.ids)]
        read = [x for x in run.other if math.isfinite(x)]
        assert read == pytest.approx(full.other[: len(read)])
    assert hook_count(model.hf) == 0


def test_where_they_part_is_said_and_the_pictures_tell_who_finds_a_token_likelier():
    model = reader()
    found = rs.continuations(model, [5, 6, 7], edits=[edits.scale("z.1", -3.0)], max_new_tokens=NEW, stop=())
    (draw,) = found.draws
    assert draw.same < NEW
    assert draw.said in (f"The same until token {draw.same}.", "They differ from the first token on.")
    baseline, edited = found.view().views
    assert (baseline.title, edited.title) == ("Baseline, seed 0", "Edited, seed 0")
    assert list(edited.values) == pytest.approx(draw.differences()["edited"])
    assert baseline.limit == edited.limit
    assert baseline.note == draw.said
    frame = found.to_dataframe()
    assert len(frame) == 2 * NEW
    assert list(frame["difference"][frame["run"] == "baseline"]) == pytest.approx(draw.differences()["baseline"])


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"prompt": [[5, 6], [7, 8]]}, errors.PromptError, "2 prompts"),
        ({"n": 2}, errors.BadSampling, "temperature 0"),
        ({"n": 0}, errors.BadSampling, "how many draws"),
        ({"max_new_tokens": 100}, errors.PromptTooLong, "context"),
        ({"temperature": -1.0}, errors.BadSampling, "temperature"),
        ({"edits": [edits.freeze("z.1")], "at": "new"}, errors.BadEdit, "nothing for new tokens"),
    ],
)
def test_what_cannot_be_is_refused(how, error, words):
    with pytest.raises(error, match=words):
        rs.continuations(reader(), **{"prompt": [5, 6, 7], **how})
