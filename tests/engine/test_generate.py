"""Generation: cached is uncached, batched is single, edits act where they are told to, and nothing is left behind."""

import threading

import pytest
import torch
from families import FAMILIES

from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import VOCAB, hook_count, tiny_llama

EXACT = 2e-6  # float64, but many stock families norm or softmax in float32 whatever the model's dtype
PROMPT, NEW = 7, 5
IDS = torch.randint(2, VOCAB, (1, PROMPT), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def tiny():
    return Model(tiny_llama(), name="llama")


def uncached(model, ids, stack, chosen):
    """The log-probabilities that whole runs give: of each token given all before it."""
    whole = torch.cat([ids, torch.tensor([chosen])], 1)
    logits = model.run(whole, ["logits"], edits=stack).logits
    at = torch.arange(ids.shape[1] - 1, whole.shape[1] - 1)
    return logits.log_softmax(-1)[0, at, torch.tensor(chosen)]


def steered(model, **where):
    d = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1)).double()
    return edits.steer("resid_pre.1", d, 2.0, **where)


def stacks(model, **where):
    return {
        "resid": [steered(model, **where)],
        "inside": [
            edits.ablate("z.1", head=1, **where), edits.scale("k.0", 0.5, **where), edits.scale("v.1", -1.5, **where),
            edits.scale("q.1", 2.0, **where), edits.scale("pattern.1", 0.7, head=[0, 2], **where),
        ],
    }  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_cached_equals_uncached_in_every_family(name):
    model = Model(FAMILIES[name].build(), name=name)
    plain = model.generate(IDS, max_new_tokens=NEW, stop=())
    for what, stack in ({"none": []} | stacks(model)).items():
        out = model.generate(IDS, stack, NEW, stop=())
        found = torch.tensor([token.log_prob for token in out])
        expected = uncached(model, IDS, stack, out.ids).to(found)
        torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)
        if stack:
            unedited = uncached(model, IDS, [], out.ids).to(found)
            assert (found - unedited).abs().max() > 1e-4, what
    assert len(plain.ids) == NEW
    assert hook_count(model.hf) == 0


def test_greedy_is_the_stock_models_own_generate(tiny):
    with torch.no_grad():
        stock = tiny.hf.generate(IDS, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=1)
    assert tiny.generate(IDS, max_new_tokens=NEW, stop=()).ids == tuple(stock[0, PROMPT:].tolist())


@pytest.mark.parametrize("at", ["prompt", "new"])
def test_edits_act_at_the_prompt_or_at_new_tokens(tiny, at):
    where = range(PROMPT) if at == "prompt" else range(PROMPT, PROMPT + NEW - 1)
    for what in ("resid", "inside"):
        out = tiny.generate(IDS, stacks(tiny)[what], NEW, at=at, stop=())
        found = torch.tensor([token.log_prob for token in out])
        expected = uncached(tiny, IDS, stacks(tiny, pos=where)[what], out.ids).to(found)
        torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)
        both = uncached(tiny, IDS, stacks(tiny)[what], out.ids).to(found)
        assert (found - both).abs().max() > 1e-4


def test_each_edit_may_have_its_own_time(tiny):
    stack = [steered(tiny), edits.ablate("z.1", head=1)]
    out = tiny.generate(IDS, stack, NEW, at=["new", "prompt"], stop=())
    placed = [steered(tiny, pos=range(PROMPT, PROMPT + NEW - 1)), edits.ablate("z.1", head=1, pos=range(PROMPT))]
    found = torch.tensor([token.log_prob for token in out])
    torch.testing.assert_close(found, uncached(tiny, IDS, placed, out.ids).to(found), atol=EXACT, rtol=EXACT)


def test_positions_are_absolute_and_negative_ones_count_from_the_prompts_end(tiny):
    for given, meant in [
        ((2, -1, PROMPT + 1), (2, PROMPT - 1, PROMPT + 1)),
        ((-PROMPT,), (0,)),
        ((PROMPT,), (PROMPT,)),
    ]:
        out = tiny.generate(IDS, [steered(tiny, pos=given)], NEW, stop=())
        found = torch.tensor([token.log_prob for token in out])
        expected = uncached(tiny, IDS, [steered(tiny, pos=meant)], out.ids).to(found)
        torch.testing.assert_close(found, expected, atol=EXACT, rtol=EXACT)


