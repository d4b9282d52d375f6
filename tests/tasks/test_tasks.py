"""Tasks: each position decodes to what it is named for, corrupted partners differ as said, only the seed draws."""

import pytest

from residscope import errors, tasks
from residscope.engine.model import Model
from residscope.tasks.ioi import NAMES, TEMPLATES
from tiny_models import tiny_llama


def words(model, data, position):
    return [model.token_texts([ids[at]])[0].strip() for ids, at in zip(data.prompts, data.at(position), strict=True)]


@pytest.mark.parametrize("prefixes", [True, False])
def test_ioi(smollm2, prefixes):
    data = tasks.ioi(smollm2, 60, seed=3, prefixes=prefixes)
    assert words(smollm2, data, "IO") == list(data.label("IO"))
    assert words(smollm2, data, "S1") == words(smollm2, data, "S2") == list(data.label("S"))
    assert [b - a for a, b in zip(data.at("S1"), data.at("S1+1"), strict=True)] == [1] * 60
    assert set(words(smollm2, data, "END")) == {"to"}
    for i, order in enumerate(data.label("order")):
        assert (data.at("IO")[i] < data.at("S1")[i] < data.at("S2")[i]) == (order == "ABBA")
        (different,) = [p for p, (a, b) in enumerate(zip(data.prompts[i], data.corrupted[i], strict=True)) if a != b]
        assert different == data.at("S2")[i]
        assert smollm2.token_texts([data.corrupted[i][different]])[0] == data.answers[i][0]
    assert sorted(data.label("order")) == ["ABBA"] * 30 + ["BABA"] * 30
    assert len(set(data.label("template"))) > 8
    assert tuple(smollm2.tokens(data.texts[7])[0].tolist()) == data.prompts[7]


def test_prefixes_have_no_names_and_at_most_fifty_tokens(smollm2):
    with_, plain = tasks.ioi(smollm2, 200, seed=0), tasks.ioi(smollm2, 200, seed=0, prefixes=False)
    openings = tuple(template.split("{")[0] for template in TEMPLATES)
    assert all(text.startswith(openings) for text in plain.texts)
    starts = [text[: text.index(". ") + 1] for text in with_.texts]
    assert not any(start.startswith(openings[0]) for start in starts)
    assert len(set(starts)) > 100
    lowered = {name.lower() for name in NAMES}
    for start in starts:
        assert not lowered & set(start.lower().replace(",", "").rstrip(".").split())
        assert len(smollm2.tokens(start)[0]) <= 50


def test_prefixes_from_any_text(smollm2, tmp_path):
    path = tmp_path / "own.txt"
    path.write_text("The rain fell all night on the hills. Mary saw it. A river rose slowly over its banks.")
    data = tasks.ioi(smollm2, 10, text=path)
    assert {text[: text.index(". ")] for text in data.texts} <= {
        "The rain fell all night on the hills",
        "A river rose slowly over its banks",
    }
    path.write_text("Mary saw it. NO SENTENCE here")
    with pytest.raises(errors.TooFewWords, match="prefixes=False"):
        tasks.ioi(smollm2, 10, text=path)


def test_only_the_seed_draws(smollm2):
    assert tasks.ioi(smollm2, 20, seed=1).prompts == tasks.ioi(smollm2, 20, seed=1).prompts
    assert tasks.ioi(smollm2, 20, seed=1).prompts != tasks.ioi(smollm2, 20, seed=2).prompts


def test_gender(smollm2):
    data = tasks.gender(smollm2, 40, seed=5)
    assert words(smollm2, data, "NAME") == list(data.label("name"))
    assert [right.strip() for right, _ in data.answers] == list(data.label("gender"))
    assert data.label("gender").count("he") == 20
    for ids, other, at in zip(data.prompts, data.corrupted, data.at("NAME"), strict=True):
        assert [p for p, (a, b) in enumerate(zip(ids, other, strict=True)) if a != b] == [at]


@pytest.mark.parametrize("prefixes", [True, False])
@pytest.mark.parametrize("task", ["ioi", "gender"])
def test_a_typed_prompt_of_the_task_s_form_has_its_positions(smollm2, task, prefixes):
    """Typed, a prompt has the positions that the task gives it, whoever is named in it; of another form it has none."""
    declared = tasks.find_task(task)
    data = declared(smollm2, 60, seed=11, prefixes=prefixes)
    assert len({*data.texts}) > 30
    for i, text in enumerate(data.texts):
        assert declared.find(smollm2, text) == {name: column[i] for name, column in data.positions.items()}, text
        assert declared.find(smollm2, f"{text} someone") is None
        assert declared.find(smollm2, text.replace(" and ", " or ").replace("So ", "Then ")) is None


