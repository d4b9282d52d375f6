"""The documentation runs: every Python block of the README and the docs, as pasted."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
NAMES = (
    "corpus", "tokens", "edits", "evidence", "generation", "directions", "results", "views", "sweeps", "patching", "tasks",
    "probes", "store",
)  # fmt: skip
PAGES = [ROOT / "README.md"] + [ROOT / f"docs/{name}.md" for name in NAMES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_on_the_page_runs(page, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    for block in blocks:
        exec(compile(block, page.name, "exec"), {})
    if page.name == "README.md":
        assert len(blocks[0].strip().splitlines()) <= 12
        said = capsys.readouterr().out
        assert re.search(r"' Mary', 5099, 0\.92\d", said)
        assert "4.2" in said
        assert "1.8" in said


def test_links_between_pages_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), (page.name, target)


def test_every_direct_dependency_is_explained():
    text = (ROOT / "pyproject.toml").read_text()
    listed = (ROOT / "docs/dependencies.md").read_text()
    block = text.split("dependencies = [", 1)[1].split("]", 1)[0]
    for name in re.findall(r'"([A-Za-z_]+)', block):
        assert name in listed, name
