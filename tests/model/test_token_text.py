"""The text of tokens: told apart, typed back, joined to what was typed; for every kind of tokenizer."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from residscope import errors
from tokenizers_of_every_kind import BEYOND, KINDS, WORDS, reader, tokenizer

EXACT = ("byte level", "llama 2", "gemma")  # kinds that keep every character but "▁"
every_kind = pytest.mark.parametrize("kind", KINDS)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0▁"), min_size=1, max_size=20)


def joined(*parts):
    """Parts that matter, put together by chance: words, spaces, emoji, marks, tokens' own names."""
    return st.lists(st.sampled_from(parts), min_size=1, max_size=8).map("".join)


HARD = joined(
    *WORDS, " ", "  ", "\n", "\t", "é", "e\u0301", "日本", "العربية", "👩‍👩‍👧", "🇫🇷", "<0xE2>", "<id 5>",
    "<5>", "\ufffd", "\r\n", "ﬁ"
)  # fmt: skip


@every_kind
def test_every_id_has_a_name_of_its_own_and_is_found_by_it(kind):
    model = reader(kind)
    names = model.token_texts(range(model.d_vocab))
    assert len({*names}) == len(names)
    assert all(names)
    assert [model.token_id(name) for name in names] == [*range(model.d_vocab)]


def test_every_id_of_the_default_model_is_found_by_its_name(smollm2):
    names = smollm2.token_texts(range(smollm2.d_vocab))
    assert [smollm2.token_id(name) for name in names] == [*range(smollm2.d_vocab)]


@every_kind
def test_ids_beyond_the_tokenizer_say_so(kind):
    model = reader(kind)
    first = model.d_vocab - BEYOND
    assert model.token_texts([first, model.d_vocab + 9, -1]) == [
        f"<id {first}>",
        f"<id {model.d_vocab + 9}>",
        "<id -1>",
    ]
    assert model.token_kinds([first, model.d_vocab + 9, -1]) == ["unknown"] * 3
    assert model.token_id(f"<id {first}>") == first
    for name in (f"<id {model.d_vocab}>", "<id -1>", f"<id {10**30}>"):
        with pytest.raises(errors.UnknownToken, match="no such token id"):
            model.token_id(name)


