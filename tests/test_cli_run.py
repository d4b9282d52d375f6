"""`residscope run`: every method of the manifest, what it refuses, what it writes, and how it is stopped."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from pydantic import TypeAdapter

import residscope as rs
from corpus.readings import texts
from loopback_chat import chat
from residscope import fields, manifest
from residscope.cli.app import main
from residscope.cli.run import schemas
from residscope.cli.words import Taken
from residscope.directions import EncoderDictionary
from residscope.errors import BadArguments
from session.worlds import tokenizer
from tiny_models import tiny_llama

PEERS = Path(__file__).parent / "sae" / "peers"
LENS = Path(__file__).parent / "methods" / "peers" / "tuned-lens"
SOURCE = str(Path(rs.__file__).parents[1])
IOI = "When John and Mary went to the store, John gave a bottle of milk to"
SMALL = {
    "n": 2, "tokens": 1000, "random": 9, "resamples": 2, "steps": 2, "k": 2, "prompts": 4, "length": 12, "draws": 1,
    "random_texts": 8, "controls": 2, "circuits": 2,
}  # fmt: skip
"""What is turned down so that a test is short; every other argument is left to its default."""
ENDPOINT: dict[str, str] = {}  # the service that is there while the module's folder is


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model, two texts, labelled prompts, and a dictionary and a probe that the command itself made."""
    at = tmp_path_factory.mktemp("run")
    tiny_llama().float().save_pretrained(at / "model")
    tokenizer().save_pretrained(at / "model")
    tiny_llama(seed=1).float().save_pretrained(at / "tuned")
    tokenizer().save_pretrained(at / "tuned")
    (at / "low.txt").write_text("\n\n".join(texts(1, alphabet="abcdef ghij")))
    (at / "high.txt").write_text("\n\n".join(texts(2, alphabet="XYZ,.klmno")))
    drawn = random.Random(0)
    rows = [["text", "corrupted", "answer", "wrong", "parity", "number", "@P", "@IO", "@S1", "@S2"]]
    for i in range(60):
        letters = [drawn.choice("abcdefghij") for _ in range(9)]
        letters[2] = letters[4]  # the name that is repeated
        other = [*letters[:4], "klmno"[i % 5], *letters[5:]]
        rest = ["a", "b", "even" if letters[4] in "acegi" else "odd", str(ord(letters[4])), "4:5", "1:2", "2:3", "4:5"]
        rows.append(["".join(letters), "".join(other), *rest])
    for name, some in (("labelled", rows), ("with", rows[:20]), ("without", [rows[0], *rows[20:40]])):
        with (at / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(some)
    of = rs.load(str(at / "model"))
    pca = rs.pca(of, str(at / "low.txt"), "resid_post.1", 3, tokens=2000)
    rs.directions.save(at / "d.safetensors", [pca], of)
    read = torch.randn(24, 32, generator=torch.Generator().manual_seed(1)) / 5
    parts = {"mean": torch.zeros(32), "bias": torch.zeros(24), "base": torch.zeros(32)}
    sae = EncoderDictionary("sae", "resid_post.2", read, read, **parts)
    rs.directions.save(at / "sae.safetensors", [sae], of)
    rs.causal_graph(of, "cabbage", [pca, sae]).save(at / "graph.safetensors")
    data = rs.tasks.from_file(of, at / "labelled.csv")
    rs.fit_probe(of, data, site="resid_post.1", position="P", label="parity").save(at / "probe.safetensors")
    sae = next(iter(rs.directions.read(at / "sae.safetensors", of).values()))
    rs.features.gather(of, str(at / "low.txt"), sae, tokens=1000, k=4).save(at / "atlas.safetensors")
    with chat() as service:
        ENDPOINT["words"] = f"{service.url} by-rule"
        yield at


@pytest.fixture
def residscope(folder, monkeypatch, capsys):
    """Runs `residscope run` on that model, and answers its exit code, what it said and what it complained of."""

    def run(*words, model=True):
        options = ["--model", str(folder / "model")] if model else []
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["residscope", "run", *words[:1], *options, *words[1:]])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return run