def test_what_is_held_to_another_run_is_held_at_the_prompt(tiny):
    other = (IDS + 3) % VOCAB
    prompt = range(PROMPT)
    held = tiny.run(IDS, ["z.1"])
    for stack, meant in [
        (
            [edits.scale("embed", 0.5), edits.freeze("z.1")],
            [edits.scale("embed", 0.5), edits.patch("z.1", held, align="prefix")],
        ),
        ([edits.patch("v.1", other)], [edits.patch("v.1", other, pos=prompt)]),
        ([edits.patch("z.1", other, pos=-1)], [edits.patch("z.1", other, align={PROMPT - 1: PROMPT - 1})]),
    ]:
        out = tiny.generate(IDS, stack, NEW, stop=())
        found = torch.tensor([token.log_prob for token in out])
        torch.testing.assert_close(found, uncached(tiny, IDS, meant, out.ids).to(found), atol=EXACT, rtol=EXACT)


def test_batched_equals_single(tiny):
    rows = [[5, 6, 7, 8, 9], [10, 11, 12], [13, 14, 15, 16, 17], [18] * 6]
    data = [[r + 1 for r in row] for row in rows]
    for stack in [[], stacks(tiny)["inside"], [edits.freeze("pattern.2"), edits.scale("embed", 2.0, pos=-1)]]:
        together = tiny.generate(rows, stack, NEW, stop=()).rows
        for row, completion in zip(rows, together, strict=True):
            alone = tiny.generate([row], stack, NEW, stop=())
            assert completion.ids == alone.ids
            close = [t.log_prob for t in completion.tokens], [t.log_prob for t in alone.tokens]
            torch.testing.assert_close(*map(torch.tensor, close), atol=1e-6, rtol=1e-6)
    patched = tiny.generate(rows, [edits.patch("resid_pre.1", data)], NEW, stop=()).rows
    for row, source, completion in zip(rows, data, patched, strict=True):
        assert completion.ids == tiny.generate([row], [edits.patch("resid_pre.1", [source])], NEW, stop=()).ids
    with pytest.raises(errors.PromptError, match="rows"):
        _ = tiny.generate(rows, max_new_tokens=2).text


def test_tokens_come_one_by_one_and_nothing_stands_between_them(tiny):
    ran = []
    handle = tiny.hf.register_forward_hook(lambda *_: ran.append(1))
    try:
        out = tiny.generate(IDS, stacks(tiny)["inside"], NEW, stop=())
        assert ran == []
        tokens = iter(out)
        first = next(tokens)
        assert len(ran) == 1
        assert hook_count(tiny.hf) == 1
        assert tiny.hf.config._attn_implementation == "sdpa"
        next(tokens)
        out.close()
        assert len(list(out)) == 2
        assert next(iter(out)) is first
        assert len(ran) == 2
        with tiny.generate(IDS, max_new_tokens=3, stop=()) as other:
            next(iter(other))
        assert len(other.ids) == 1
    finally:
        handle.remove()
    assert hook_count(tiny.hf) == 0


def test_a_generation_that_raises_leaves_nothing_behind(tiny):
    class Broken(edits.Scale):
        kind = ""

        def change(self, value, at):
            raise RuntimeError("on purpose")

    out = tiny.generate(IDS, [Broken("pattern.1")], NEW, at="new", stop=())
    tokens = iter(out)
    next(tokens)
    with pytest.raises(RuntimeError, match="on purpose"):
        next(tokens)
    assert hook_count(tiny.hf) == 0
    assert tiny.hf.config._attn_implementation == "sdpa"


def test_sampling_follows_the_seed_and_the_cuts(tiny):
    def ids(**kwargs):
        return tiny.generate(IDS, max_new_tokens=8, stop=(), **kwargs).ids

    greedy = ids()
    assert ids(temperature=1.5, seed=1) == ids(temperature=1.5, seed=1)
    assert len({ids(temperature=1.5, seed=s) for s in range(4)}) > 1
    assert ids(temperature=1.5, top_k=1) == greedy
    assert ids(temperature=1.5, top_p=1e-6) == greedy
    likeliest = set(tiny.run(IDS).logits[0, -1].topk(3).indices.tolist())
    drawn = {tiny.generate(IDS, max_new_tokens=1, stop=(), temperature=5.0, top_k=3, seed=s).ids[0] for s in range(40)}
    assert drawn == likeliest
    same = [IDS[0].tolist()] * 2
    a, b = (row.ids for row in tiny.generate(same, max_new_tokens=8, stop=(), temperature=2.0).rows)
    assert a != b
    assert a == ids(temperature=2.0)


