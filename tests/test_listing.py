"""The pages that are written from declarations: fresh, complete, and true of what they list."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import residscope as rs
from residscope import errors, fields, listing, manifest
from residscope.cli.words import Taken
from residscope.declare import EDITS, TASKS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pages():
    return listing.pages()


@pytest.mark.parametrize(
    "name", ["methods.md", "edits-list.md", "fields.md", "errors.md", "glossary.md", "wire-types.md"]
)
def test_the_pages_are_fresh(pages, name):
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages[name], "make docs"


def test_nothing_is_left_out(pages):
    own = manifest.own_methods()
    for id, method in own.items():
        assert f"### {id}: {method.title}\n" in pages["methods.md"]
    assert pages["methods.md"].count("\n### ") == len(own)
    for id, kind in EDITS.items():
        assert f"{kind.glyph} {id}: {kind.title}\n" in pages["edits-list.md"]
    assert {*re.findall(r"^## (\w+)$", pages["fields.md"], re.MULTILINE)} == {*fields.KINDS}
    for id in TASKS:
        assert f"| `{id}` |" in pages["methods.md"]
    raised = [part for part in vars(errors).values() if isinstance(part, type) and issubclass(part, Exception)]
    for cls in raised:
        assert f"- `{cls.__name__}`: " in pages["errors.md"]


def test_nothing_is_undocumented():
    for declared in [*manifest.own_methods().values(), *EDITS.values()]:
        assert len(declared.about) > 20, declared.id
        for argument in declared.arguments:
            about = listing.about_argument(declared, argument)
            assert about.split(" (")[0] not in ("", argument.name, argument.name.replace("_", " ")), (
                declared.id,
                argument.name,
            )
    for task in TASKS.values():
        assert len(task.about) > 20
    for cls in [*fields.KINDS.values(), *errors.ResidscopeError.__subclasses__()]:
        assert len(listing._about(cls)) > 3, cls


def test_a_listed_command_is_one_that_its_method_takes():
    """The words of the page's example sort without a complaint, and fill all that is required."""
    for method in manifest.own_methods().values():
        part, taken = listing.method_part(method), Taken.of(method.schema())
        words = next(line for line in part.splitlines() if line.startswith("    residscope run ")).split()
        slots = words[3 : 3 + len(taken.slots)]
        others = [word for name in taken.required if name not in taken.slots for word in (name, *"xx")]
        assert (words[2], [f"--{slot.lower()}" for slot in slots]) == (method.id, [*taken.slots])
        assert taken.sort([*slots, *others]).keys() == {*taken.required}


def test_the_code_of_contributing_runs_and_declares_what_it_says():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(blocks) == 4
    last = "from residscope.declare import EDITS, METHODS, TASKS\n"
    last += "print(sorted({'halve', 'stream-norms', 'capitals'} & {*EDITS, *METHODS, *TASKS}), FAMILY.name)"
    words = [sys.executable, "-c", "\n".join([*blocks, last])]
    env = os.environ | {"PYTHONPATH": str(Path(rs.__file__).parents[1])}
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "['capitals', 'halve', 'stream-norms'] scratch"


def test_the_version_is_said_once():
    from hatchling.metadata.core import ProjectMetadata
    from hatchling.plugin.manager import PluginManager

    assert ProjectMetadata(str(ROOT), PluginManager()).version == rs.__version__
    assert not re.search(r'^version = "', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"## {rs.__version__}" in (ROOT / "CHANGELOG.md").read_text()