def typed(schema):
    """Words for what a method requires, in its order."""
    words = []
    site = "mlp_post.1" if schema["id"] == "nmf" else "resid_post.1"
    edit = '[{"kind": "lrqp", "probe": "probe.safetensors", "to": "other"}]'
    kinds = {
        "text": ["low.txt"], "site": [site], "direction": ["d.safetensors[1]"], "metric": ["a", "b"], "edits": [edit],
        "probe": ["probe.safetensors"], "tokens": ["a,b"], "contrast": ["low.txt", "high.txt"],
        "positions": ["1" if schema["id"] == "causal-tracing" else "P"],
        "head_group": ["2.0,2.1"], "model": ["tuned"], "dictionary": ["sae.safetensors"],
        "endpoint": [ENDPOINT.get("words", "http://127.0.0.1:9/v1 none")], "place": [str(PEERS / "saelens-jumprelu")],
        "count": ["2"], "heads": ["1"],
    }  # fmt: skip
    if schema["id"] == "tuned-lens-load":
        kinds["place"] = [str(LENS)]
    for name in schema["required"]:
        part = schema["properties"][name]
        match part["kind"], part:
            case "prompts", {"labelled": True}:
                value = ["labelled.csv"]
            case "prompts", _ if name in ("concept_prompts", "other_prompts"):
                value = ["with.csv" if name == "concept_prompts" else "without.csv"]
            case "prompts", _:
                value = ["baggage" if name in ("corrupted", "over") else "cabbage"]
            case "dictionary", {"several": True}:
                value = ["d.safetensors,sae.safetensors"]
            case "name", {"of": of}:
                number = schema["id"] == "ridge-probe"
                value = [{"label": "number" if number else "parity", "position": "P"}[of]]
            case "item", {"of": of}:
                value = [f"{of.removeprefix('report:')}.safetensors"]
            case kind, _:
                value = kinds[kind]
        words += ["--" + name.replace("_", "-"), *value]
    return words


@pytest.mark.parametrize("id", [schema["id"] for schema in manifest.read()])
def test_every_method_runs_and_writes_all_that_it_may(id, residscope, tmp_path):
    schema = next(schema for schema in manifest.read() if schema["id"] == id)
    turned = {n: p for n, p in schema["properties"].items() if n in SMALL and p["kind"] == "count"}
    small = [
        w
        for n, p in turned.items()
        for w in (f"--{n.replace('_', '-')}", f"{min(max(SMALL[n], p['minimum']), p.get('maximum', 1000))}")
    ]
    table = all(hasattr(kind, "to_dataframe") and getattr(kind, "main", "") is not None for kind in made(id))
    kept, told = tmp_path / "kept.safetensors", tmp_path / "told.json"
    more = ["--csv", str(tmp_path / "t.csv")] if table else []
    small += {"nmf": ["--clip"], "continuations": ["--temperature", "1"]}.get(id, [])  # at 0 all draws are the same
    small += {"atlas": ["--dictionary", "sae.safetensors"], "sae-load": ["--no-check"]}.get(id, [])
    small += {"name-features": ["--features", "1-2", "--dictionary", "sae.safetensors"]}.get(id, [])
    small += {"signal-split": ["--heads", "1.0", "--movers", "2.1"]}.get(id, [])
    code, out, err = residscope(
        id, *typed(schema), *small, "--save", str(kept), "--json", str(told), "--html", str(tmp_path / "p.html"), *more
    )
    assert code == 0, err
    assert out.splitlines()
    for file in [kept, tmp_path / "p.html", *([tmp_path / "t.csv"] if table else [])]:
        assert file.exists() or [*tmp_path.glob(f"{file.stem}-*{file.suffix}")], file
    said = json.loads(told.read_text())
    for one in said if isinstance(said, list) else [said]:
        assert one["kind"]
        assert one["provenance"]
        assert one.get("rows") or one.get("fields")
    for file in tmp_path.glob("kept*.safetensors"):
        rs.load_item(file, rs.load(str(Path.cwd() / "model")))


