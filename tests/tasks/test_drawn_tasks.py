"""The tasks that draw and check: on every tokenizer at hand each prompt holds, by that tokenizer, or the task refuses."""

from contextlib import suppress

import pytest

import residscope as rs
from residscope import errors, tasks
from residscope.engine.model import Model
from residscope.tasks.drafts import SPLIT, UNEQUAL, UNPLACED, Draft, check, fill
from tiny_models import tiny_llama
from tokenizers_of_every_kind import reader

DRAWN = ("colours", "docstring", "factual", "greater-than", "in-context", "skip-trigrams", "translation")
EVERY = (*DRAWN, "induction", "ioi", "gender")


def word_at(model, data, i, position):
    """The prompt's text up to a named position, decoded by the stock tokenizer."""
    return model.tokenizer.decode(list(data.prompts[i][: data.positions[position][i] + 1]))


def holds(model, data):
    """Answers of one token that go on from the text as they are, partners of as many tokens, a partner that differs."""
    begin = int(model.bos)
    for i, (ids, other) in enumerate(zip(data.prompts, data.corrupted, strict=True)):
        assert len(ids) == len(other)
        assert ids != other
        for answer in data.answers[i]:
            if isinstance(answer, int):
                assert 0 <= answer < model.d_vocab
                continue
            (id,) = model.tokenizer(answer, add_special_tokens=False)["input_ids"][-1:]
            longer = model.tokenizer(data.texts[i] + answer, add_special_tokens=False)["input_ids"]
            assert [*ids[begin:], id] == longer
        assert data.answers[i][0] != data.answers[i][1]
        assert all(0 <= at < len(ids) for column in data.positions.values() if (at := column[i]) is not None)
        assert data.at("END")[i] == len(ids) - 1


@pytest.mark.parametrize("id", EVERY)
def test_every_prompt_holds_on_smollm2(smollm2, id):
    data = tasks.find_task(id)(smollm2, 30, seed=4)
    assert len(data) == 30
    holds(smollm2, data)
    assert tasks.find_task(id)(smollm2, 30, seed=4) == data
    assert tasks.find_task(id)(smollm2, 30, seed=5).prompts != data.prompts


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("kind", ["byte level", "llama 2", "gemma", "word level"])
def test_on_small_vocabularies_a_task_holds_or_refuses_in_words(kind, bos):
    model, made = reader(kind, bos=bos), set()
    for id in EVERY:
        with suppress(errors.TooFewWords, errors.TooFewPrompts):
            holds(model, tasks.find_task(id)(model, 6))
            made.add(id)
    assert kind == "word level" or made >= {"induction", "greater-than"}
    for id in {*EVERY} - made:
        with pytest.raises(errors.ResidscopeError, match=r"tokenizer|tokens there are"):
            tasks.find_task(id)(model, 6)


def test_what_each_position_is_named_for(smollm2):
    data = {id: tasks.find_task(id)(smollm2, 24, seed=1) for id in DRAWN}
    for i in range(24):
        assert word_at(smollm2, data["docstring"], i, "C").endswith(data["docstring"].label("C")[i])
        assert word_at(smollm2, data["factual"], i, "SUBJECT").endswith(data["factual"].label("subject")[i])
        assert word_at(smollm2, data["greater-than"], i, "YEAR").endswith(data["greater-than"].label("start")[i])
        assert word_at(smollm2, data["in-context"], i, "QUERY").endswith(data["in-context"].label("query")[i])
        assert word_at(smollm2, data["skip-trigrams"], i, "FIRST").endswith(data["skip-trigrams"].label("first")[i])
        assert word_at(smollm2, data["translation"], i, "WORD").endswith(data["translation"].label("word")[i])
        assert word_at(smollm2, data["colours"], i, "COLOUR").endswith(data["colours"].label("colour")[i])
        assert word_at(smollm2, data["colours"], i, "QUERY").endswith(data["colours"].label("object")[i])


def test_what_is_right(smollm2):
    """By the labels alone: the third argument, the subject's capital, the kind's label, a larger number."""
    docstring, years = tasks.docstring(smollm2, 12), tasks.greater_than(smollm2, 12)
    assert [right for right, _ in docstring.answers] == [f" {name}" for name in docstring.label("C")]
    for (right, wrong), start in zip(years.answers, years.label("start"), strict=True):
        assert int(wrong) < int(start[2]) < int(right)
    facts = tasks.factual(smollm2, 200)
    capital = {
        s: a[0]
        for s, a, r in zip(facts.label("subject"), facts.answers, facts.label("relation"), strict=True)
        if r == "capital"
    }
    assert (capital["France"], capital["Japan"]) == (" Paris", " Tokyo")
    context = tasks.in_context(smollm2, 12)
    for text, (right, wrong), first in zip(context.texts, context.answers, context.label("answer is"), strict=True):
        labels = [line.split(":")[1] for line in text.split("\n")[:-1]]
        assert labels.count(right) == labels.count(wrong) == 4
        assert (labels[0] == right) == (first == "first")


