"""What may be run: every form runs as the ids it means or is refused with words, and padding is never text."""

import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding

import residscope as rs
from residscope import errors
from residscope.engine.model import Model
from residscope.model.prompts import Batch
from session import worlds
from tiny_models import VOCAB, tiny_llama
from tokenizers_of_every_kind import KINDS, WORDS, reader, tokenizer

PAD, A, B = 3, [5, 6, 7, 8, 9], [10, 11]
TEXTS = ["Mary and John went to the store", "the milk"]


def kept(batch: Batch) -> list[list[int]]:
    return [row[:end] for row, end in zip(batch.ids.tolist(), batch.lengths, strict=True)]


FORMS = {
    "list": lambda ids: ids,
    "tuple": tuple,
    "generator": lambda ids: (i for i in ids),
    "array": np.array,
    "narrow array": lambda ids: np.array(ids, dtype=np.uint8),
    "object array": lambda ids: np.array(ids, dtype=object),
    "tensor": torch.tensor,
    "int32 tensor": lambda ids: torch.tensor(ids, dtype=torch.int32),
    "int16 tensor": lambda ids: torch.tensor(ids, dtype=torch.int16),
    "numpy ints": lambda ids: [np.int64(i) for i in ids],
    "tensors of one": lambda ids: [torch.tensor(i) for i in ids],
    "dict": lambda ids: {"input_ids": ids, "attention_mask": [1] * len(ids)},
    "encoding of tensors": lambda ids: BatchEncoding({"input_ids": [ids], "attention_mask": [[1] * len(ids)]}, tensor_type="pt"),
    "a row": lambda ids: torch.tensor([ids]),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_ids_are_taken_in_every_form(llama, form):
    expected = llama.run([A], ["logits"]).logits
    torch.testing.assert_close(llama.run(FORMS[form](A), ["logits"]).logits, expected)
    assert kept(llama.batch(FORMS[form](A))) == [A]
    if form not in ("a row", "encoding of tensors"):
        assert kept(llama.batch([FORMS[form](A), FORMS[form](B)])) == [A, B]
        assert kept(llama.batch(rs.PromptSet((FORMS[form](A), FORMS[form](B))))) == [A, B]
    assert llama.generate(FORMS[form](A), max_new_tokens=2).ids == llama.generate([A], max_new_tokens=2).ids
    assert llama.tokens(FORMS[form](A)).tolist() == [A]


def test_several_rows_in_the_forms_that_hold_them(llama):
    rows = [A, [*B, 12, 13, 14]]
    object_rows = np.empty(2, dtype=object)
    object_rows[:] = [A, B]
    for form in (
        np.array(rows),
        torch.tensor(rows),
        tuple(map(tuple, rows)),
        [torch.tensor(row)[None] for row in rows],
    ):
        assert kept(llama.batch(form)) == rows
    assert kept(llama.batch(object_rows)) == [A, B]
    assert kept(llama.batch(range(4, 7))) == [[4, 5, 6]]
    assert kept(llama.batch([range(4, 7), range(2)])) == [[4, 5, 6], [0, 1]]


def test_texts_in_the_forms_that_hold_them():
    model = reader("llama 2")
    expected = kept(model.batch(TEXTS))
    for form in (tuple(TEXTS), np.array(TEXTS), (text for text in TEXTS), dict.fromkeys(TEXTS).keys()):
        assert kept(model.batch(form)) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", [False, True])
def test_a_tokenizers_own_output_runs_as_each_text_alone(kind, side, bos):
    model, words = reader(kind, bos=bos), tokenizer(kind)
    words.padding_side = side
    try:
        out = words(TEXTS, padding=True, return_tensors="pt")
        lists = words(TEXTS, padding=True)
        encodings = words(TEXTS).encodings
        wide = words(TEXTS[1], padding="max_length", max_length=30, return_tensors="np")
    finally:
        words.padding_side = "right"
    assert len({*map(len, words(TEXTS)["input_ids"])}) == 2
    alone = [model.run(text, ["logits"], bos=False).logits[0] for text in TEXTS]
    for given_ in (out, dict(out), lists, encodings):
        together = model.run(given_, ["logits"])
        for row, logits in enumerate(alone):
            torch.testing.assert_close(together.logits[row, : together.lengths[row]], logits)
        assert together.top(1, row=0)[0][:2] == model.run(TEXTS[0], bos=False).top(1)[0][:2]
    torch.testing.assert_close(model.run(wide, ["logits"]).logits[0], alone[1])
    for bare in (out["input_ids"], lists["input_ids"], {"input_ids": lists["input_ids"]}, wide["input_ids"]):
        with pytest.raises(errors.PaddedPrompt, match="attention_mask"):
            model.run(bare)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=1, max_size=4), st.data())