def made(id):
    """The classes a method's annotation names."""
    kind = get_type_hints(manifest.find_method(id).function)["return"]
    return [part for part in get_args(kind) if isinstance(part, type) and part is not str and part is not ...] or [kind]


def test_the_manifest_is_fresh():
    kept = Path(rs.__file__).parent / manifest.FILE
    assert kept.read_text(encoding="utf-8") == manifest.build(), "python -m residscope.manifest"


def test_a_bound_is_written_the_same_whoever_came_first():
    """typing keeps the first of two annotations that are equal, and 0 is equal to 0.0."""
    for low, high in ((7.0, 9.0), (7, 9)):
        written = TypeAdapter(fields.number(low=low, high=high).type()).json_schema()
        assert json.dumps(written, sort_keys=True) == '{"maximum": 9, "minimum": 7, "type": "number"}'


def test_the_numbers_are_pythons(residscope, folder, tmp_path):
    of = rs.load(str(folder / "model"))
    kept = tmp_path / "d.safetensors"
    assert residscope("pca", "low.txt", "resid_post.1", "--n", "3", "--save", str(kept))[0] == 0
    (found,) = rs.directions.read(kept, of).values()
    assert torch.equal(found.read, rs.pca(of, folder / "low.txt", "resid_post.1", 3).read)
    code, out, err = residscope("ablation-sweep", "cabbage", "--metric", "a", "b", "--json", "-")
    assert (code, err) == (0, "")
    rows = [row[-1] for row in json.loads(out)["rows"]]
    expected = rs.ablation_sweep(of, "cabbage", rs.logit_diff("a", "b")).to_dataframe()["value"].tolist()
    assert rows == expected
    code, out, _ = residscope("ablation-sweep", "cabbage", "--metric", "a", "b", "--csv", "-")
    assert [float(line.split(",")[-1]) for line in out.splitlines()[1:]] == pytest.approx(expected, rel=1e-6)