def test_three_different_names_are_no_prompt_of_ioi(smollm2):
    find = tasks.find_task("ioi").find
    assert find(smollm2, "Then, Ann and Bob had a long argument, and afterwards Bob said to")["S2"] == 12
    for names in (
        "Ann and Bob had a long argument, and afterwards Tom",
        "Bob and Bob had a long argument, and afterwards Bob",
    ):
        assert find(smollm2, f"Then, {names} said to") is None


@pytest.mark.parametrize(
    ("partner", "changed"),
    [("S2", {"S2"}), ("order", {"IO", "S1"}), ("names", {"IO", "S1", "S2"}), ("ABC", {"IO", "S1", "S2"})],
)
def test_partners_of_ioi(smollm2, partner, changed):
    data = tasks.ioi(smollm2, 12, seed=1, partner=partner)
    assert ("partners" in data.name) == (partner != "S2")
    for i, (own, other) in enumerate(zip(data.prompts, data.corrupted, strict=True)):
        at = {name: data.at(name)[i] for name in ("IO", "S1", "S2")}
        assert len(own) == len(other)
        assert {k for k in range(len(own)) if own[k] != other[k]} == {at[name] for name in changed}
        io, s1, s2 = (other[at[name]] for name in ("IO", "S1", "S2"))
        old = {own[at["IO"]], own[at["S1"]]}
        twice = {"S2": s2 == io, "order": s2 == io, "names": s2 == s1, "ABC": len({io, s1, s2}) == 3}
        assert twice[partner]
        assert partner in ("S2", "order") or not old & {io, s1, s2}


def test_an_unknown_partner_is_refused(smollm2):
    with pytest.raises(errors.BadPrompt, match="S2, order, names, ABC"):
        tasks.ioi(smollm2, 4, partner="IO")


def test_bos_moves_every_position(smollm2):
    plain = tasks.ioi(smollm2, 4, prefixes=False)
    begun = tasks.ioi(Model(smollm2.hf, smollm2.tokenizer, bos=True), 4, prefixes=False)
    assert begun.at("S2") == tuple(at + 1 for at in plain.at("S2"))
    assert words(smollm2, begun, "S2") == words(smollm2, plain, "S2")


def test_subsets_and_splits(smollm2):
    data = tasks.ioi(smollm2, 40)
    few = data.subset([5, 2])
    assert (few.prompts, few.label("order"), few.at("S2")) == (
        (data.prompts[5], data.prompts[2]),
        ("BABA", "ABBA"),
        (data.at("S2")[5], data.at("S2")[2]),
    )
    train, test = data.split(0.25, seed=1, by="order")
    assert (len(train), len(test)) == (30, 10)
    assert test.label("order").count("ABBA") == 5
    assert sorted(train.texts + test.texts) == sorted(data.texts)
    assert data.split(0.25, seed=1, by="order")[1].texts == test.texts != data.split(0.25, seed=2, by="order")[1].texts
    with pytest.raises(errors.UnknownPosition, match="S1\\+1"):
        data.at("S3")
    with pytest.raises(errors.MissingLabel, match="template"):
        data.label("mood")


def test_tasks_that_cannot_be_made(smollm2):
    with pytest.raises(errors.TooFewPrompts, match="both orders"):
        tasks.ioi(smollm2, 1)
    with pytest.raises(errors.NoTokenizer):
        tasks.ioi(Model(tiny_llama()), 4)


CSV = """text,@subject,@verb,tense,answer,wrong
The keys to the cabinet are here,keys,are,present, now, then
"The dog, which saw the dog, was glad",dog#2,,past, today, gone
"""


