"""The command line as a user meets it: a process of its own, on a tiny model and on the default one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import residscope
from residscope.cli.app import BLUE_TO_RED, cell, chosen_rows, main
from residscope.errors import UnknownLayer
from residscope.shown_tokens import visible

IOI = "When John and Mary went to the store, John gave a bottle of milk to"


def run(*arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
    source = str(Path(residscope.__file__).parents[1])
    kept = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "RESIDSCOPE_DEBUG")
    }
    command = [sys.executable, "-m", "residscope", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=kept | {"PYTHONPATH": source} | env, timeout=300)


@pytest.fixture
def look(monkeypatch, capsys):
    """`residscope look` in this process, which has torch already: what it said and what it complained of."""

    def look(*words: str, **env: str) -> tuple[str, str]:
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM", "COLUMNS", "RESIDSCOPE_DEBUG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["residscope", "look", *words])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        assert (left.value.code or 0) == (2 if told.err.startswith("residscope: ") else 0)
        return told.out, told.err

    return look


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random Llama with a word tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 8}
    LlamaForCausalLM(LlamaConfig(num_attention_heads=4, max_position_embeddings=32, **sizes)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate("abcdefg?")}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
    return str(folder)


HEAVY = {"torch", "transformers", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "fastapi", "rich"}
MOST_MODULES = 400  # `--help` imports 216 and `methods` 333, which take a third of a second; torch alone brings 1,500


def imported_by(*words: str) -> tuple[str, set[str]]:
    """What a command says, and the modules that it imported on the way."""
    code = f"import sys; sys.argv = ['residscope', *{list(words)!r}]\nfrom residscope.cli.app import main\n"
    code += "try: main()\nexcept SystemExit: pass\nprint('imported', *sys.modules)"
    source = {"PYTHONPATH": str(Path(residscope.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | source)
    said, _, modules = done.stdout.rpartition("imported ")
    return said, {*modules.split()}


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["run", "pca", "--help"], ["methods"]])
def test_help_imports_little_and_nothing_heavy(words):
    said, modules = imported_by(*words)
    assert all(word in said for word in (("open", "look", "models", "doctor") if words == ["--help"] else ("pca",)))
    assert not HEAVY & modules
    assert len(modules) <= MOST_MODULES


def test_what_needs_torch_is_counted():
    """A negative control: the count sees what a command imports."""
    _, modules = imported_by("models")
    assert "residscope.cli.app" in modules
    code = "import residscope.engine.model, sys; print(len(sys.modules))"
    source = {"PYTHONPATH": str(Path(residscope.__file__).parents[1])}
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | source)
    assert int(heavy.stdout) > MOST_MODULES


@pytest.mark.parametrize(
    "command",
    [
        "open",
        "look",
        "graph",
        "doctor",
        "models",
        "models pull",
        "models rm",
        "models list",
        "families",
        "families try",
        "directions",
        "directions fit",
        "store",
        "store backup",
    ],
)
def test_every_command_explains_itself(command):
    answer = run(*command.split(), "--help")
    assert answer.returncode == 0
    assert "Usage: residscope " + command in answer.stdout


def test_an_error_is_short_and_has_no_traceback():
    answer = run("models", "pull", "gpt-2")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.strip().splitlines()) == 1
    assert answer.stderr.startswith("residscope: ModelNotFound: no model of that name. Received: gpt-2.")


def test_debug_shows_the_traceback():
    for answer in (run("--debug", "models", "pull", "gpt-2"), run("models", "pull", "gpt-2", RESIDSCOPE_DEBUG="1")):
        assert answer.returncode == 1
        assert "Traceback" in answer.stderr


def test_look_as_json(tiny):
    answer = run("look", "a b c d", "--model", tiny, "--direction", "logit:a,b", "--json")
    assert answer.returncode == 0, answer.stderr
    told = json.loads(answer.stdout)
    assert told["tokens"] == ["a", "b", "c", "d"]
    assert told["rows"] == ["resid_post.2", "resid_post.1", "resid_post.0", "embed"]
    assert told["direction"] == "a - b"

    model = residscope.load(tiny)
    recording = model.run("a b c d")
    logits = recording.logits[0]
    torch.testing.assert_close(torch.tensor(told["values"][0]), logits[:, 0] - logits[:, 1], rtol=1e-4, atol=1e-5)
    lens = model.lens(recording["resid_pre.0"][0])
    torch.testing.assert_close(torch.tensor(told["values"][3]), lens[:, 0] - lens[:, 1], rtol=1e-4, atol=1e-5)
    assert [token["id"] for token in told["next"]] == [index for _, index, _ in recording.top(5)]


def test_look_without_colour(tiny, look):
    for env in ({}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        said, _ = look("a b c d", "--model", tiny, COLUMNS="80", **env)
        assert "\x1b[3" not in said
        assert "\x1b[4" not in said
        assert re.search(r"^ {3}2  [-+.]", said, re.MULTILINE)
        assert "next   " in said


def test_look_in_colour(tiny, look):
    words, terminal = ("look", "a b", "--model", tiny), {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    said, _ = look(*words[1:], **terminal, COLORTERM="truecolor")
    assert len(re.findall(r"48;2;\d+;\d+;\d+m", said)) >= 8  # 4 rows x 2 tokens
    said = run(*words, **terminal, COLORTERM="").stdout  # rich keeps a style's colours for as long as its process lives
    assert len(re.findall(r"48;5;\d+m", said)) >= 8


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        (["--layers", "3"], "UnknownLayer"),
        (["--layers", "two"], "UnknownLayer"),
        (["--direction", "up"], "BadEdit"),
        (["--direction", "logit: a"], "BadEdit"),
        (["--direction", "logit:a,b c"], "UnknownToken"),
        (["--direction", "PC 0@resid_post.1"], "WrongModel"),
        (["--dtype", "int3"], "ResidscopeError"),
        (["--device", "abacus"], "ModelError"),
    ],
)
def test_look_refuses(tiny, look, options, kind):
    said, complaint = look("a b", "--model", tiny, *options)
    assert complaint.startswith(f"residscope: {kind}: ")
    assert len(complaint.splitlines()) == 1
    assert said == ""


def test_look_refuses_an_empty_prompt(tiny, look):
    assert look("", "--model", tiny)[1].startswith("residscope: EmptyPrompt")


def test_long_prompts_wrap(tiny, look):
    said, _ = look("a b c d e f g a b c d e f g a b", "--model", tiny, COLUMNS="40")
    assert max(map(len, said.split("\n\n")[0].splitlines())) <= 40
    assert said.count("pos   ") == 2


def test_look_at_the_default_model(look):
    told = json.loads(run("look", IOI, "--direction", "logit: Mary, John", "--json").stdout)
    assert told["next"][0]["text"] == " Mary"
    assert told["next"][0]["p"] == pytest.approx(0.93, abs=0.01)
    assert told["values"][0][-1] == pytest.approx(4.27, abs=0.05)
    said, _ = look(IOI.replace("John gave", "Mary gave"), "--direction", "logit: Mary, John", "--json")
    assert json.loads(said)["values"][0][-1] == pytest.approx(-5.66, abs=0.05)


def test_models(tmp_path):
    told = json.loads(
        run("models", "list", "--json", RESIDSCOPE_CACHE=str(tmp_path), HF_HUB_CACHE=str(tmp_path)).stdout
    )
    assert told[0]["name"] == "smollm2-135m"
    assert [model["name"] for model in told if model["cached"]] == ["toy-induction"]  # which ships
    removed = run("models", "rm", "smollm2-135m", RESIDSCOPE_CACHE=str(tmp_path))
    assert (removed.returncode, "not in the cache" in removed.stderr) == (2, True)


def test_rows():
    assert chosen_rows(None, 2) == [2, 1, 0]
    assert chosen_rows("embed,0-1,4", 6) == [5, 2, 1, 0]
    for wrong in ("6", "3-2", "", "-2", "1-"):
        with pytest.raises(UnknownLayer):
            chosen_rows(wrong, 6)


def test_cells():
    assert cell(0.0, 2, outside=False, colour=True).style == f"#000000 on {BLUE_TO_RED[4]}"
    assert cell(1.0, 2, outside=False, colour=True).style == f"#000000 on {BLUE_TO_RED[8]}"
    assert cell(-1.0, 2, outside=False, colour=True).style == f"#000000 on {BLUE_TO_RED[0]}"
    assert [cell(x, 4, outside=False, colour=False).plain for x in (0.5, -2.0, 0.0, float("nan"))] == [
        "+4  ",
        "-9! ",
        ".   ",
        ".x  ",
    ]
    assert visible(" a\n\x1b[31m") == "·a↵⟨1b⟩[31m"