def test_the_numbers_are_pythons_on_the_default_model(residscope, tmp_path):
    of = rs.load("smollm2-135m")
    code, out, _ = residscope(
        "ablation-sweep", IOI, "--metric", " Mary", " John", "--layers", "22-23", "--json", "-", model=False
    )
    assert code == 0
    expected = rs.ablation_sweep(of, IOI, rs.logit_diff(" Mary", " John"), layers=[22, 23]).to_dataframe()["value"]
    assert [row[-1] for row in json.loads(out)["rows"]] == pytest.approx(expected.tolist(), abs=1e-5)
    kept = tmp_path / "d.safetensors"
    words = ["python-docs", "resid_post.3", "--n", "3", "--tokens", "2000", "--save", str(kept)]
    assert residscope("pca", *words, model=False)[0] == 0
    (found,) = rs.directions.read(kept, of).values()
    assert torch.allclose(found.read, rs.pca(of, "python-docs", "resid_post.3", 3, tokens=2000).read, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["pca", "low.txt"], "BadArguments: pca needs --site"),
        (["pca", "low.txt", "embed", "again"], "BadArguments: pca takes no more words"),
        (["pca", "low.txt", "embed", "--sites", "z"], "BadArguments: pca takes no --sites"),
        (["pca", "low.txt", "embed", "--n", "1", "--n", "2"], "BadArguments: --n is said twice"),
        (["pca", "low.txt", "embed", "--n"], "BadArguments: --n takes 1 word"),
        (["pca", "low.txt", "embed", "--n", "x"], "BadArguments: --n does not read"),
        (["pca", "low.txt", "embed", "--n", "0"], "BadArguments: the arguments of pca do not parse: --n"),
        (["pca", "low.txt", "embed", "--standardise=yes"], "BadArguments: --standardise takes no word"),
        (["pca", "low.txt", "embed", "--save", "x.txt"], "WrongEnding"),
        (["pca", "low.txt", "embed", "--html", "x.png"], "WrongEnding"),
        (["pca", "low.txt", "embed", "--csv", "x.csv"], "WrongEnding: pca makes no table"),
        (["pca", "low.txt", "embed", "--save", "none/x.png"], "FileNotThere"),
        (["pca", "low.txt", "embed", "--json", "a", "--csv", "a"], "BadArguments: two options name one file"),
        (["pca", "low.txt", "embed", "--json", "-", "--csv", "-"], "BadArguments: the screen takes one"),
        (["pca", "none.txt", "embed"], "CorpusError: no such text"),
        (["pcb"], "UnknownMethod"),
        (["ablation-sweep", "--metric", "a", "b", "cabbage"], "BadArguments: ablation-sweep needs --prompts"),
        (["ablation-sweep", "cabbage", "--metric", "a", "b", "c"], "BadArguments: --metric does not read"),
        (["ablation-sweep", "cabbage", "--metric"], "BadArguments: --metric takes a word or more"),
        (["removal-cost", "none.safetensors", "cabbage"], "NotFound: there is no such direction"),
        (["removal-cost", "probe.safetensors", "cabbage"], "NotFound: that file holds no direction"),
        (["das", "labelled.csv", "d.safetensors"], "NotFound: that file holds no probe"),
        (["das", "labelled.csv", "none"], "NotFound: there is no file of a probe"),
        (
            ["ablation-sweep", "cabbage", "--metric", "a", "--background", "live"],
            "BadArguments: --background does not read",
        ),
        (
            ["ablation-sweep", "cabbage", "--metric", "a", "--background", '"live"'],
            "NotFound: the command line has no page",
        ),
    ],
)
def test_it_refuses_in_its_own_words(residscope, folder, words, complaint):
    before = {*folder.iterdir()}
    code, out, said = residscope(*words)
    assert (code, out) == (2, "")
    assert said.startswith(f"residscope: {complaint}"), said
    assert len(said.splitlines()) == 1
    assert {*folder.iterdir()} == before


def test_what_cannot_be_written_is_refused_before_anything_runs(residscope, monkeypatch):
    monkeypatch.setattr(rs, "load", lambda *a, **k: pytest.fail("the model was loaded"), raising=False)
    for words in (["--save", "x.jpg"], ["--csv", "x.csv"], ["--html", "none/x.html"], ["--dtype", "int8"]):
        assert residscope("pca", "low.txt", "embed", *words)[0] == 2


def test_a_file_of_another_model_is_refused(residscope, folder, tmp_path):
    other = tmp_path / "other"
    torch.manual_seed(5)
    hf = tiny_llama().float()
    for weight in hf.parameters():
        weight.data.add_(0.1)
    hf.save_pretrained(other)
    tokenizer().save_pretrained(other)
    for words in (["das", "labelled.csv", "probe.safetensors"], ["removal-cost", "d.safetensors[0]", "cabbage"]):
        code, _, said = residscope(words[0], *words[1:], "--model", str(other), model=False)
        assert code == 2
        assert said.splitlines()[-1].startswith("residscope: WrongModel"), said


def test_every_argument_is_sorted_alike_by_place_and_by_name():
    for schema in schemas().values():
        taken = Taken.of(schema, ["json"])
        words = [f"{n}" for n, _ in enumerate(taken.slots)]
        several = [
            word
            for name in taken.required
            if name not in taken.slots
            for word in (name, *"x" * max(1, taken.arity[name]))
        ]
        by_place = taken.sort([*words, *several])
        assert by_place == taken.sort(
            [word for pair in zip(taken.slots, words, strict=True) for word in pair] + several
        )
        assert [*map(list, (by_place[slot] for slot in taken.slots))] == [[word] for word in words]
        assert taken.sort([*several, "--", *words]) == by_place


