"""Every family on the oldest and the newest releases that pyproject.toml allows; writes the table of docs/families.md.

    make versions                  both, in environments of their own under .versions (several GB, about half an hour)
    make versions ARGS=newest      one of them; the other's column stays

Oldest are the lower bounds in pyproject.toml, newest what pip takes on the day. Everything else is as pip resolves it.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIBRARIES = ("torch", "transformers", "numpy", "scikit-learn")
TESTERS = ("pytest", "pytest-timeout", "beartype", "hypothesis")
SUITES = ("families", "stock", "run", "sweep", "paths", "generate", "certificate")
TRIED = ROOT / "src/residscope/versions.json"
PAGE = ROOT / "docs/families.md"
BEGIN, END = "<!-- versions: written by make versions -->", "<!-- versions end -->"


def requirements(end: str) -> list[str]:
    """The libraries at one end of what pyproject.toml allows."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    bounds = {re.split(r"[<>=]", line)[0]: line for line in listed}
    if end == "newest":
        return [bounds[library] for library in LIBRARIES]
    floors = {library: re.search(r">=([\d.]+)", bounds[library])[1] for library in LIBRARIES}  # type: ignore[index]
    return [f"{library}=={'.'.join([*floor.split('.'), '0', '0'][:3])}" for library, floor in floors.items()]


def step(number: int, words: str, *command: str) -> int:
    """One of the six steps, said and timed by the script that make uses."""
    of = [sys.executable, str(ROOT / "recipes/step.py"), str(number), "6", words, "--"]
    return subprocess.run([*of, *command], check=False, cwd=ROOT).returncode


def build(end: str, first: int) -> Path:
    """An environment with those releases, Residscope on top of them, and what runs the tests."""
    folder = ROOT / ".versions" / end
    python, wanted = folder / "bin/python", requirements(end)
    (ROOT / ".versions" / f"{end}.json").unlink(missing_ok=True)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    testers = [line for line in pinned if re.split(r"[<>=\[]", line)[0] in TESTERS]
    (folder / "constraints.txt").write_text("\n".join(wanted))
    pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--upgrade"]
    rest = [*pip, "-c", str(folder / "constraints.txt"), *wanted, *testers, "-e", str(ROOT)]
    if step(first, f"{end}: {wanted[0]}", *pip, wanted[0]) or step(first + 1, f"{end}: {', '.join(wanted[1:])}", *rest):
        sys.exit(f"the {end} releases cannot be installed here")
    return python


class Tally:
    """A pytest plugin: for each model type, how many tests ran and how many failed."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.type_of: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        from families import FAMILIES

        types = {name: tiny.build().config.model_type for name, tiny in FAMILIES.items()}
        for item in items:
            given = getattr(item, "callspec", None)
            names = [value for value in given.params.values() if isinstance(value, str)] if given else []
            self.type_of[item.nodeid] = next((types[name] for name in names if name in types), "every family alike")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and not report.skipped:
            self.ran[self.type_of[report.nodeid]] += 1
        if report.failed:
            self.failed[self.type_of[report.nodeid]] += 1


def matrix(out: Path) -> int:
    """Run the suites in this environment and write what came of them."""
    from importlib.metadata import version

    import pytest

    tally = Tally()
    suites = [str(ROOT / f"tests/engine/test_{name}.py") for name in SUITES]
    code = pytest.main(["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), *suites], plugins=[tally])
    versions = {library: version(library).split("+")[0] for library in LIBRARIES}
    found = {"versions": versions, "ran": tally.ran, "failed": tally.failed, "passed": int(code) == 0}
    out.write_text(json.dumps(found, indent=1))
    return int(code)


def table(found: dict[str, dict[str, Any]]) -> str:
    """What ran, as the page shows it: a row for each model type, a column for each end."""

    def cell(end: str, name: str) -> str:
        ran, failed = found[end]["ran"].get(name, 0), found[end]["failed"].get(name, 0)
        return f"{failed} of {ran} failed" if failed else f"{ran} passed"

    ends = [end for end in ("oldest", "newest") if end in found]
    heads = [", ".join(f"{name} {number}" for name, number in found[end]["versions"].items()) for end in ends]
    names = [name for name in found[ends[0]]["ran"] if name != "every family alike"]
    rows = [[f"`{name}`", *(cell(end, name) for end in ends)] for name in names]
    rows += [["every family alike", *(cell(end, "every family alike") for end in ends)]]
    lines = [
        ["tests of", *(f"{end}: {head}" for end, head in zip(ends, heads, strict=True))],
        ["---"] * (len(ends) + 1),
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [*lines, *rows])


def write(found: dict[str, dict[str, Any]]) -> None:
    """The table on the page, and what the library knows of the releases that were run."""
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(found)}\n\n{END}{after}")
    TRIED.write_text(json.dumps({end: found[end]["versions"] for end in ("oldest", "newest")}, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Every family on the oldest and the newest allowed releases.")
    parser.add_argument("ends", nargs="*", metavar="END", help="oldest, newest; both unless said")
    parser.add_argument("--matrix", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.matrix:
        sys.exit(matrix(arguments.matrix))
    results = {end: ROOT / ".versions" / f"{end}.json" for end in ("oldest", "newest")}
    for end in arguments.ends or results:
        first = 1 + 3 * [*results].index(end)
        step(first + 2, f"{end}: every family", str(build(end, first)), __file__, "--matrix", str(results[end]))
    if missing := [end for end, path in results.items() if not path.exists()]:
        sys.exit(f"nothing written: {missing[0]} has not been run yet (make versions)")
    found = {end: json.loads(path.read_text()) for end, path in results.items()}
    if not all(result["passed"] for result in found.values()):
        sys.exit(f"{table(found)}\nnothing written: what failed is not served")
    write(found)
    print(f"written: {PAGE.relative_to(ROOT)}, {TRIED.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
