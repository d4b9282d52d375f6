"""Out-of-tree packages, installed by pip: a method, an edit, a task and a family at every door, and a broken one."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest

import residscope as rs
from residscope.declare import EDITS, METHODS, TASKS, edit, method, plugins, task
from residscope.errors import NameAlreadyDeclared
from server.entering import enter
from session.worlds import tokenizer
from tiny_models import tiny_llama

ROOT = Path(__file__).parent.parent
SOURCE = str(Path(rs.__file__).parents[1])
PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "0.1"

{points}

[tool.hatch.build.targets.wheel]
only-include = ["{name}.py"]
"""
SCRATCH = '''
"""What a stranger writes."""

from typing import Annotated

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from residscope import PromptSet, Result, edits, fields
from residscope.declare import edit, method, task
from dataclasses import replace
from residscope.progress import stage


@method("token-counts", title="Count tokens", group="prompts")
def token_counts(model, prompts: Annotated[object, fields.prompts()], *, rounds: Annotated[int, fields.count(low=1)] = 3,
                 progress=None, cancel=None) -> Result:
    """How many tokens each prompt has: n = |tokens|."""
    counts = torch.tensor(model.batch(prompts).lengths, dtype=torch.float64)
    made = lambda: Result(counts, ("prompt",), name="tokens", unit="tokens", provenance={"method": "token_counts"})
    with stage("Counting", rounds, progress, cancel, partial=made) as tell:
        for done in range(1, rounds + 1):
            tell(done)
    return made()


@edit("halve", title="Halve", glyph="½")
def halve(site: Annotated[str, fields.site()], *, head: Annotated[int | None, fields.heads(single=True)] = None):
    """Multiply a site's value by one half: x' = x / 2."""
    return edits.scale(site, 0.5, head=head)


@task("alphabet", title="Letters of the alphabet")
def alphabet(model, n, *, seed=0):
    """The first letters, each with its parity as the label."""
    texts = tuple(chr(97 + i % 26) * 3 for i in range(n))
    return PromptSet(tuple(tuple(model.tokens(text)[0].tolist()) for text in texts), texts=texts,
                     labels={"parity": tuple(i % 2 for i in range(n))}, name="letters")


class ScratchConfig(LlamaConfig):
    model_type = "scratch_llama"


class ScratchForCausalLM(LlamaForCausalLM):
    config_class = ScratchConfig


'''
SCRATCH += (Path(__file__).parent / "engine" / "by_hand" / "llama.py").read_text()
SCRATCH += """
FAMILY = replace(FAMILY, name="scratch", model_types=("scratch_llama",))
TWICE = replace(FAMILY, name="twice", model_types=("bloom",))
"""
POINTS = """
[project.entry-points."residscope.methods"]
scratch = "scratch"
[project.entry-points."residscope.edits"]
scratch = "scratch:halve"
[project.entry-points."residscope.tasks"]
scratch = "scratch:alphabet"
[project.entry-points."residscope.families"]
scratch = "scratch"
twice = "scratch:TWICE"
none = "scratch:halve"
"""
BROKEN = """
[project.entry-points."residscope.methods"]
broken = "broken_plugin"
"""
pytestmark = pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode != 0,
    reason="no pip in this environment",
)


def installed(package, into):
    options = [
        "-q",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--disable-pip-version-check",
        "--target",
        str(into),
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(package)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the two packages installed, and a tiny model beside them."""
    at = tmp_path_factory.mktemp("plugins")
    for name, code, points in (
        ("scratch", SCRATCH, POINTS),
        ("broken_plugin", "raise RuntimeError('not today')\n", BROKEN),
    ):
        package = at / f"{name}-source"
        package.mkdir()
        (package / "pyproject.toml").write_text(PROJECT.format(name=name, points=points))
        (package / f"{name}.py").write_text(code)
        installed(package, at / "site")
    tiny_llama().float().save_pretrained(at / "model")
    tokenizer().save_pretrained(at / "model")
    return at


def python(place, code, site="site"):
    """What a script of its own prints as JSON in its last line, with the packages installed."""
    done = ran([sys.executable, "-c", textwrap.dedent(code)], place, site)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def command(place, *words, site="site"):
    return ran([sys.executable, "-m", "residscope", *words], place, site)


COMMANDS = """
import contextlib, io, json, sys
from residscope.cli.app import main

def said(*words):
    sys.argv, out, err = ["residscope", *words], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code = 0
        except SystemExit as left:
            code = left.code or 0
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}