EXPECTED = {
    "byte level": ["the", " store", " and", " John"],
    "llama 2": [" the", " store", " and", " John"],
    "gemma": ["t", "h", "e", " store", " and", " John"],
    "metaspace first": [" the", " store", " and", " John"],
    "unigram": [" the", " store", " and", " John"],
    "wordpiece": [" the", " store", " and", " john"],
    "word level": ["the", "store", "and", "John"],  # no word is without its space, so that it tells nothing
    "word ends": ["the ", "store ", "and ", "John "],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_words_space_stays_with_it(kind):
    model = reader(kind)
    assert model.token_texts(model.tokens("the store and John")[0].tolist()) == EXPECTED[kind]


@pytest.mark.parametrize("kind", ["llama 2", "metaspace first", "metaspace always", "gemma", "unigram"])
def test_bytes_are_written_out_unless_they_are_a_character_that_no_other_token_is(kind):
    model = reader(kind)
    ids = model.tokens("é\nA 日")[0].tolist()
    expected = ["<0xC3>", "<0xA9>", "\n", "A", " ", "<0xE6>", "<0x97>", "<0xA5>"]
    assert [name for name in model.token_texts(ids) if name != " "] == [name for name in expected if name != " "]
    kinds = dict(zip(model.token_texts(ids), model.token_kinds(ids), strict=True))
    assert kinds["<0xC3>"] == "bytes"
    assert kinds["\n"] == kinds["A"] == "text"
    single = model.tokenizer.convert_tokens_to_ids("<0x41>")
    assert model.token_texts([single]) == ["<0x41>"]
    assert model.token_kinds([single]) == ["bytes"]
    assert model.token_id("A") == model.tokenizer.convert_tokens_to_ids("A") != single


def test_bytes_of_the_default_model(smollm2):
    ids = smollm2.tokens(" 👩 é")[0].tolist()
    names, kinds = smollm2.token_texts(ids), smollm2.token_kinds(ids)
    assert names[0] == " <0xF0><0x9F>"
    assert "".join(names[1:]).startswith("<0x91><0xA9>")
    assert kinds[:2] == ["bytes", "bytes"]
    assert (names[-1], kinds[-1]) == (" é", "text")
    assert len({*names}) == len(names)
    assert smollm2.text(ids) == " 👩 é"


@every_kind
def test_special_tokens_are_told_from_text(kind):
    model = reader(kind)
    ids = model.tokens("the<s>the")[0].tolist()
    at = ids.index(1)
    assert model.token_kinds(ids)[at] == "special"
    assert {*model.token_kinds(ids[:at] + ids[at + 1 :])} == {"text"}
    assert model.token_texts([1]) == ["<s>"]
    assert model.text(ids).strip() == "the<s>the"


@pytest.mark.parametrize("kind", EXACT)
@settings(deadline=None, max_examples=60)
@given(texts | HARD)
@example("  leading and trailing  ")
@example("\n\n\ttabs\t")
@example("<s>typed<unk></s> specials<s>")
@example("👩‍👩‍👧 e\u0301 العربية 日本語")
def test_tokens_join_to_what_was_typed(kind, text):
    model = reader(kind)
    ids = model.tokens(text)[0].tolist()
    assert model.text(ids) == text
    names, kinds = model.token_texts(ids), model.token_kinds(ids)
    if {*kinds} == {"text"}:
        assert "".join(names) in (text, f" {text}" if kind == "llama 2" else text)
    typed = [model.token_id(name) for name in names]
    assert typed == ids


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in EXACT])
@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join))
def test_words_join_to_what_was_typed(kind, text):
    model = reader(kind)
    typed = text.lower() if kind == "wordpiece" else text
    assert model.text(model.tokens(typed)) == typed
    assert model.text(model.tokens(typed)) == model.tokenizer.decode(model.tokens(typed)[0])


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1) | HARD)
@example("ab\x16")
@example("\U00040000")
def test_the_default_models_tokens_join_to_what_was_typed(smollm2, text):
    lost = {
        "\x04",
        "\x06",
        "\x13",
        "\x14",
        "\x16",
        "\x1d",
    }  # SmolLM2 has no token for these bytes, nor for 0xF1 and 0xF2
    if lost & {*text} or {0xF1, 0xF2} & {*text.encode()}:
        with pytest.raises(errors.BadPrompt, match="would drop it"):
            smollm2.tokens(text)
        return
    ids = smollm2.tokens(text)[0].tolist()
    assert smollm2.text(ids) == text == smollm2.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@every_kind
def test_bos_of_the_models_habit_is_not_text(kind):
    model, typed = reader(kind, bos=True), "mary" if kind == "wordpiece" else "Mary"
    ids = model.tokens(typed)
    assert ids[0, 0] == 1
    assert model.text(ids) == typed
    assert model.text([1, 1, *ids[0, 1:].tolist()]).replace(" ", "") == f"<s>{typed}"
    assert reader(kind).text(ids).replace(" ", "") == f"<s>{typed}"


@every_kind
@settings(deadline=None, max_examples=40)
@given(st.data())
def test_what_comes_goes_on_from_the_prompt(kind, data):
    """Whatever the tokens are: the prompt's text and theirs are the text of all, and no character comes in halves."""
    model = reader(kind)
    ids = st.lists(st.integers(0, model.d_vocab - 1), min_size=1, max_size=12)
    prompt, more = data.draw(ids), data.draw(ids)
    reading = model._reading(prompt)
    parts = [reading.feed(id) for id in more]
    came = "".join(parts) + reading.close()
    whole, before = model.text(prompt + more), model.text(prompt).rstrip("\ufffd")
    assert whole.removeprefix(before).lstrip("\ufffd") == came.lstrip("\ufffd")
    if not {"bytes", "unknown"} & {*model.token_kinds(prompt + more)} and kind in (
        "gemma",
        "byte level",
        "no fallback",
    ):
        assert before + came == tokenizer(kind).decode(prompt + more)


