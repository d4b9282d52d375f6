"""Counterfactuals: as many tokens, one word exchanged, and the metric that the model's own forward gives."""

import re

import pytest
import torch

import residscope as rs
from residscope.errors import BadPrompt, Cancelled, NoTokenizer
from tiny_models import tiny_llama

IOI = "When John and Mary went to the store, John gave a bottle of milk to"
METRIC = rs.logit_diff(" Mary", " John")


@pytest.fixture(scope="module")
def made(smollm2):
    return rs.counterfactuals(smollm2, IOI, METRIC)


def by_hf(model, text):
    with torch.no_grad():
        logits = model.hf(torch.tensor([model.tokenizer(text)["input_ids"]])).logits[0, -1]
    return float(logits[model.tokenizer.encode(" Mary")[0]] - logits[model.tokenizer.encode(" John")[0]])


def test_each_keeps_its_length_and_is_read_as_the_model_reads_it(smollm2, made):
    ids = smollm2.tokenizer(IOI)["input_ids"]
    assert len(made.proposals) > 8
    for one in made.proposals:
        new = smollm2.tokenizer(one.text)["input_ids"]
        assert len(new) == len(ids)
        differ = [i for i, (a, b) in enumerate(zip(ids, new, strict=True)) if a != b]
        assert [pos for pos, _, _ in one.changes] == differ
        assert [b for _, _, b in one.changes] == [smollm2.tokenizer.decode([new[i]]) for i in differ]
        assert (one.before, one.after) == pytest.approx((by_hf(smollm2, IOI), by_hf(smollm2, one.text)), abs=1e-3)
    moved = [abs(one.after - one.before) for one in made.proposals]
    assert moved == sorted(moved, reverse=True)


def test_one_word_is_exchanged_with_its_capital_and_its_space(made):
    words = re.findall(r"\w+", IOI)
    for one in made.proposals:
        others = re.findall(r"\w+", one.text)
        pairs = {(a, b) for a, b in zip(words, others, strict=True) if a != b}
        assert len(pairs) == 1, one
        ((old, new),) = pairs
        assert old[0].isupper() == new[0].isupper()
        assert re.sub(r"\w+", "", one.text) == re.sub(r"\w+", "", IOI)


def test_the_names_change_roles_and_a_third_comes_in(made):
    assert made.best.text == "When John and Mary went to the store, Mary gave a bottle of milk to"
    assert made.best.after < 0 < made.best.before
    assert any("John → " in one.how and "Mary" not in one.how and len(one.changes) == 2 for one in made.proposals)


def test_numbers_are_exchanged_for_numbers(smollm2):
    made = rs.counterfactuals(smollm2, "The war lasted from the year 1732 to the year 17", rs.logit_diff("5", "1"))
    numbers = [one for one in made.proposals if one.how.startswith("number: 1732")]
    assert {len(re.findall(r"\d+", one.text)[0]) for one in numbers} == {4}
    assert len(numbers) >= 2


def test_it_says_where_there_is_none_and_what_cannot_be_read(smollm2):
    none = rs.counterfactuals(smollm2, ", , :", METRIC)
    assert none.best is None
    assert "No word" in none.view().note
    with pytest.raises(BadPrompt, match="of one prompt"):
        rs.counterfactuals(smollm2, ["a b", "c d"], METRIC)
    with pytest.raises(NoTokenizer):
        rs.counterfactuals(rs.load((tiny_llama(), None)), [[3, 4, 5]], rs.logit_diff(5, 7))
    with pytest.raises(Cancelled):
        rs.counterfactuals(smollm2, IOI, METRIC, cancel=lambda: True)


def test_a_file_gives_it_back(made, tmp_path):
    made.save(tmp_path / "made.safetensors")
    again = rs.load_item(tmp_path / "made.safetensors")
    assert again == made
    assert again.view().rows[0][-1] == made.best.text


def test_a_bos_stays_as_it_is(smollm2):
    ids = smollm2.encode("John saw Mary and John said to", bos=True)
    made = rs.counterfactuals(smollm2, [ids], METRIC, n=3)
    assert made.bos
    assert len(made.proposals) == 3