def test_induction_is_what_it_says(smollm2):
    data = tasks.induction(smollm2, 20, seed=2, length=12)
    for i, (ids, other) in enumerate(zip(data.prompts, data.corrupted, strict=True)):
        first, after, end = (data.at(name)[i] for name in ("FIRST", "NEXT", "END"))
        right, wrong = data.answers[i]
        assert (ids[first], ids[after]) == (ids[end], right)
        assert other[after] == wrong
        assert ids[12:] == other[12:] == ids[: len(ids) - 12]
        assert wrong not in ids[12:]
        assert len({*ids[:12]}) == 12
    bare = tasks.induction(Model(tiny_llama(), None), 4, length=8)
    assert bare.texts is None
    with pytest.raises(errors.TooFewWords, match="5 to 97"):
        tasks.induction(Model(tiny_llama(), None), 4, length=98)


def test_what_is_wrong_with_a_draft_is_said(smollm2):
    def said(text, partner, answers, marks=()):
        return check(smollm2, Draft(text, partner, answers, {}, dict(marks)))

    assert said("A cat is", "A dog is", (" big", " small")).ids == tuple(smollm2.encode("A cat is"))
    assert said("A cat is", "A dog was here", (" big", " small")) == UNEQUAL
    assert said("A cat is", "A cat is", (" big", " small")) == UNEQUAL
    assert said("A cat is", "A dog is", (" big", " unhelpfulness")) == SPLIT
    assert said("A cat is", "A dog is", (" big", " big")) == SPLIT
    assert said("A cat is", "A dog is", (" big", " small"), {"CAT": 4}.items()) == UNPLACED
    assert fill("{a}{b}{a}", {"a": "x", "b": "yy"}) == ("xyyx", {"a": 4, "b": 3})


def test_what_is_dropped_is_said(smollm2):
    data = tasks.factual(smollm2, 8)
    (said,) = data.left_out
    assert said == "1 of 24 capitals (several tokens here)"
    assert data.provenance["left out"] == [said]
    assert said in data.view().note
    assert data.subset([1]).left_out == data.left_out
    with pytest.raises(errors.TooFewWords, match="from_file"):
        tasks.colours(reader("byte level"), 4)


def test_mistakes_are_refused(smollm2):
    for id in EVERY:
        with pytest.raises(errors.TooFewPrompts):
            tasks.find_task(id)(smollm2, 1)
    with pytest.raises(errors.BadPrompt, match="even number"):
        tasks.in_context(smollm2, 4, shots=3)
    with pytest.raises(errors.NoTokenizer):
        rs.tasks.colours(Model(tiny_llama(), None), 4)


def test_without_distractors_none_is_named(smollm2):
    data = tasks.factual(smollm2, 8, distractors=False)
    assert "DISTRACTOR" not in data.positions
    assert {*data.label("distractor")} == {"none"}


def test_partners_come_through_the_words_of_the_command_line_and_the_page(smollm2):
    """`partner=` of a task reaches the function, the plain value leaves it out unless said, and the code repeats it."""
    from residscope.fields.prompts import PromptsField, read_prompts
    from residscope.fields.tasks import TaskData
    from residscope.world.session_world import make_prompts

    plain = read_prompts("task:ioi,n=6,seed=2,partner=ABC")
    assert plain == {"kind": "task", "task": "ioi", "n": 6, "seed": 2, "partner": "ABC"}
    data = TaskData(**plain)
    assert make_prompts(smollm2, data) == tasks.ioi(smollm2, 6, seed=2, prefixes=False, partner="ABC")
    assert "partner" not in TaskData(kind="task", task="ioi").model_dump(mode="json")
    assert data.model_dump(mode="json")["partner"] == "ABC"
    assert tasks.find_task("ioi").code(6, None, seed=2, partner="ABC").endswith("prefixes=False, partner='ABC')")
    assert PromptsField(labelled=True).read(["task:gender,n=4"])["task"] == "gender"
    with pytest.raises(errors.BadPrompt, match="one kind"):
        make_prompts(smollm2, TaskData(kind="task", task="gender", n=4, partner="S2"))
    with pytest.raises(errors.BadPrompt, match="S2, order, names, ABC"):
        make_prompts(smollm2, TaskData(kind="task", task="ioi", n=4, partner="IO"))
