"""The one reader of a corpus: rows are pieces of its texts, where they say; what no tokenizer reads is left out and counted."""

import re
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from corpus.readings import model
from methods.readers import TEXTS, reader
from residscope import errors
from residscope.corpus.held_out import held_out
from residscope.corpus.reading import UNREAD, Reader
from residscope.engine.model import Model
from residscope.methods.evidence.blind_contexts import contexts
from tiny_models import tiny_llama

PRINTABLE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=90)
SPOILED = [f"{text[:9]}\0{text[9:]}é\ud83d" for text in TEXTS]  # three characters of each have no token


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def by_hand(texts, length, least, skip, tokens):
    """Pieces as (text, start, characters): one token is one character here."""
    found, gone = [], 0
    for number, text in enumerate(texts):
        begin = max(0, skip - gone)
        gone += len(text)
        for piece in re.finditer(f".{{1,{length}}}", text[begin:], re.DOTALL):
            if len(piece[0]) >= least and sum(len(words) for *_, words in found) < tokens:
                found.append((number, begin + piece.start(), piece[0]))
    return found


@settings(deadline=None)
@given(st.lists(PRINTABLE, max_size=6), st.integers(1, 30), st.integers(1, 12), st.integers(0, 60), st.integers(1, 200))
def test_rows_are_pieces_of_their_texts(texts, length, least, skip, tokens):
    rows = []
    with suppress(errors.EmptyCorpus):
        rows = [*Reader(model(), texts).rows(length=length, tokens=tokens, least=least, skip=skip)]
    assert [(row.text, row.start, model().text(row.ids)) for row in rows] == by_hand(texts, length, least, skip, tokens)


def test_rows_are_cut_to_a_budget():
    def lengths(texts, **how):
        return [len(row.ids) for row in Reader(model(), texts).rows(**how)]

    assert lengths(["a" * 20, "b" * 5], length=8, tokens=100) == [8, 8]
    assert lengths(["a" * 80], length=8, tokens=20) == [8, 8, 8]
    assert lengths(["a" * 20, "b" * 30], length=10, tokens=100, least=10, skip=25) == [10, 10]
    with pytest.raises(errors.EmptyCorpus, match="8 tokens"):
        lengths(["a" * 7], length=8, tokens=20)
    with pytest.raises(errors.CorpusError, match="text 1 is no text"):
        lengths(iter(["a" * 20, b"bytes"]), length=8, tokens=100)


# ── what no tokenizer reads ─────────────────────────────────────────────────────────────────────────────────────

METHODS = {
    "pca": lambda of, texts: rs.pca(of, texts, "resid_post.1", 2, tokens=600),
    "svd": lambda of, texts: rs.svd(of, texts, "resid_post.1", 2, tokens=600),
    "nmf": lambda of, texts: rs.nmf(of, texts, "resid_post.1", 2, clip=True, tokens=600),
    "mean_difference": lambda of, texts: rs.mean_difference(
        of, {"a": texts[:30], "b": texts[30:]}, "resid_post.1", tokens=300
    ),
    "top_examples": lambda of, texts: rs.top_examples(of, direction(of), texts, tokens=600),
    "null_directions": lambda of, texts: rs.null_directions(of, direction(of), texts, tokens=600, n=9),
    "stability": lambda of, texts: rs.stability(of, direction(of), texts, tokens=600),
    "evidence": lambda of, texts: rs.evidence(of, direction(of), texts, tokens=600, prompts=3, length=8, random=4),
}


def direction(of):
    return rs.pca(of, TEXTS, "resid_post.2", 2, tokens=600)[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_text_is_read_without_what_has_no_token_and_says_of_how_many_characters(name):
    of = reader()
    spoiled, plain = (METHODS[name](of, texts) for texts in (SPOILED, TEXTS))
    assert UNREAD not in plain.provenance
    said = spoiled.provenance[UNREAD]
    if name == "mean_difference":
        assert said == {"a": 3 * read(plain, "a"), "b": 3 * read(plain, "b")}
    else:
        assert said > 0
        assert said % 3 == 0
    for part in ("read", "values", "cosine"):
        if hasattr(plain, part):
            a, b = (getattr(found, part) for found in (spoiled, plain))
            assert torch.equal(*(x if isinstance(x, torch.Tensor) else x.values for x in (a, b))), part


def read(found, name):
    """How many texts it takes to give 300 tokens."""
    texts, tokens = {"a": TEXTS[:30], "b": TEXTS[30:]}[name], 0
    for number, text in enumerate(texts, 1):
        tokens += len(text)
        if tokens >= 300:
            return number
    return len(texts)


def test_prompts_from_a_text_are_pieces_of_it_without_what_has_no_token():
    of = reader()
    held = held_out(of, SPOILED, skip=100, n=4, length=10)
    assert "characters without a token" in held.origin
    assert "characters" not in held_out(of, TEXTS, skip=100, n=4, length=10).origin
    drawn = rs.draw_prompts(of, [f"{text}. {bad}" for text, bad in zip(TEXTS, SPOILED, strict=True)], 5, length=6)
    assert len(drawn) == 5
    for text in drawn.texts:
        assert any(text in whole for whole in TEXTS)
    clean = ["abc abcd cab " * 8] * 20
    found = contexts(of, direction(of), source=[*SPOILED, *clean], n=3, length=6, candidates=12)
    assert {token for one in found for token in one.tokens} <= {*"abcdefgh "}


# ── one text ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_is_encoded_as_its_prompt_is():
    of = model()
    assert of.encode("abc") == of.tokens("abc")[0].tolist()
    assert of.encode("abc", bos=True) == of.tokens("abc", bos=True)[0].tolist() == [0, *of.encode("abc")]
    assert of.encode("") == []
    assert len(of.encode("ab" * 500)) == 1000, "longer than the context"
    for bad in ("a\0b", "caf\u00e9", "\ud83d"):
        with pytest.raises(errors.BadPrompt):
            of.encode(bad)
    with pytest.raises(errors.NoTokenizer):
        Model(tiny_llama(), name="mute").encode("abc")


def test_a_table_with_an_unreadable_cell_names_the_line_and_the_column():
    with pytest.raises(errors.BadTable, match="line 3, column corrupted: the text holds a NUL"):
        rs.tasks.from_text(model(), "text,corrupted\nfine,fine\nfine,f\0ne\n", name="some.csv")
    with pytest.raises(errors.BadTable, match="line 2, column text: the tokenizer has no token"):
        rs.tasks.from_text(model(), "text\ncaf\u00e9\n", name="some.csv")