def test_a_mask_takes_padding_off_on_either_side(llama, rows, data):
    longest = max(map(len, rows))
    befores = [data.draw(st.integers(0, 3 + longest - len(row))) for row in rows]
    afters = [longest + 3 - before - len(row) for before, row in zip(befores, rows, strict=True)]
    filler = data.draw(st.integers(0, VOCAB - 1))
    ids, mask = (
        [[fill] * b + middle(row) + [fill] * a for b, row, a in zip(befores, rows, afters, strict=True)]
        for fill, middle in ((filler, list), (0, lambda row: [1] * len(row)))
    )
    kind = data.draw(st.sampled_from([np.array, torch.tensor, list]))
    together = llama.run({"input_ids": kind(ids), "attention_mask": kind(mask)}, ["logits"])
    assert kept(together.batch) == rows
    for i, row in enumerate(rows):
        alone = llama.run([row], ["logits"]).logits[0]
        torch.testing.assert_close(together.logits[i, : len(row)], alone, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_what_tokens_returns_runs_exactly(kind, tmp_path):
    model = reader(kind)
    ids = model.tokens(TEXTS)
    short, long = sorted(model.batch(TEXTS).lengths)
    assert ids[1, short:].tolist() == [PAD] * (long - short)
    texts, tokens = model.run(TEXTS, ["logits"]), model.run(ids, ["logits"])
    assert tokens.lengths == texts.lengths
    torch.testing.assert_close(tokens.logits, texts.logits)
    torch.testing.assert_close(model.run(tokens.tokens, ["logits"]).logits, texts.logits)
    rs.save_recording(tokens, tmp_path / "run.safetensors")
    again = rs.load_recording(tmp_path / "run.safetensors", model)
    assert model.run(again.tokens, ["logits"]).lengths == texts.lengths
    with pytest.raises(errors.PaddedPrompt):
        model.run(ids.clone())
    changed = model.tokens(TEXTS)
    changed[1, short] = 9
    with pytest.raises(errors.PaddedPrompt):  # no longer what tokens returned
        model.run(changed)


def test_the_certificates_own_prompt_may_hold_padding_ids():
    hf = reader("byte level").hf
    first = int(torch.randint(0, hf.config.vocab_size, (2, 1, 6), generator=torch.Generator().manual_seed(0))[0, 0, 0])
    words = tokenizer("byte level").__class__(tokenizer_object=KINDS["byte level"](), eos_token="</s>")
    words.pad_token = words.convert_ids_to_tokens(first)
    assert words.pad_token_id == first
    assert rs.load((hf, words)).certificate.passed


def gpt2_like(pad_token):
    """A tokenizer whose one special token begins, ends and pads."""
    words = tokenizer("byte level").__class__(tokenizer_object=KINDS["byte level"](), bos_token="<s>", eos_token="<s>")
    words.pad_token = pad_token
    return Model(reader("byte level").hf, words, name="gpt2-like", bos=False)


@pytest.mark.parametrize("pad_token", ["<s>", None])
def test_one_token_that_begins_ends_and_pads(pad_token):
    model = gpt2_like(pad_token)
    bos = model.tokenizer.bos_token_id
    for rows in ([[bos, 5, 6], [bos, 7, 8]], [[bos] * 40], [[bos, bos, bos, 5]], [[5, 6, bos], [7, 8, bos]]):
        assert kept(model.batch(torch.tensor(rows))) == rows == kept(model.batch(rows))
    for rows in ([[bos, 5, 6], [bos, bos, 8]], [[5, 6, 7], [5, bos, bos]], [[bos, 5, 6], [4, 5, 6]]):
        assert kept(model.batch(rows)) == rows  # lists say where they end
        mask = torch.ones(2, 3, dtype=torch.long)
        assert kept(model.batch({"input_ids": torch.tensor(rows), "attention_mask": mask})) == rows
        for bare in (torch.tensor(rows), np.array(rows), {"input_ids": rows}):
            with pytest.raises(errors.PaddedPrompt, match="look padded"):
                model.batch(bare)
    assert model.run(model.tokens(TEXTS)).lengths == model.batch(TEXTS).lengths


def test_a_repeated_token_is_a_prompt():
    model = reader("llama 2")
    for ids in ([1] * 200, [[PAD] * 5], torch.full((1, 200), 1), torch.full((2, 9), PAD)):
        assert {*model.batch(ids).ids.flatten().tolist()} <= {1, PAD}
    assert len(Model(tiny_llama()).batch([1] * 64)) == 1


REFUSED = {
    "None": (None, errors.BadPrompt),
    "bytes": (b"Mary", errors.BadPrompt),
    "rows of bytes": ([b"Mary"], errors.BadPrompt),
    "a float": (5.0, errors.BadPrompt),
    "floats": ([5.0, 6.0], errors.BadPrompt),
    "an array of floats": (np.array([5.0]), errors.BadPrompt),
    "a tensor of floats": (torch.tensor([[5.0]]), errors.BadPrompt),
    "an int": (5, errors.BadPrompt),
    "bools": ([True, False], errors.BadPrompt),
    "a tensor of bools": (torch.tensor([True]), errors.BadPrompt),
    "numpy bools": (np.array([True]), errors.BadPrompt),
    "dates": ([np.datetime64(5, "ns")], errors.BadPrompt),
    "a set": ({5, 6}, errors.BadPrompt),
    "an object": (object(), errors.BadPrompt),
    "too deep": ([[[5, 6]]], errors.BadPrompt),
    "too deep a tensor": (torch.ones(1, 1, 2, dtype=torch.long), errors.BadPrompt),
    "text and ids": (["Mary", 5], errors.BadPrompt),
    "text and rows": (["Mary", [5]], errors.BadPrompt),
    "ids and rows": ([5, [6]], errors.BadPrompt),
    "None among ids": ([5, None], errors.BadPrompt),
    "None among texts": (["Mary", None], errors.BadPrompt),
    "a masked array": (np.ma.masked_equal([5, 6], 6), errors.BadPrompt),
    "no text": ("", errors.EmptyPrompt),
    "no rows": ([], errors.EmptyPrompt),
    "an empty row": ([[5], []], errors.EmptyPrompt),
    "an empty text": (["Mary", ""], errors.EmptyPrompt),
    "an empty array": (np.array([]), errors.EmptyPrompt),
    "an empty tensor": (torch.ones(0, 3, dtype=torch.long), errors.EmptyPrompt),
    "half a character": ("Mary \ud83d", errors.BadPrompt),
    "NUL": ("Mary\0John", errors.BadPrompt),
    "a negative id": ([5, -1], errors.UnknownToken),
    "an id beyond": ([5, 10**6], errors.UnknownToken),
    "a huge id": ([5, 2**80], errors.UnknownToken),
    "an empty dict": ({}, errors.BadPrompt),
    "words by name": ({"text": "Mary"}, errors.BadPrompt),
    "text as ids": ({"input_ids": "Mary"}, errors.BadPrompt),
    "embeddings": ({"inputs_embeds": torch.ones(1, 2, 16)}, errors.BadPrompt),
    "ids and embeddings": ({"input_ids": A, "inputs_embeds": torch.ones(1, 5, 16)}, errors.BadPrompt),
    "own positions": ({"input_ids": A, "position_ids": A}, errors.BadPrompt),
    "token types": ({"input_ids": B, "token_type_ids": [0, 1]}, errors.BadPrompt),
    "a mask with holes": ({"input_ids": A, "attention_mask": [1, 0, 1, 1, 1]}, errors.PaddedPrompt),
    "a mask of nothing": ({"input_ids": A, "attention_mask": [0] * 5}, errors.EmptyPrompt),
    "a short mask": ({"input_ids": A, "attention_mask": [1]}, errors.BadPrompt),
    "a mask of rows": ({"input_ids": A, "attention_mask": [[1], [1]]}, errors.BadPrompt),
    "a mask of halves": ({"input_ids": B, "attention_mask": [0.5, 1]}, errors.BadPrompt),
    "a square mask": ({"input_ids": [B], "attention_mask": torch.ones(1, 2, 2)}, errors.BadPrompt),
    "a message": ({"role": "user", "content": "Mary"}, errors.BadPrompt),
    "messages": ([{"role": "user", "content": "Mary"}], errors.BadPrompt),
    "too long": ([5] * 300, errors.PromptTooLong),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_prompt_is_refused_with_words(what):
    model, (prompt, kind) = reader("llama 2"), REFUSED[what]
    for run in (model.run, model.batch, model.tokens, model.generate):
        with pytest.raises(kind) as refused:
            run(prompt)
        assert refused.value.received
        assert refused.value.allowed or refused.value.fix
        assert len(str(refused.value)) < 700
    with pytest.raises(errors.PromptError):
        rs.sweep(model, prompt, [()], rs.log_prob(5))


def test_a_mapping_says_what_to_do():
    model = reader("llama 2")
    with pytest.raises(errors.BadPrompt, match="leave out position_ids"):
        model.run({"input_ids": A, "position_ids": A})
    with pytest.raises(errors.BadPrompt, match=r"model\.chat"):
        model.run([{"role": "user", "content": "Mary"}])


def test_files_and_tables_are_refused(tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "text.txt").write_text("Mary")
    model = reader("llama 2")
    with (tmp_path / "text.txt").open() as file, pytest.raises(errors.BadPrompt):
        model.batch(file)
    with pytest.raises(errors.BadPrompt, match="table"):
        model.batch(pandas.DataFrame({"text": ["Mary"]}))
    assert kept(model.batch(pandas.Series(TEXTS))) == kept(model.batch(TEXTS))


def nested(inner):
    return st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.sampled_from(
        ["input_ids", "attention_mask", "token_type_ids", "role", "x"]), inner, max_size=3)  # fmt: skip


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 120) | st.floats() | st.text(max_size=4) | st.binary(max_size=3)
    | st.sampled_from([np.int8(4), np.float32(1), np.array(3), torch.tensor(4), torch.tensor([True]), np.array([["a"]])])
    | st.lists(st.integers(0, 90), min_size=1, max_size=3).map(torch.tensor)
    | st.lists(st.integers(0, 90), min_size=1, max_size=3).map(np.array),
    nested, max_leaves=8,
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(ANYTHING)
@example("\ud83d")
@example([[]])
def test_anything_at_all_is_ids_or_is_refused(thing):
    model = reader("llama 2")
    with suppress(errors.PromptError):
        batch = model.batch(thing)
        assert len(batch) == len(batch.lengths) >= 1
        assert all(0 <= i < model.d_vocab for row in kept(batch) for i in row)
        assert all(kept(batch))
    with suppress(errors.PromptError):
        rs.PromptSet(thing if isinstance(thing, tuple) else (thing,))