def test_an_argument_named_as_a_common_option_has_another_name():
    schema = {"id": "m", "required": [], "properties": {"json": {"words": 1, "example": "X"}}}
    taken = Taken.of(schema, ["json"])
    assert taken.sort(["--its-json", "a", "--json", "b"]) == {"--its-json": ["a"], "--json": ["b"]}
    assert taken.called("json") == "--its-json"
    with pytest.raises(BadArguments):
        taken.sort(["--jso", "a"])


@pytest.mark.parametrize("id", ["evidence", "ablation-sweep"])
def test_ctrl_c_keeps_what_was_finished_and_says_so(id, residscope, folder, tmp_path, monkeypatch):
    """The signal comes while the method runs, as a terminal's does."""
    from residscope.declare import METHODS, Method

    whole = Method.run

    def interrupted(self, plain, world, **watch):
        def told(stage, done, total):
            if done:
                os.kill(os.getpid(), signal.SIGINT)

        return whole(self, plain, world, progress=told)

    monkeypatch.setattr(Method, "run", interrupted)
    kept = tmp_path / "kept.safetensors"
    words = typed(METHODS[id].schema() if id in METHODS else manifest.find_method(id).schema())
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started deaf to it
    try:
        code, _, said = residscope(id, *words, "--save", str(kept))
    finally:
        signal.signal(signal.SIGINT, ours)
    assert code == 130
    assert f"{id} was stopped by Ctrl-C" in said
    assert kept.exists() == (str(kept) in said.splitlines()[-1])
    if id == "ablation-sweep":
        assert torch.isnan(rs.load_item(kept).values).any()  # a sweep keeps the cells it has: the rest is no number


def test_what_a_method_warns_of_is_said_once_in_its_own_words(residscope, folder, tmp_path):
    with (tmp_path / "parted.csv").open("w", newline="") as file:
        rows = [["abcd" + "ef"[i % 2] + "ghij", "even" if i % 2 else "odd", "4:5"] for i in range(60)]
        csv.writer(file).writerows([["text", "parity", "@P"], *rows])
    words = ("--site", "resid_post.0", "--position", "P", "--label", "parity")
    code, said, complaint = residscope("fit-probe", "--data", str(tmp_path / "parted.csv"), *words)
    assert (code, "100.0%" in said) == (0, True)
    told = [line for line in complaint.splitlines() if "warns" in line]
    assert len(told) == 1
    assert told[0].startswith("residscope: fit-probe warns: the probe of parity at resid_post.0, P")
    assert "GridEdge" not in complaint  # nor as Python says it, with a file and a line
    assert "warns" not in residscope("pca", "low.txt", "resid_post.1", "--n", "2")[2]


def test_lists_say_all_there_is():
    env = os.environ | {"PYTHONPATH": SOURCE}

    def said(*words):
        command = [sys.executable, "-m", "residscope", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout

    assert [entry["id"] for entry in json.loads(said("methods", "--json"))["methods"]] != []
    assert {entry["id"] for entry in json.loads(said("methods", "--json"))["methods"]} == {*schemas()}
    assert {entry["group"] for entry in json.loads(said("methods", "--json", "--group", "probes"))["methods"]} == {
        "probes"
    }
    from residscope.declare import EDITS

    manifest.all_methods()
    assert {entry["id"] for entry in json.loads(said("edits", "--json"))["edits"]} == {*EDITS}


def test_what_is_on_unless_said_can_be_turned_off(residscope, tmp_path):
    words = ["causal-graph", "cabbage", "--dictionaries", "d.safetensors,sae.safetensors", "--tokens", "0", "--json"]
    graphs = []
    for more in ([], ["--no-errors"]):
        code, _, err = residscope(*words, str(tmp_path / "told.json"), *more)
        assert code == 0, err
        graphs.append((tmp_path / "told.json").read_text())
    assert "/error" in graphs[0]
    assert "/error" not in graphs[1]
    code, _, err = residscope("causal-graph", "cabbage", "--dictionaries", "d.safetensors", "--errors")
    assert code == 2
    assert "--no-errors" in err
