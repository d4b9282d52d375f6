"""The documentation runs: every Python block of the README and the docs, as pasted."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NAMES = (
    "corpus", "tokens", "edits", "evidence", "generation", "directions", "results", "views", "sweeps", "patching", "heads",
    "tasks", "probes", "store", "notebook", "two-models", "harvest", "text", "dictionaries", "features", "graph-files",
    "graph-validation", "graph-estimates", "graphs", "reading", "glossary", "weights", "gradients",
)  # fmt: skip
PAGES = [ROOT / "README.md"] + [ROOT / f"docs/{name}.md" for name in NAMES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})


def test_the_figures_of_the_readme_are_what_its_code_prints():
    """Each comment beside a print says what is printed, to the digits it gives; the last also what the head was worth."""
    block = BLOCK.findall((ROOT / "README.md").read_text())[0]
    assert len(block.strip().splitlines()) <= 12
    beside = [line.split("#", 1)[1] for line in block.splitlines() if line.startswith("print(")]
    printed: list[Any] = []
    exec(compile(block, "README.md", "exec"), {"print": printed.append})
    (mary, _, share), difference, cut = printed[0][0], float(printed[1]), float(printed[2])
    assert repr(mary) in beside[0]
    measured = [share, difference, cut, difference - cut]
    claimed = [
        number
        for comment in beside
        for number in re.findall(r"(?<![\w.])[+-]?\d+\.\d+(?= |:|$)", comment)
        if number != "23.3"
    ]
    assert len(claimed) == len(measured)
    for number, value in zip(claimed, measured, strict=True):
        half = 0.5 * 10 ** -len(number.split(".")[1])
        assert abs(float(number) - value) < half + 1e-3, (number, value)


def test_the_readme_counts_the_families_and_promises_no_other():
    from by_hand import families

    served = families().keys() - {"residscope_toy"}  # Residscope's own class, not Hugging Face's
    page = (ROOT / "README.md").read_text()
    assert {int(n) for n in re.findall(r"(\d+) (?:Hugging Face )?families", page)} == {len(served)}
    promise = re.compile(r"\b(any|every|all) (HF|Hugging Face|causal|decoder|transformer)", re.IGNORECASE)
    for page in [ROOT / "README.md", ROOT / "pyproject.toml", *(ROOT / "docs").glob("*.md")]:
        assert not promise.search(page.read_text()), page


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.name, target)


def test_every_direct_dependency_is_explained():
    text = (ROOT / "pyproject.toml").read_text()
    listed = (ROOT / "docs/dependencies.md").read_text()
    block = text.split("dependencies = [", 1)[1].split("]", 1)[0]
    for name in re.findall(r'"([A-Za-z_]+)', block):
        assert name in listed, name
