"""`residscope families`: what there is, what serves a model, and what looking finds of a tiny copy."""

import json
import sys

import pytest
import torch

import residscope as rs
from residscope.cli.app import main
from residscope.model import families as files
from residscope.model import tiny


@pytest.fixture
def say(monkeypatch, capsys, tmp_path):
    """A command in this process, which has torch already: its exit code, what it said, what it complained of."""
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path / "cache"))

    def say(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["residscope", "families", *words])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return int(left.value.code or 0), told.out, told.err

    return say


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of a type without a family file."""
    path = tmp_path_factory.mktemp("arcee")
    tiny.build(tiny.variants("arcee")["default"], dtype=torch.float32).save_pretrained(path)
    return str(path)


def test_the_data_files_and_what_each_lacks(say):
    code, said, _ = say("list")
    assert code == 0
    for kind, family in files.families().items():
        (line,) = [line for line in said.splitlines() if line.startswith(f"{kind} ")]
        assert all(name in line for name in family.absent)
    told = json.loads(say("list", "--json")[1])
    assert {entry["model_type"] for entry in told} == {*files.families()}


def test_what_is_found_of_a_tiny_copy(say):
    code, said, _ = say("try", "jamba")
    assert code == 0
    assert "certificate passed: worst " in said
    assert "q.1, q.2, q.3" in said
    assert "no softmax over keys is computed here" in said
    assert "later positions run together" in said


def test_what_is_refused_says_why(say):
    code, said, _ = say("try", "ctrl", "--json")
    (told,) = json.loads(said)
    assert code == 1
    assert not told["served"]
    assert "the stream before the first block" in told["refused"]


def test_a_folder_is_tried_by_its_configuration(say, folder, tmp_path):
    (tmp_path / "config.json").write_text((tiny.default_config("seed_oss")).to_json_string())
    code, said, _ = say("try", str(tmp_path))
    assert code == 0
    assert said.startswith("seed_oss, as configured: a tiny random copy")
    code, _, complaint = say("try", str(tmp_path / "nowhere"))
    assert code == 2
    assert complaint.startswith("residscope: ModelNotFound: no configuration of that name")


def test_the_description_of_a_file_of_a_type_and_of_a_model(say, folder):
    assert say("show", "bloom")[1].startswith("bloom: from its data file")
    assert "mlp_up          mlp.up_proj" in say("show", "arcee")[1]
    code, said, _ = say("show", folder)
    assert code == 0
    assert said.startswith("arcee: found by looking")
    assert json.loads(say("show", folder, "--json")[1])["embed"] == "model.embed_tokens"


def test_a_pinned_description_serves_as_a_file(say, folder, tmp_path, monkeypatch):
    path = tmp_path / "arcee.py"
    code, said, _ = say("show", folder, "--save", str(path))
    assert code == 0
    assert str(path) in said
    own: dict = {}
    exec(path.read_text(), own)
    family, every = own["FAMILY"], files.families()
    assert not family.found
    known = {**every, "arcee": family}
    monkeypatch.setattr(files, "families", lambda: known)
    monkeypatch.setattr("residscope.engine.look.described.families", lambda: known)
    model = rs.load(folder)
    assert model.certificate.passed
    assert model.family == family
    larger = tiny.variants("arcee")["default"]
    larger.num_hidden_layers = 6
    assert rs.load(tiny.build(larger)).n_layers == 6
    larger.rms_norm_eps = 0.1
    with pytest.raises(rs.errors.UnknownConfig, match="rms_norm_eps"):
        rs.load(tiny.build(larger))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["show", "bloom", "--save", "x.py"], "this family is a file already"),
        (["show", "arcee", "--save", "x.txt"], "a family file is Python"),
        (["show", "nothing-like-it"], "no model of that name"),
    ],
)
def test_what_cannot_be_shown_or_saved(say, words, complaint):
    code, _, said = say(*words)
    assert code == 2
    assert complaint in said
