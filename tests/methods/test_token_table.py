"""The tokens of a text: what the tokenizer itself gives, and the same text in another model, aligned by character."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from browser.conftest import byte_tokenizer
from residscope.errors import BadArguments, BadPrompt, ModelNotFound, NoTokenizer
from residscope.methods.reading.token_table import Read, TokenRow, align_reads
from tiny_models import tiny_llama

TEXT = "When John met 👩 é<|im_end|> Maryland, 17th"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tokenizer that reads bytes, by itself in a folder."""
    path = tmp_path_factory.mktemp("bytes")
    byte_tokenizer(path)
    return str(path)


def test_ids_bytes_and_kinds_are_the_tokenizers(smollm2):
    read = rs.token_table(smollm2, TEXT).first
    assert [row.id for row in read.rows] == smollm2.tokenizer(TEXT)["input_ids"]
    assert [row.text for row in read.rows] == smollm2.token_texts([row.id for row in read.rows])
    assert read.text == TEXT
    special = [row for row in read.rows if row.sort == "special"]
    assert [row.text for row in special] == ["<|im_end|>"]
    spelled = b"".join(bytes.fromhex(row.bytes) for row in read.rows)
    assert spelled == TEXT.replace("<|im_end|>", "").encode()
    offsets = smollm2.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    ends = [row.end for row in read.rows if row.sort == "text"]
    assert ends == [end for (_, end), row in zip(offsets, read.rows, strict=True) if row.sort == "text"]


def test_words_and_their_variants(smollm2):
    rows = rs.token_table(smollm2, "John met johnny").first.rows
    assert [row.word for row in rows][:2] == [0, 1]
    assert {row.word for row in rows[2:]} == {2}
    for form, n in rows[0].variants:
        assert n == len(smollm2.tokenizer(form, add_special_tokens=False)["input_ids"])
    assert [form for form, _ in rows[0].variants] == [" John", "John", " john", "john"]


def test_the_name_of_a_model_reads_its_tokenizer_alone(smollm2, monkeypatch):
    import transformers

    def none(*_, **__):
        raise AssertionError("weights are read")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", none)
    assert rs.token_table("smollm2-135m", TEXT).first == rs.token_table(smollm2, TEXT).first


def test_another_model_is_aligned_by_character(smollm2, folder):
    made = rs.token_table(smollm2, TEXT, others=[folder])
    own, other = made.reads
    assert other.text == TEXT
    (groups,) = made.groups
    assert [a for a, *_ in groups[1:]] == [b for _, b, *_ in groups[:-1]]
    assert (groups[-1][1], groups[-1][3]) == (len(own.rows), len(other.rows))
    for a, b, c, d in groups:
        assert own.rows[b - 1].end == other.rows[d - 1].end
        assert own.rows[a].start == other.rows[c].start
    lines = [row[0] for row in made.aligned().rows]
    assert "·👩" in lines
    assert "·Maryland" in lines


@given(st.lists(st.integers(1, 3), min_size=1, max_size=8), st.lists(st.integers(1, 3), min_size=1, max_size=8))
@settings(max_examples=60)
def test_runs_are_the_smallest_that_end_together(one, other):
    n = min(sum(one), sum(other))

    def cut(sizes):
        ends, at = [], 0
        for size in sizes:
            at = min(n, at + size)
            ends.append(at)
            if at == n:
                return ends
        return ends

    reads = []
    for ends in (cut(one), cut(other)):
        starts = [0, *ends[:-1]]
        rows = tuple(
            TokenRow(i, i, "", "", "text", a, b, None, ()) for i, (a, b) in enumerate(zip(starts, ends, strict=True))
        )
        reads.append(Read("x", "y" * n, rows))
    found = [reads[0].rows[b - 1].end for _, b, _, _ in align_reads(*reads)]
    assert found == sorted({row.end for row in reads[0].rows} & {row.end for row in reads[1].rows})


def test_what_cannot_be_read_is_refused(smollm2, folder):
    with pytest.raises(ModelNotFound, match="not on this machine"):
        rs.token_table("gpt2", "a")
    with pytest.raises(NoTokenizer):
        rs.token_table(rs.load((tiny_llama(), None)), "a")
    with pytest.raises(BadArguments):
        rs.token_table(smollm2, "a", others="gpt2")
    with pytest.raises(BadArguments):
        rs.token_table(5, "a")
    with pytest.raises(BadPrompt):
        rs.token_table(smollm2, "")


def test_it_is_kept_and_written(smollm2, folder, tmp_path):
    made = rs.token_table(smollm2, TEXT, others=[folder])
    made.save(tmp_path / "t.safetensors")
    assert rs.load_item(tmp_path / "t.safetensors") == made
    frame = made.to_dataframe()
    assert len(frame) == sum(len(read.rows) for read in made.reads)


def test_the_command_line_says_the_same(smollm2, folder):
    source = str(Path(rs.__file__).parents[1])
    command = [sys.executable, "-m", "residscope", "tokens", TEXT, "--model", "smollm2-135m", folder, "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**__import__("os").environ, "PYTHONPATH": source}
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    made = rs.token_table(smollm2, TEXT, others=[folder])
    assert [[row["id"] for row in read["rows"]] for read in told["reads"]] == [
        [r.id for r in read.rows] for read in made.reads
    ]
    assert told["groups"] == [[list(group) for group in groups] for groups in made.groups]
