"""A short draw with a new seed, and the crafted cases, through every reader: read or refused with a type, soon, in little memory.

`RESIDSCOPE_SEED=... pytest tests/hostile` draws the same again. `python -m hostile` draws 2,000 a reader (docs/hostile.md).
"""

import io
import json
import os
import secrets
import sys
from pathlib import Path

import pytest
import torch

import residscope as rs
from hostile.crafted import crafted
from hostile.hunt import hunt
from hostile.mutations import deep
from hostile.others import PLUGIN
from hostile.readers import READERS
from hostile.watched import watched
from hostile.whole import put
from hostile.wire import WIRES
from residscope.declare import METHODS, plugins
from residscope.errors import DamagedFile, FileNotThere, MalformedJSON, ModelNotFound
from residscope.incoming import Unreadable, array_header, content, header, parsed, path_of, torch_values
from residscope.server.parse import parse_json

SEED = os.environ.get("RESIDSCOPE_SEED") or secrets.token_hex(4)
FEW = {
    "a model's folder": 4,
    "a backup": 3,
    "the library's database": 2,
    "a direction handed over": 3,
    "a graph": 4,
    "a session's memory": 4,
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_reads_or_refuses_whatever_it_is_given(name: str) -> None:
    each = FEW.get(name, 8)
    tried = hunt(name, each, SEED, crafts=each)
    assert not tried.faults, "\n".join(tried.faults)
    assert tried.ends.total() == 2 * each


def test_every_reader_has_a_hundred_cases_made_by_hand() -> None:
    few = {name: many for name in READERS if (many := sum(1 for _ in crafted(name))) < 100}
    assert not few


@pytest.mark.parametrize("name", WIRES)
def test_whatever_is_said_over_the_wire_is_answered_and_never_by_a_mistake(name: str) -> None:
    tried = WIRES[name](200, SEED)
    assert not tried.faults, "\n".join(tried.faults)
    assert (tried.random, tried.ends["read"] > 0) == (200, True)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN"])
def test_a_number_that_json_has_not_is_no_message(number: str) -> None:
    with pytest.raises(MalformedJSON):
        parse_json(f'{{"id": {number}, "query": "python"}}')


@pytest.mark.parametrize("words", ["x" * 5000, "/x" * 3000, "a\0b", "~nobody-of-that-name/x"])
def test_words_that_are_no_path_lead_to_nothing(words: str) -> None:
    assert not path_of(words).exists()
    for read in (rs.load, rs.sae.load):
        with pytest.raises((ModelNotFound, FileNotThere)):
            read(words)


NO_FORM = """
from typing import Annotated
from residscope import fields
from residscope.declare import method

@method("hostile-lie", title="Lie")
def lie(model, *, rounds: Annotated[int, fields.count(low="x")] = object()) -> "Nothing": ...
"""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise SystemExit(3)", "SystemExit"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        (PLUGIN.replace("hostile-count", "pca"), "two methods have one id"),
        (NO_FORM, "hostile-lie"),
        ("(", "SyntaxError"),
    ],
)
def test_a_plugin_that_fails_is_named_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    had = dict(METHODS)
    unread = {"other-1.0.dist-info/entry_points.txt": b"\xff", "other-1.0.dist-info/METADATA": b"Name: other\n"}
    put({**READERS["a plugin"].start(), **unread, "hostile_plugin.py": code.encode()}, tmp_path)
    monkeypatch.setattr(plugins, "BROKEN", {})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hostile_plugin", raising=False)
    plugins.load_group.__wrapped__("residscope.methods")  # type: ignore[attr-defined]
    told = str(plugins.BROKEN)
    assert why in told
    assert "residscope.methods: other" in told
    assert had == METHODS


def test_a_tensor_that_says_it_is_larger_than_it_is_stored_is_refused(tmp_path: Path) -> None:
    torch.save({"a": [{"b": torch.ones(1).expand(1 << 40)}]}, tmp_path / "it.pt")
    with pytest.raises(Unreadable, match="larger than what is stored"):
        torch_values(tmp_path / "it.pt")
    own: list[object] = [torch.ones(3)[::2], torch.ones(2, 3).T]
    own.append(own)
    torch.save(own, tmp_path / "it.pt")
    assert len(torch_values(tmp_path / "it.pt")) == 3


@pytest.mark.parametrize(
    "start", [b"", b"\x93NUMPY\x02\0\xff\xff\xff\xff", b"\x93NUMPY\x01\0\x04\0{'a'", b"\x93NUMPY\x01\0\x04\0[[[["]
)
def test_an_array_whose_header_is_none_is_unreadable(start: bytes) -> None:
    with pytest.raises(Unreadable):
        array_header(io.BytesIO(start))


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        "1e999",
        f"[{2**70}]",
        '"\\ud800"',
        '{"\\udfff": 1}',
        deep(300),
        deep(5000),
        "9" * 5000,
        "{",
        "\xff",
    ],
)
def test_json_that_is_none_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        parsed(text.encode("latin-1"))


def test_json_that_is_unusual_is_read() -> None:
    assert parsed('["\\ud83d\\ude00", 18446744073709551615, 1e300, 0.12345678901234567890]') == [
        "😀",
        2**64 - 1,
        1e300,
        0.12345678901234568,
    ]
    assert parsed("[Infinity]", constants=True) == [float("inf")]
    assert json.dumps(parsed(deep(150))) == deep(150)


def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "it")
    for read in (content, header):
        outcome = watched(lambda: read(tmp_path / "it"), 0)  # noqa: B023
        assert outcome.how == "raw"
        assert "Unreadable" in outcome.said
        assert outcome.seconds < 1


def test_the_watch_sees_what_is_raw_slow_and_large() -> None:
    """The planted faults."""
    import time

    import torch

    def slow() -> None:
        while True:
            pass

    def swallowed() -> None:
        try:
            torch.empty(1 << 40)
        except RuntimeError:
            raise DamagedFile("refused, but only after it was asked for") from None

    assert watched(lambda: json.loads("{"), 1).how == "raw"
    assert watched(slow, 1, seconds=0.2).how == "slow"
    assert watched(lambda: time.sleep(9), 1, seconds=0.1).how == "slow"
    assert watched(swallowed, 1).how == "large"
    assert watched(lambda: 1, 1).good