def test_prompt_sets_hold_tuples_whatever_came():
    data = rs.PromptSet((np.array(A), torch.tensor(B)), corrupted=([*A], [*B]))
    assert data.prompts == data.corrupted == (tuple(A), tuple(B))
    assert rs.PromptSet(tokenizer("llama 2")(TEXTS, padding=True)).prompts == tuple(
        map(tuple, tokenizer("llama 2")(TEXTS)["input_ids"])
    )
    with pytest.raises(errors.PaddedPrompt):
        rs.PromptSet(np.array([A, A]))
    with pytest.raises(errors.BadPrompt):
        rs.PromptSet((5.5,))
    assert rs.PromptSet("Mary").prompts == ("Mary",)


def test_bos_is_refused_where_there_is_none():
    words = tokenizer("byte level").__class__(tokenizer_object=KINDS["byte level"](), eos_token="</s>")
    model = Model(reader("byte level").hf, words)
    assert model.bos is False
    assert model.run("Mary").lengths == model.run("Mary", bos=False).lengths
    for call in (model.tokens, model.run, model.generate, model.batch):
        with pytest.raises(errors.NoBOS, match="no BOS"):
            call("Mary", bos=True)


def test_what_the_tokenizer_would_drop_is_refused():
    model = worlds.model()
    with pytest.raises(errors.BadPrompt, match="would drop it") as refused:
        model.run("caf\u00e9 \u00e9 \u65e5")
    assert refused.value.received == "'\u00e9', '\u65e5'"
    assert model.run("<s>a").lengths == (2,)


