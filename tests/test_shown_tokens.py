"""Tokens as they are shown: nothing hidden, no two alike, typed back (web/tests/tokens.test.ts holds the page to the list)."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from residscope.directions import logit_diff
from residscope.shown_tokens import as_label, typed, visible

CASES = json.loads((Path(__file__).parent / "shown_tokens.json").read_text())
LABELS = json.loads((Path(__file__).parent / "labels.json").read_text())
HIDDEN = {"Cc", "Cf", "Zs", "Zl", "Zp", "Co"}


def test_the_list_that_the_page_is_held_to_is_true() -> None:
    assert [visible(case["name"]) for case in CASES] == [case["shown"] for case in CASES]
    shown = {case["name"]: case["shown"] for case in CASES}
    expected = {
        " Mary": "·Mary", "\r\n": "␍↵", "\t": "⇥", "·": "⟨b7⟩", " <0xF0><0x9F>": "·⟨xF09F⟩", "<0xE2><0x80>x": "⟨xE280⟩x",
        "<id 49160>": "<id 49160>", "abc\u202edef": "abc⟨202e⟩def", "\u0301": "◌\u0301", "e\u0301": "e\u0301",
        "\u200b": "⟨200b⟩", "\u00a0": "⟨a0⟩", "مرحبا": "مرحبا",
    }  # fmt: skip
    assert {name: shown[name] for name in expected} == expected


def test_every_token_of_the_default_model_is_shown_as_no_other_and_typed_back(smollm2) -> None:
    names = smollm2.token_texts(range(smollm2.d_vocab))
    shown = [visible(name) for name in names]
    assert len({*shown}) == smollm2.d_vocab
    assert [smollm2.token_id(typed(text)) for text in shown] == [*range(smollm2.d_vocab)]
    assert not [text for text in shown if any(unicodedata.category(c) in HIDDEN - {"Zs"} for c in text)]
    assert not [text for text in shown if " " in text]


@settings(deadline=None, max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@example("◌\u0301")
@example("⟨x⟩⟨xE⟩⟨xE2⟩")
@example("∅")
def test_whatever_a_token_is_called_it_is_typed_back(name: str) -> None:
    shown = visible(name)
    assert typed(shown) == name
    assert not any(unicodedata.category(c) in HIDDEN for c in shown if c != " ")


def test_the_difference_of_two_tokens_names_both(smollm2) -> None:
    for positive, negative, name in (
        (" Mary", " John", "Mary - John"),
        (" Mary", "Mary", "·Mary - Mary"),
        ("\n", " the", "↵ - the"),
        ("\n", "\r\n", "↵ - ␍↵"),
        (" ", "<0xE2><0x80>", "· - ⟨xE280⟩"),
    ):
        assert logit_diff(smollm2, positive, negative).name == name


@pytest.mark.parametrize("case", LABELS, ids=lambda case: ascii(case["text"]))
def test_a_label_hides_nothing_and_keeps_its_words(case: dict[str, str]) -> None:
    assert as_label(case["text"]) == case["label"]


@given(st.text(max_size=12))
def test_a_label_is_one_line_of_what_has_ink(text: str) -> None:
    label = as_label(text)
    assert label
    assert all(character == " " or unicodedata.category(character) not in HIDDEN | {"Cs"} for character in label)
    assert label == label.strip(" ")