def test_a_row_stops_at_its_own_end(tiny):
    greedy = tiny.generate(IDS, max_new_tokens=8, stop=()).ids
    third = greedy[2]
    assert tiny.generate(IDS, max_new_tokens=8, stop=third).ids == greedy[: greedy.index(third) + 1]
    rows = [IDS[0].tolist(), (IDS[0] + 1).tolist()]
    other = tiny.generate([rows[1]], max_new_tokens=8, stop=third).ids
    assert [row.ids for row in tiny.generate(rows, max_new_tokens=8, stop=[third]).rows] == [
        greedy[: greedy.index(third) + 1], other,
    ]  # fmt: skip
    tiny.hf.config.eos_token_id, before = third, tiny.hf.config.eos_token_id
    try:
        assert tiny.generate(IDS, max_new_tokens=8).ids == greedy[: greedy.index(third) + 1]
    finally:
        tiny.hf.config.eos_token_id = before


def test_eight_threads_generate_what_one_does(tiny):
    every = [
        [], [steered(tiny)], [edits.ablate("z.1", head=0)], [edits.scale("k.1", 0.5)], [edits.scale("pattern.2", 0.3)],
        [edits.noise("embed", 0.1, seed=3)], [edits.isolate("z.2", head=1)], [edits.scale("embed", 2.0), edits.freeze("norms")],
    ]  # fmt: skip
    alone = [tiny.generate(IDS, stack, NEW, stop=()).tokens for stack in every]
    assert len({tuple(token.log_prob for token in tokens) for tokens in alone}) == 8
    found = [None] * 8

    def work(i):
        found[i] = tiny.generate(IDS, every[i], NEW, stop=()).tokens

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone
    assert hook_count(tiny.hf) == 0


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [({"temperature": -1.0}, errors.BadSampling, "0 "), ({"top_k": 3}, errors.BadSampling, "temperature"),
     ({"temperature": 1.0, "top_k": 0}, errors.BadSampling, "1, 2"),
     ({"temperature": 1.0, "top_p": 1.5}, errors.BadSampling, "1"),
     ({"stop": "x"}, errors.NoTokenizer, "token ids"), ({"stop": ("",)}, errors.BadSampling, "text or a token"),
     ({"max_new_tokens": 0}, errors.PromptError, "1, 2"), ({"max_new_tokens": 59}, errors.PromptTooLong, "58 new"),
     ({"at": "later"}, errors.BadEdit, "prompt, new"), ({"at": ["new"]}, errors.BadEdit, "one such for each"),
     ({"edits": [edits.freeze("z.1")], "at": "new"}, errors.BadEdit, "nothing for new"),
     ({"edits": [edits.scale("z.1", 2.0, pos=7)], "at": "prompt"}, errors.UnknownPosition, "-7 to 6"),
     ({"edits": [edits.scale("z.1", 2.0, pos=3)], "at": "new"}, errors.UnknownPosition, "7 to 9"),
     ({"edits": [edits.scale("z.1", 2.0, pos=10)]}, errors.UnknownPosition, "-7 to 9"),
     ({"edits": [edits.scale("router.1", 2.0)]}, errors.AbsentSite, "dense"),
     ({"edits": [edits.freeze("z.1"), edits.patch("z.1", IDS)]}, errors.ClashingEdits, "lost")],
)  # fmt: skip
def test_what_cannot_be_generated(tiny, kwargs, error, words):
    with pytest.raises(error, match=words):
        tiny.generate(IDS, **({"max_new_tokens": 3} | kwargs))


def test_steering_shows_in_what_the_real_model_says(smollm2):
    prompt = "My favourite thing in the world is"
    plain = smollm2.generate(prompt, max_new_tokens=12)
    happy, sad = (smollm2.run(text)["resid_pre.12"][0, -1] for text in ("I love Paris, France", "I love dogs, puppies"))
    push = edits.steer("resid_pre.12", happy - sad, 60.0)
    out = smollm2.generate(prompt, [push], 12, at="new")
    assert out.tokens[0] == plain.tokens[0]  # the first is picked at the prompt's end
    assert out.ids != plain.ids
    assert "".join(token.text for token in plain) == plain.text
    assert plain.text.startswith(" ")
    stopped = smollm2.generate(prompt, max_new_tokens=12, stop=plain.tokens[3].text)
    assert stopped.ids == plain.ids[:4]
