"""Packing, shuffling, splits and going on, each against the plainest way: lists joined and cut by hand."""

import json
import tracemalloc
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import residscope as rs
from corpus.readings import model
from loopback_hub import COMMIT
from residscope import errors
from residscope.corpus.held_out import held_out
from residscope.corpus.reading import PACKED, Reader
from residscope.engine import encoding
from residscope.engine.model import Model
from residscope.engine.sinks import kept
from session import worlds
from tiny_models import tiny_llama

LINES = st.lists(st.text("abc \n.", max_size=40), max_size=12)
BOS, EOS = 0, 1


def with_bos() -> Model:
    return Model(tiny_llama(), worlds.tokenizer(), bos=True)


def ids_of(text: str) -> list[int]:
    return [ord(c) - 30 for c in text if 32 <= ord(c) < 127]


def packed(of, texts, **how):
    rows = Reader(of, rs.text(texts, pack=True, cache=False)).rows(length=16, tokens=10**6, **how)
    return [row.ids for row in rows]


@settings(deadline=None, max_examples=60)
@given(LINES, st.booleans(), st.integers(1, 8))
def test_packed_rows_are_the_documents_joined_and_cut(texts, bos, least):
    of = with_bos() if bos else model()
    joined = []
    for text in texts:
        ids = ids_of(text)
        joined += [*([BOS] if bos else []), *ids, EOS] if ids else []
    wanted = [row for i in range(0, len(joined), 16) if len(row := joined[i : i + 16]) >= least]
    if wanted:
        assert packed(of, texts, least=least) == wanted
    else:
        with pytest.raises(errors.EmptyCorpus):
            packed(of, texts, least=least)


