"""`residscope graph`: its cost first, its tables, its files; what it refuses before anything runs; Ctrl-C."""

import sys

import pytest
import torch

import residscope as rs
from residscope.cli.app import main
from residscope.directions import EncoderDictionary
from session.worlds import tokenizer
from tiny_models import tiny_llama

PROMPT = "abcabc def"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("graph")
    tiny_llama().float().save_pretrained(at / "model")
    tokenizer().save_pretrained(at / "model")
    model = rs.load(str(at / "model"))
    made = []
    for layer in (0, 1, 2):
        read = torch.randn(24, 32, generator=torch.Generator().manual_seed(layer)) / 5
        parts = {"mean": torch.zeros(32), "bias": torch.zeros(24), "base": torch.zeros(32)}
        made.append(EncoderDictionary("sae", f"resid_post.{layer}", read, read, **parts))
    rs.directions.save(at / "three.safetensors", made, model)
    return at


@pytest.fixture
def residscope(folder, monkeypatch, capsys):
    def run(*words, model=True):
        monkeypatch.chdir(folder)
        options = ["--model", "model"] if model else []
        monkeypatch.setattr(sys, "argv", ["residscope", "graph", *words, *options])
        with pytest.raises(SystemExit) as left:
            main()
        told = capsys.readouterr()
        return left.value.code or 0, told.out, told.err

    return run


def names(*layers):
    return "--dictionaries=" + ",".join(f"three.safetensors#sae@resid_post.{layer}" for layer in layers)


def test_it_says_its_cost_shows_the_graph_and_writes_each_file(residscope, folder):
    files = [f"g{ending}" for ending in (".json", ".neuronpedia.json", ".safetensors", ".html", ".svg")]
    code, out, err = residscope(PROMPT, names(0, 1, 2), *(word for file in files for word in ("--out", file)))
    assert code == 0
    assert "features of 3 dictionaries are taken out in turn" in err.splitlines()[0]
    assert "Graph(" in out
    assert "Strongest edges" in out
    assert "next   " in out
    assert "path " in out
    graph = rs.Graph.load(folder / "g.json")
    assert rs.Graph.load(folder / "g.safetensors") == graph
    assert rs.Graph.load(folder / "g.neuronpedia.json") == graph
    model = rs.load(str(folder / "model"))
    own = rs.directions.read(folder / "three.safetensors", model)
    assert rs.causal_graph(model, PROMPT, own).edge(*_first(graph)) == pytest.approx(float(graph.weight[0]), abs=1e-6)
    assert f"g.svg: {(folder / 'g.svg').stat().st_size:,} bytes" in err


def _first(graph):
    return graph.nodes[int(graph.source[0])].id, graph.nodes[int(graph.target[0])].id


def test_an_estimate_has_exact_values_of_a_sample_beside_it(residscope, folder):
    code, out, err = residscope(PROMPT, names(0, 1), "--method", "gradient", "--exact-sample", "6", "--out", "est.json")
    assert code == 0
    assert "exactly" in out
    assert err.startswith("an estimate, which costs less than: ")
    graph = rs.Graph.load(folder / "est.json")
    assert 3 <= int((~graph.exact.isnan()).sum()) <= 6  # half the strongest; some of the drawn may be among them


def test_the_cost_alone(residscope, folder):
    code, out, err = residscope(PROMPT, names(0, 1), "--cost")
    assert (code, out) == (0, "")
    taken = int(err.split()[0].replace(",", ""))
    model = rs.load(str(folder / "model"))
    record = model.run(PROMPT)
    own = [d for d in rs.directions.read(folder / "three.safetensors", model).values() if d.site != "resid_post.2"]
    active = [int((d.encode(record[d.site][0, 1:]) != 0).any(0).sum()) for d in own]
    assert taken == sum(active) + len(own)
    assert len(err.strip().splitlines()) == 1


def test_a_file_of_a_graph_is_opened_and_written_as_another(residscope, folder):
    residscope(PROMPT, names(0, 1), "--out", "h.json")
    code, out, _ = residscope("h.json", "--out", "h.svg", model=False)
    assert code == 0
    assert "Strongest edges" in out
    assert (folder / "h.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([PROMPT, "--out", "g.csv"], "WrongEnding: graph cannot be written as .csv"),
        ([PROMPT, "--out", "none/g.json"], "FileNotThere: there is no such folder"),
        ([PROMPT, "--dictionaries", ","], "BadArguments: a graph is drawn between the features of dictionaries"),
        ([PROMPT, "--dictionaries", "shipped"], "FileNotThere: no dictionaries come with Residscope for this model"),
        ([PROMPT, names(0, 0)], "BadArguments: a dictionary is named twice"),
        ([PROMPT, names(0), "--read", "some"], "BadArguments: read is one of a few words"),
        (["", names(0)], "EmptyPrompt"),
    ],
)
def test_what_it_refuses(residscope, words, complaint):
    code, out, err = residscope(*words)
    assert code == 2
    assert complaint in err
    assert out == ""
    assert "Traceback" not in err


def test_a_damaged_file_is_refused(residscope, folder):
    (folder / "hurt.json").write_text('{"residscope graph": 1')
    code, _, err = residscope("hurt.json", model=False)
    assert code == 2
    assert "DamagedFile: hurt.json holds no graph that is read" in err


def test_what_is_finished_when_it_is_stopped_is_written(residscope, folder, monkeypatch):
    from residscope.errors import SweepCancelled
    from residscope.graph import build

    def stopped(*args, **kwargs):
        raise SweepCancelled("stopped")

    monkeypatch.setattr(build, "with_logits", stopped)
    code, out, err = residscope(PROMPT, names(0, 1), "--out", "part.json")
    assert code == 130
    assert "its edges are whole" in out
    assert "stopped by Ctrl-C: what was finished is above and in the files" in err
    assert rs.Graph.load(folder / "part.json").partial.startswith("its edges are whole")