print(json.dumps([said(*words) for words in json.loads(sys.argv[1])]))
"""


def commands(place, *several):
    """What several commands say, one after the other in one process of their own, with the packages installed."""
    done = ran([sys.executable, "-c", COMMANDS, json.dumps(several)], place, "site")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def ran(words, place, site):
    path = os.pathsep.join([SOURCE, str(place / site)])
    return subprocess.run(
        words, capture_output=True, text=True, cwd=place, env=os.environ | {"PYTHONPATH": path}, check=False
    )


def test_the_command_line_lists_and_runs_them(place):
    count, model = ["run", "token-counts"], ["--model", "model"]
    halved = ["--background", '[{"kind": "halve", "site": "z.1"}]']
    methods, listed, edits, help, one, two, none, sweep = commands(
        place,
        ["methods", "--json"],
        ["methods"],
        ["edits", "--json"],
        ["run", "--help"],
        [*count, "cabbage", "--json", "-", *model],
        [*count, "task:alphabet,n=2", "--json", "-", *model],
        [*count, "task:alphabeta,n=2", *model],
        ["run", "ablation-sweep", "cabbage", "--metric", "a", "b", *halved, *model],
    )
    told = json.loads(methods["out"])
    mine = next(entry for entry in told["methods"] if entry["id"] == "token-counts")
    assert (mine["group"], mine["about"]) == ("prompts", "How many tokens each prompt has: n = |tokens|.")
    assert told["broken"]["residscope.methods: broken"] == "RuntimeError: not today"
    assert "broken plugin residscope.methods: broken: RuntimeError: not today" in listed["out"]
    assert "halve" in {entry["id"] for entry in json.loads(edits["out"])["edits"]}
    assert "token-counts" in help["out"]
    assert json.loads(one["out"])["rows"] == [[0, 7.0]], one["err"]
    assert [row[1] for row in json.loads(two["out"])["rows"]] == [3.0, 3.0], two["err"]
    assert (none["code"], "UnknownTask" in none["err"], "alphabet" in none["err"]) == (2, True, True)
    assert sweep["code"] == 0, sweep["err"]
    assert "--rounds" in command(place, *count, "--help").stdout  # a process of its own, as a person's


@pytest.mark.parametrize("declare", [method, edit, task])
def test_an_id_of_ours_is_ours_whoever_came_first(declare, monkeypatch):
    def ours(): ...

    def theirs(): ...

    theirs.__module__, ours.__module__ = "stranger", "residscope.somewhere"
    for registry in (METHODS, EDITS, TASKS):
        monkeypatch.setitem(registry, "mine", None)
    monkeypatch.setattr(plugins, "BROKEN", {})
    as_mine = declare("mine", title="Mine")
    as_mine(theirs)
    as_mine(ours)
    assert plugins.BROKEN == {"stranger: mine": "Residscope has one of that id"}
    with pytest.raises(NameAlreadyDeclared):
        as_mine(theirs)
    theirs.__module__ = "residscope.elsewhere"
    with pytest.raises(NameAlreadyDeclared):
        as_mine(theirs)
    (kept,) = (registry["mine"] for registry in (METHODS, EDITS, TASKS) if registry["mine"] is not None)
    assert kept.function is ours


def test_the_listing_lists_them(place):
    told = ran([sys.executable, "-m", "residscope.listing", "--plugins"], place, "site").stdout
    assert "### token-counts: Count tokens" in told
    assert "residscope run token-counts PROMPTS" in told
    assert "| `alphabet` | Letters of the alphabet |" in told
    assert "½ halve: Halve" in told
    assert "### pca" not in told
    assert "✕ ablate" not in told


def test_the_session_knows_them_and_copies_python_that_runs(place):
    told = python(
        place,
        """
        import io, json, contextlib
        import residscope as rs
        from residscope.session import Session
        from residscope.world.stack import parse_edits
        from residscope.session.queries import manifest

        from residscope.declare import EDITS
        before = "halve" in EDITS
        spec = parse_edits([{"kind": "halve", "site": "z.1"}])[0]  # nothing else has looked for plugins yet
        session = Session(load=lambda name, **_: rs.load("model"))
        session.load("model")
        assert session.wait(60)
        session.intent("set_prompt", {"text": "cabbage"})
        session.intent("set_edits", {"edits": [{"kind": "halve", "site": "z.1"}]})
        assert session.wait(60)
        listed = manifest()
        data = {"kind": "task", "task": "alphabet", "n": 4}
        args = {"prompts": data, "rounds": 2}
        stages = []
        def listen(version, patch):
            stages.extend(job["stage"] for job in patch.get("jobs", ()) if job.get("stage"))
        session.subscribe(listen)
        job = session.intent("start", {"method": "token-counts", "args": args, "name": "mine"})["job"]
        assert session.wait(60)
        done = next(j for j in session.state.jobs if j.id == job)
        long = session.intent("start", {"method": "token-counts", "args": args | {"rounds": 100_000_000}})["job"]
        while next(j for j in session.state.jobs if j.id == long).phase == "waiting": pass
        session.intent("cancel", {"job": long})
        assert session.wait(60)
        cut = next(j for j in session.state.jobs if j.id == long)
        code = session.query("python", {"method": "token-counts", "args": args})["code"]
        live = session.query("item", {"name": done.items[0]})["table"]["rows"]
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            exec(compile(code, "copied", "exec"), {})
        from residscope.world.python import python_code
        edit_code = python_code(session.state.world())
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(edit_code, "copied", "exec"), {})
        session.close()
        print(json.dumps({
            **{what: [entry["id"] for entry in listed[what]] for what in ("edits", "methods", "tasks")},
            "before": before, "kind": spec.kind, "broken": listed["broken"], "phase": done.phase, "rows": live,
            "cut": cut.phase, "cut items": cut.items, "stages": stages, "code": code, "told": told.getvalue(),
            "edit code": edit_code,
        }))
        """,
    )
    assert (told["before"], told["kind"]) == (False, "halve")
    assert "halve" in told["edits"]
    assert "token-counts" in told["methods"]
    assert {"alphabet", "ioi"} <= {*told["tasks"]}
    assert told["broken"]["residscope.methods: broken"] == "RuntimeError: not today"
    assert (told["phase"], told["rows"]) == ("done", [[i, 3.0] for i in range(4)])
    assert (told["cut"], len(told["cut items"])) == ("cancelled", 1)
    assert "Counting" in told["stages"]
    assert "from scratch import token_counts" in told["code"]
    assert "from scratch import alphabet" in told["code"]
    assert told["told"].startswith("Result(tokens: prompt 4; 3 to 3 tokens")
    assert "halve('z.1')" in told["edit code"]


def test_a_family_comes_with_a_plugin_and_serves_none_of_ours(place):
    told = python(
        place,
        """
        import json, torch
        import residscope as rs
        from residscope.declare.plugins import BROKEN
        from residscope.model.families import families
        from scratch import ScratchConfig, ScratchForCausalLM

        torch.manual_seed(0)
        hf = ScratchForCausalLM(ScratchConfig(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                                              num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64))
        model = rs.load((hf.eval(), None))
        ids = torch.arange(8)[None]
        rec = model.run(ids)
        with torch.no_grad():
            error = float((rec.logits - hf(ids).logits).abs().max())
        families()
        print(json.dumps({"family": model.family.name, "passed": model.certificate.passed, "error": error,
                          "bloom": families()["bloom"].name, "broken": BROKEN}))
        """,
    )
    assert (told["family"], told["passed"], told["bloom"]) == ("scratch", True, "bloom")
    assert told["error"] < 1e-5
    assert "model type bloom" in told["broken"]["residscope.families: twice"]
    assert "no Family" in told["broken"]["residscope.families: none"]


def test_without_plugins_none_is_looked_for(place):
    code = "import json; from residscope.declare.plugins import installed; print(json.dumps(installed()))"
    assert python(place, code) is True
    (place / "empty").mkdir()
    assert python(place, code, site="empty") is False


def test_the_server_starts_beside_a_broken_plugin(place, tmp_path):
    path = os.pathsep.join([SOURCE, str(place / "site")])
    env = os.environ | {"PYTHONPATH": path, "RESIDSCOPE_DATA": str(tmp_path)}
    words = [sys.executable, "-m", "residscope", "open", "model", "--port", "0", "--no-browser"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=place, env=env
    ) as process:
        try:
            printed = ""
            while not (link := re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", printed)):
                line = process.stdout.readline()
                assert line, printed
                printed += line
            with httpx.Client(timeout=120) as browser:
                assert enter(browser, link[0]).status_code == 303
                told = browser.post(f"{link[0].split('?')[0]}api/queries/manifest", json={}).json()
        finally:
            process.send_signal(signal.SIGINT)
    assert told["broken"]["residscope.methods: broken"] == "RuntimeError: not today"
    assert "token-counts" in {method["id"] for method in told["methods"]}


def test_the_example_installs_and_adds_up(place):
    installed(ROOT / "examples" / "plugin", place / "example")
    done = command(place, "run", "head-logits", "cabbage", "a", "b", "--json", "-", "--model", "model", site="example")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    of = rs.load(str(place / "model"))
    rec = of.run("cabbage", ["mlp_out", "embed", "final_scale"])
    read = rs.directions.logit_diff(of, "a", "b").read
    heads = sum(value for _, pos, _, value in said["rows"] if pos.startswith("6 "))
    rest = sum(rec["mlp_out", layer][0, -1] @ read for layer in range(of.n_layers)) + rec["embed"][0, -1] @ read
    whole = heads + float(rest / rec["final_scale"][0, -1])
    assert whole == pytest.approx(float(rs.logit_diff("a", "b")(rec)), abs=1e-4)
    assert abs(heads) > 1e-3