def test_a_packed_row_says_which_documents_are_in_it(tmp_path):
    file = tmp_path / "a.jsonl"
    rows = [{"text": "a" * 10, "k": 1}, {"text": "b" * 3, "k": 2}, {"text": "c" * 20, "k": 3}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = Reader(model(), f"{file}?pack&labels=k")
    first, second, third = reader.rows(length=16, tokens=100, least=1)
    assert [(p.text, p.start, p.at, p.labels) for p in first.parts] == [
        (0, 0, 0, {"k": 1}), (1, 0, 11, {"k": 2}), (2, 0, 15, {"k": 3}),
    ]  # fmt: skip
    assert (second.text, second.start, second.labels) == (2, 1, {"k": 3})
    assert (third.start, len(third.ids)) == (17, 4)
    assert [first.text_at(pos).text for pos in (0, 10, 11, 14, 15)] == [0, 0, 1, 1, 2]
    assert reader.about["rows"] == PACKED
    assert reader.about["first tokens"] == 3
    assert reader.about["special tokens"] == 3


def test_what_was_is_as_it_was():
    texts = ["a" * 40, "b" * 9]
    plain, said = (list(Reader(model(), of).rows(length=16, tokens=100)) for of in (texts, rs.text(texts)))
    assert plain == said
    assert [(row.text, row.start, len(row.ids)) for row in plain] == [(0, 0, 16), (0, 16, 16), (0, 32, 8), (1, 0, 9)]


def test_a_text_of_unknown_tokens_alone_is_left_out_and_counted():
    known = {"<s>": 0, "</s>": 1, "<unk>": 2, "word": 3, "other": 4}
    inner = Tokenizer(models.WordLevel(known, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for bos in (False, True):
        of = Model(tiny_llama(), PreTrainedTokenizerFast(tokenizer_object=inner, **names), bos=bos)
        reader = Reader(of, ["nothing of it", "word unheard other", "..."])
        (row,) = reader.rows(length=16, tokens=100, least=1)
        assert (row.text, row.ids) == (1, [*[0] * bos, 3, 2, 4])
        assert reader.unread == len("nothing of it") + 3
        with pytest.raises(errors.EmptyCorpus, match="13 characters without a token"):
            [*Reader(of, ["nothing of it"]).rows(length=16, tokens=100, least=1)]
    with pytest.raises(errors.EmptyCorpus, match="no row of 8 tokens"):
        [*Reader(model(), []).rows(length=16, tokens=100)]


def test_a_model_whose_bos_is_its_end_is_not_given_two():
    tokenizer = worlds.tokenizer()
    tokenizer.eos_token = tokenizer.bos_token
    of = Model(tiny_llama(), tokenizer, bos=True)
    assert packed(of, ["ab", "c"], least=1) == [[BOS, *ids_of("ab"), BOS, *ids_of("c")]]


def test_special_tokens_are_left_out_of_statistics():
    of = model()
    row = [*ids_of("abcd"), EOS, *ids_of("efgh"), BOS, *ids_of("ijkl")]
    recording = of.run([row], ["resid_post.1"])
    plain = of.run([[ids_of("a")[0]] * len(row)], ["resid_post.1"])
    assert kept(recording, "resid_post.1")[0].nonzero().flatten().tolist() == [
        i for i in range(len(row)) if i not in (0, 4, 9)
    ]
    assert int(kept(plain, "resid_post.1").sum()) == len(row) - 1


def test_an_end_of_text_in_a_vocabulary_of_chat(smollm2):
    tokenizer = smollm2.tokenizer
    ids = packed(smollm2, ["A first text of a few words.", "Another one."], least=1)
    joined = [i for row in ids for i in row]
    assert joined == [
        *tokenizer("A first text of a few words.").input_ids, 0, *tokenizer("Another one.").input_ids, 0,
    ]  # fmt: skip
    assert tokenizer.convert_ids_to_tokens(0) == "<|endoftext|>"


# ── shuffling and splits ────────────────────────────────────────────────────────────────────────────────────────

MANY = [f"document {i} of them, with its own words {i * i}" for i in range(300)]


def rows_of(corpus, **how):
    return [row.ids for row in Reader(model(), corpus).rows(length=16, tokens=10**6, least=1, **how)]


@pytest.mark.parametrize("pack", [False, True])
def test_a_shuffle_has_the_same_documents_and_its_seed_says_their_order(pack):
    def read(seed, window=1000):
        return rs.text(MANY, shuffle=seed, window=window, pack=pack, cache=False)

    assert sorted(read(0)) == sorted(MANY)
    assert [*read(0)] == [*read(0)] != [*read(1)]
    assert rows_of(read(0)) == rows_of(read(0)) != rows_of(read(1))
    moved = [MANY.index(text) for text in read(3, window=50)]
    assert all(place // 50 == number // 50 for number, place in enumerate(moved)), "no further than its window"
    assert moved[:50] != [place - 50 for place in moved[50:100]], "each window by its own draw"


def test_rows_are_shuffled_too():
    rows = rows_of(rs.text(MANY[:40], shuffle=0, cache=False))
    starts = [model().text(row).startswith("document") for row in rows]
    assert Counter(map(tuple, rows)) == Counter(map(tuple, rows_of(MANY[:40])))
    assert starts != [True, *[False] * 2] * 40
    assert not starts[1] or not starts[2] or starts[0]


@settings(deadline=None, max_examples=40)
@given(LINES, st.floats(0.01, 0.99))
def test_a_split_parts_the_documents_by_content(texts, share):
    sides = [[*rs.text(texts, split=split, held_out=share)] for split in ("train", "held-out")]
    assert sorted(sides[0] + sides[1]) == sorted(texts)
    assert not {text.strip() for text in sides[0]} & {text.strip() for text in sides[1]}
    doubled = [[*rs.text(texts + texts[::-1], split=split, held_out=share)] for split in ("train", "held-out")]
    assert [sorted(side) for side in doubled] == [sorted(2 * side) for side in sides]
    assert [*rs.text(texts, split="train", held_out=share).other_side] == sides[1]


def test_a_split_holds_out_about_its_share():
    many = [f"text {i}" for i in range(20_000)]
    assert len([*rs.text(many, split="held-out", held_out=0.05)]) == pytest.approx(1000, abs=4 * (950**0.5))
    assert len([*rs.text(many, split="held-out")]) == len([*rs.text(many, split="held-out", held_out=0.05)])
    small = {*rs.text(many, split="held-out", held_out=0.01)}
    assert small < {*rs.text(many, split="held-out", held_out=0.05)}, "a larger share holds out the same and more"


def test_what_is_held_out_of_a_split_is_its_other_side():
    train = rs.text(MANY, split="train", held_out=0.3, cache=False)
    found = held_out(model(), train, skip=10**6, n=5, length=20)
    others = [model().tokens(text)[0].tolist() for text in train.other_side]
    assert all(any(list(window) == ids[s : s + 20] for ids in others for s in (0, 20)) for window in found.prompts)
    assert "the other side" in found.origin


# ── going on ────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=60)
@given(
    texts=LINES, skip=st.sampled_from([0, 0, 20]), taken=st.integers(0, 30),
    pack=st.booleans(), shuffle=st.sampled_from([None, 0, 7]),
    window=st.integers(1, 6), split=st.sampled_from([None, "train"]), least=st.integers(1, 8),
)  # fmt: skip
def test_a_pass_goes_on_with_exactly_the_rows_that_would_have_come(
    texts, skip, taken, pack, shuffle, window, split, least
):
    corpus = rs.text(
        texts, pack=pack, shuffle=shuffle, window=window, split=split, held_out=0.4, cache=False
    )  # fmt: skip
    how = {"length": 7, "tokens": 10**6, "least": least}
    try:
        every = [*Reader(model(), corpus).rows(**how, skip=skip)]
    except errors.EmptyCorpus:
        return
    reader = Reader(model(), corpus)
    first = [*islice(reader.rows(**how, skip=skip), min(taken, len(every)))]
    state = json.loads(json.dumps(reader.state()))
    resumed = Reader.from_state(model(), corpus, state)
    assert resumed.state() == reader.state()
    assert [*first, *resumed.rows(**how, **({} if first else {"skip": skip}))] == every
    whole = Reader(model(), corpus)
    assert len([*whole.rows(**how, skip=skip)]) == len(every)
    assert resumed.about == whole.about


def test_over_files_a_pass_goes_on_without_opening_those_before(tmp_path):
    for i in range(5):
        (tmp_path / f"{i}.txt").write_text("\n\n".join(MANY[60 * i : 60 * i + 60]))
    how = {"length": 16, "tokens": 10**6}
    every = [*Reader(model(), tmp_path).rows(**how)]
    reader = Reader(model(), tmp_path)
    taken = [*islice(reader.rows(**how), len(every) // 2)]
    state = reader.state()
    (tmp_path / "0.txt").write_text("changed")
    assert [*Reader.from_state(model(), tmp_path, state).rows(**how)] == every[len(taken) :]
    (tmp_path / "2.txt").write_text("changed as well")
    with pytest.raises(errors.CorpusError, match="content of the file is not the same"):
        Reader.from_state(model(), tmp_path, state)


def test_a_place_of_another_text_is_refused():
    reader = Reader(model(), rs.text(MANY, shuffle=0))
    next(reader.rows(length=16, tokens=100))
    state = reader.state()
    with pytest.raises(errors.CorpusError, match="the text is not the same"):
        Reader.from_state(model(), rs.text(MANY, shuffle=1), state)
    with pytest.raises(errors.CorpusError, match="content of the file is not the same"):
        Reader.from_state(model(), rs.text(MANY[1:], shuffle=0), state)
    with pytest.raises(errors.CorpusError, match="no place in a text"):
        Reader.from_state(model(), MANY, {"at": 3})
    with pytest.raises(errors.CorpusError, match=r"goes on with the rows.*length=8.*length=16"):
        next(Reader.from_state(model(), rs.text(MANY, shuffle=0), state).rows(length=8, tokens=100))


def test_what_is_skipped_is_what_was_read():
    for corpus in (rs.text(MANY, pack=True, cache=False), MANY):
        every, behind = rows_of(corpus), rows_of(corpus, skip=1000)
        assert every[-len(behind) + 1 :] == behind[1:]
        assert sum(map(len, every)) - sum(map(len, behind)) in range(1000, 1016)


def test_packed_text_is_taken_wherever_a_corpus_is():
    corpus = rs.text(MANY, pack=True, shuffle=0, split="train", cache=False)
    found = rs.pca(model(), corpus, "resid_post.1", 2, tokens=3000)
    assert found.provenance["corpus"] == "texts?pack&shuffle=0&split=train&held_out=0.05"
    rows = [*Reader(model(), corpus).rows(length=128, tokens=3000)]
    x = torch.cat([
        (run := model().run([row.ids], ["resid_post.1"]))["resid_post.1"][0][kept(run, "resid_post.1")[0]] for row in rows
    ])  # fmt: skip
    assert found.provenance["tokens"] == len(x)
    assert torch.allclose(found.mean, x.double().mean(0).float(), atol=1e-5)
    assert rs.top_examples(model(), found[0], corpus, tokens=3000).provenance["special tokens"] > 0
    assert len(rs.draw_prompts(model(), corpus, 5, length=8)) == 5


# ── in one line ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_how_a_text_is_read_can_be_said_in_its_name(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"body": text}) + "\n" for text in MANY))
    line = f"{file}?pack&shuffle=3&split=held-out&held_out=0.2#body"
    reader = Reader(model(), line)
    assert reader.about["corpus"] == line
    said = rs.text(f"{file}#body", pack=True, shuffle=3, split="held-out", held_out=0.2)
    assert [*rs.corpus.text.texts(line)] == [*said]
    assert rs.corpus.text.called(said) == line
    for wrong in ("?pakc", "?shuffle=x", "?split=both", "?held_out=2", "?shuffle", "?pack=maybe", "?window=0"):
        with pytest.raises(errors.CorpusError):
            Reader(model(), f"{file}{wrong}#body")
    with pytest.raises(errors.CorpusError, match="said twice"):
        rs.text(line, pack=True)


def test_a_data_set_read_so_is_found_again(hub):
    from residscope.fields.texts import HubText
    from residscope.world.origins import _read

    line = "hub:someone/stories?pack&shuffle=1"
    name = rs.corpus.text.called(rs.corpus.text.opened(line))
    assert name == f"hub:someone/stories@{COMMIT}?pack&shuffle=1"
    assert sorted(rs.corpus.text.texts(name)) == ["a third story", "another story", "one story"]
    item = SimpleNamespace(provenance={"corpus": name})
    assert _read(HubText(kind="hub", name=line.removeprefix("hub:")), item).name == name.removeprefix("hub:")


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "read", lambda of, text, bos=None: ([5] * (len(text) // 4), 0))
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))
    peaks = []
    for size in (2, 5):
        file = tmp_path / f"{size}.txt"
        with file.open("w") as out:
            for i in range(size * 1000):
                out.write(f"{i:07}" + "lorem ipsum " * 83 + "\n\n")
        tracemalloc.start()
        try:
            rows = Reader(model(), rs.text(file, pack=True, shuffle=0, window=500)).rows(length=64, tokens=10**9)
            tokens = sum(len(row.ids) for row in rows)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert tokens > size * 240_000
    assert peaks[1] < 1.2 * peaks[0] < 30e6


def test_a_page_may_say_it_of_what_it_may_read():
    from residscope.fields.texts import BuiltInText, HubText, read_text
    from residscope.world.session_world import source_of

    assert source_of(BuiltInText(kind="builtin", name="english?pack&shuffle=0")) == "english?pack&shuffle=0"
    assert source_of(BuiltInText(kind="builtin", name="model?seed=1")) == "model?seed=1"
    hub = source_of(HubText(**read_text("hub:org/name@main?pack#body")))
    assert hub == "hub:org/name@main?pack#body"
    for path in ("/etc/passwd", "/etc/notes.txt?pack", "english.txt?pack", "../english?pack"):
        with pytest.raises(errors.CorpusError, match="no built-in text"):
            source_of(BuiltInText(kind="builtin", name=path))