@pytest.mark.parametrize("kind", EXACT)
def test_a_completion_goes_on_where_the_prompt_ends(kind):
    model = reader(kind)
    prompt = "Mary went to"
    ids = model.tokens(prompt)[0].tolist()
    for seed in range(5):
        out = model.generate(prompt, max_new_tokens=12, temperature=9.0, seed=seed, stop=())
        assert prompt + out.text == model.text([*ids, *out.ids])
        assert out.text == "".join(token.text for token in out.tokens)


def test_a_first_word_keeps_its_space_and_characters_wait_for_their_bytes():
    model = reader("llama 2")
    store, e = model.token_id(" store"), [model.token_id(name) for name in ("<0xC3>", "<0xA9>")]
    reading = model._reading(model.tokens("the")[0].tolist())
    assert [reading.feed(id) for id in (store, *e, e[0], store)] == [" store", "", "é", "", "\ufffd store"]
    cut = model.tokens("é")[0].tolist()[:-1]
    reading = model._reading(cut)
    assert reading.feed(e[1]) == "é"


@pytest.mark.parametrize("kind", ["byte level", "llama 2", "gemma"])
def test_one_token_is_one_that_it_is_in_the_middle_of_a_text(kind):
    model = reader(kind)
    assert model.token_texts([model.token_id(" Mary")]) == [" Mary"]
    with pytest.raises(errors.UnknownToken, match=r"not one token.*'John'.*' John'"):
        model.token_id("John")
    with pytest.raises(errors.UnknownToken, match=r"' Mary'"):
        model.token_id(" mary")
    with pytest.raises(errors.UnknownToken, match=r"2 tokens: \[.* and', ' John'\]"):
        model.token_id(" and John")


@pytest.mark.parametrize("kind", ["wordpiece", "word level"])
def test_tokenizers_that_drop_spaces_take_a_word_without(kind):
    model = reader(kind)
    assert model.token_id("the") == model.token_id(" the")
    with pytest.raises(errors.UnknownToken, match="unknown to the tokenizer"):
        model.token_id("Zwollé9")


def test_ids_are_checked_whatever_they_come_as():
    import numpy as np
    import torch

    model = reader("llama 2")
    assert [model.token_id(i) for i in (5, np.int64(5), torch.tensor(5), "<id 5>")] == [5] * 4
    for wrong in (True, 5.0, None, -1, model.d_vocab, [5], b"a"):
        with pytest.raises(errors.UnknownToken):
            model.token_id(wrong)


def test_without_a_tokenizer_ids_are_their_own_names(tiny):
    assert tiny.token_texts([5, 0]) == ["<5>", "<0>"]
    assert tiny.text([5, 0]) == "<5><0>"
    assert tiny.token_kinds([5]) == ["unknown"]
    assert tiny.token_id("<5>") == 5
    with pytest.raises(errors.NoTokenizer):
        tiny.token_id("a")
    assert tiny.generate([5, 6], max_new_tokens=1, stop=()).text.startswith("<")


def test_tokens_added_later_are_seen():
    model = reader("gemma")
    model.token_texts([0])
    new = len(model.tokenizer)
    try:
        model.tokenizer.add_tokens(["novel"])
        assert model.token_texts([new]) == ["novel"]
    finally:
        tokenizer.cache_clear()
        reader.cache_clear()


def test_a_thousand_texts_take_under_five_milliseconds(smollm2):
    smollm2.token_texts([0])
    ids = [*range(0, 40_000, 40)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        smollm2.token_texts(ids)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.005