def test_a_text_that_leaves_no_token_is_empty():
    with pytest.raises(errors.EmptyPrompt):
        reader("word level", bos=True).run("   ")


TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "<s>{{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
)


@pytest.fixture
def talker():
    model = gpt2_like(None)
    model.tokenizer.chat_template = TEMPLATE
    return model


def test_a_conversation_goes_through_the_template(talker):
    expected = talker.tokens("<s>the milk</s><s>", bos=False)
    for messages in ([{"role": "user", "content": "the milk"}], ({"role": "user", "content": "the milk"},)):
        assert torch.equal(talker.chat(messages), expected)
    assert talker.chat([{"role": "user", "content": "the milk"}], answer=False).shape[1] == expected.shape[1] - 1


@pytest.mark.parametrize(
    "messages",
    [
        "the milk", b"the", None, 5, {"role": "user", "content": "a"}, ["the milk"], [{"content": "a"}], [{"role": "user"}],
        [{"role": 5, "content": "a"}], [{"role": "user", "content": None}], [{"role": "user", "content": 5}], [None],
        [{"role": "system", "content": "a"}], [[{"role": "user", "content": "a"}]],
    ],
)  # fmt: skip
def test_messages_of_another_shape_are_refused(talker, messages):
    with pytest.raises(errors.BadConversation):
        talker.chat(messages)


def test_a_conversation_of_nothing_and_without_a_template(talker):
    with pytest.raises(errors.EmptyPrompt):
        talker.chat([])
    with pytest.raises(errors.BadConversation, match="no system turn"):
        talker.chat([{"role": "system", "content": "a"}])
    with pytest.raises(errors.BadPrompt):
        talker.chat([{"role": "user", "content": "\ud83d"}])
    talker.tokenizer.chat_template = "{{ nothing.of.this }}{% endfor %}"
    with pytest.raises(errors.BadConversation):
        talker.chat([{"role": "user", "content": "a"}])
    with pytest.raises(errors.NoChatTemplate):
        reader("llama 2").chat([{"role": "user", "content": "a"}])


def test_a_text_becomes_a_batch_in_a_fifth_of_a_millisecond():
    model, text = reader("byte level"), " ".join(WORDS)

    def best(call):
        times = []
        for _ in range(200):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    alone = best(lambda: model.tokenizer(text, add_special_tokens=False))
    assert best(lambda: model.batch(text)) - alone < 0.0002