def test_a_file_of_labelled_prompts(smollm2, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(CSV)
    data = tasks.from_file(smollm2, path)
    assert words(smollm2, data, "subject") == ["keys", "dog"]
    assert data.at("subject")[1] > 4
    assert data.positions["verb"][1] is None
    assert data.label("tense") == ("present", "past")
    assert data.answers == ((" now", " then"), (" today", " gone"))
    with pytest.raises(errors.UnknownPosition, match="1 of 2 prompts lack the position verb"):
        data.at("verb")
    lines = tmp_path / "own.jsonl"
    lines.write_text(
        '{"text": "The keys are here", "@subject": [4, 8], "number": 2}\n\n{"text": "A key", "@subject": "2:5", "number": 1}\n'
    )
    data = tasks.from_file(smollm2, lines)
    assert words(smollm2, data, "subject") == ["keys", "key"]
    assert data.label("number") == (2, 1)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "text,mood\nhello,glad\nhello\n", "line 3: a ragged line.*1 cells.*2: text, mood"),
        ("a.csv", "words,mood\nhello,glad\n", "line 2: missing column. Received: text"),
        ("a.csv", "text,text\na,b\n", "column twice"),
        ("a.csv", "text,@S\nhello world,moon\n", "line 2, column @S: not in the text.*moon"),
        ("a.csv", 'text,@S\n"one\ntwo",one\nhello world,moon\n', "line 4, column @S"),
        ("a.csv", "text,@S\nthe dog the dog,dog\n", "line 2, column @S: 2 times.*dog#2"),
        ("a.csv", "text,@S\nthe dog,dog#2\n", "column @S: not in the text"),
        ("a.csv", "text,@S\nthe dog,3:99\n", "column @S: no such characters"),
        ("a.csv", "text,answer,wrong\nthe dog, today, two words here\n", "line 2, column wrong: not one token"),
        ("a.csv", "text,mood\n,glad\n", "line 2, column text: no text"),
        ("a.csv", 'text,mood\n"the dog,glad\n', "line 2: not CSV"),
        ("a.csv", "text\n", "no prompts"),
        ("a.jsonl", '{"text": "a b"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", '{"text": "a b"}\n[1]\n', "line 2: not an object"),
        ("a.jsonl", '{"text": "a b", "mood": 1}\n{"text": "a b"}\n', "line 2: missing column. Received: mood"),
        ("a.jsonl", '{"text": "a b"}\n{"text": "a b", "mood": 1}\n', "line 2: unknown column. Received: mood"),
        ("a.jsonl", '{"text": "a b", "mood": {"x": 1}}\n', "line 1, column mood: not a text"),
        ("a.jsonl", '{"text": 3}\n', "line 1, column text: no text"),
        ("a.jsonl", '{"text": "a b", "@S": 3}\n', "line 1, column @S: not a span"),
        ("a.txt", "hello", "a .csv or .jsonl file"),
    ],
)
def test_files_with_mistakes_name_line_and_column(smollm2, tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(errors.BadTable, match=f"(?s){said}"):
        tasks.from_file(smollm2, path)


def test_another_encoding_is_refused(smollm2, tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("text,mood\nhello,glad\ncafé,sad\n".encode("latin-1"))
    with pytest.raises(errors.BadTable, match="line 3: not UTF-8"):
        tasks.from_file(smollm2, path)
    with pytest.raises(errors.BadTable, match="exists"):
        tasks.from_file(smollm2, tmp_path / "none.csv")


def test_every_task_is_declared():
    """Each function here that draws prompts of its own is found by its name, on the page and on the command line too."""
    drawn = {
        name
        for name in tasks.__all__
        if "seed" in getattr(getattr(tasks, name), "__annotations__", {}) and name.islower()
    }
    assert drawn >= {"gender", "ioi", "induction", "greater_than", "translation"}
    for name in drawn:
        assert tasks.find_task(name.replace("_", "-")).function is getattr(tasks, name)


def test_each_is_declared_with_a_label_and_a_position_of_its_own(smollm2):
    """A form begins with them: two classes or more, and a position that every prompt has."""
    for declared in (one for one in tasks.TASKS.values() if one.own):
        data = declared(smollm2, 8)
        assert len({*data.label(declared.label)}) > 1, declared.id
        assert len(data.at(declared.position)) == 8, declared.id


def test_what_the_page_is_told_of_a_task_is_what_it_takes(smollm2):
    def plain(model, n, *, seed=0):
        """Of somebody else's."""

    told = {one.id: one.schema() for one in (*tasks.TASKS.values(), tasks.Task("plain", "Plain", plain))}
    assert told["plain"] == {
        "id": "plain", "title": "Plain", "about": "Of somebody else's.", "label": "", "position": "", "prefixes": False,
        "partners": [],
    }  # fmt: skip
    assert (told["ioi"]["label"], told["ioi"]["position"], told["ioi"]["prefixes"]) == ("order", "S2", True)
    assert told["ioi"]["partners"] == ["S2", "order", "names", "ABC"]
    for id in ("ioi", "gender"):
        bare, before = (tasks.TASKS[id](smollm2, 4, prefixes=prefixes) for prefixes in (False, True))
        assert all(len(a) < len(b) for a, b in zip(bare.prompts, before.prompts, strict=True))
