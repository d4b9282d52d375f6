"""Which releases were run is one fact, on the page, in the package, in pyproject.toml and in doctor; users are told of others."""

import json
import re
import subprocess
import sys
import tomllib
import warnings
from importlib import metadata
from pathlib import Path

import by_hand
import pytest

import residscope as rs
from residscope import doctor, versions
from tiny_models import tiny_llama

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LIBRARIES = ("torch", "transformers", "numpy", "scikit-learn")


def floors() -> dict[str, str]:
    return dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in PROJECT["dependencies"])


def padded(number: str) -> str:
    return ".".join([*number.split("."), "0", "0"][:3])


@pytest.fixture(autouse=True)
def afresh(tmp_path, monkeypatch):
    monkeypatch.setenv("RESIDSCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(versions, "_said", set())


@pytest.fixture
def installed(monkeypatch):
    """Let a library be of another version, as far as its metadata says."""
    real = metadata.version

    def pretend(**numbers):
        names = {name.replace("_", "-"): number for name, number in numbers.items()}
        monkeypatch.setattr(metadata, "version", lambda name: names.get(name) or real(name))

    pretend(**{name.replace("-", "_"): versions.tried()[name][1] for name in LIBRARIES})
    return pretend


def test_the_oldest_that_was_run_is_the_lower_bound():
    assert {name: oldest for name, (oldest, _) in versions.tried().items()} == {
        name: padded(floors()[name]) for name in LIBRARIES
    }


def test_doctor_asks_for_what_pyproject_asks_for():
    for name, least in doctor.NEEDED.items():
        assert ".".join(map(str, least)) in (
            floors()[name],
            padded(floors()[name])[: len(".".join(map(str, least)))],
        ), name


def test_what_constraints_pin_was_run():
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert not [name for name in LIBRARIES if versions.newer_than_tried(name, pinned[name])]


def test_the_table_on_the_page_is_of_those_releases_and_every_family_passed():
    page = (ROOT / "docs/families.md").read_text()
    table = page.split("<!-- versions: written by make versions -->")[1].split("<!-- versions end -->")[0]
    head, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.strip().splitlines()]
    for column, end in enumerate(("oldest", "newest"), 1):
        listed = dict(pair.split(" ") for pair in head[column].removeprefix(f"{end}: ").split(", "))
        assert listed == json.loads(versions.TRIED.read_text())[end]
    assert {row[0].strip("`") for row in rows} == by_hand.families().keys() | {"every family alike"}
    for name, *cells in rows:
        assert all(re.fullmatch(r"[1-9]\d* passed", cell) for cell in cells), name


@pytest.mark.parametrize(
    ("newest", "number", "newer"),
    [("2.14.1", "2.14.2", True), ("2.14.1", "2.15.0.dev20261101+cu130", True), ("2.14.1", "3.0", True),
     ("2.14.1", "2.14.1+cpu", False), ("2.14.1", "2.14.1+cu130", False), ("2.14.1", "2.14.1rc1", False),
     ("2.14.1", "2.9.10", False), ("2.9.1", "2.10.0", True), ("5.24.0", "5.24", False)],
)  # fmt: skip
def test_which_release_is_newer(monkeypatch, newest, number, newer):
    monkeypatch.setattr(versions, "tried", lambda: {"torch": ("2.0.0", newest)})
    assert versions.newer_than_tried("torch", number) == newer


def test_a_newer_release_is_said_once_at_load_and_kept_in_the_certificate(installed):
    hf = tiny_llama().float()
    installed(transformers="5.999.0")
    with pytest.warns(versions.UntriedVersion, match=r"transformers 5\.999\.0 \(run with 5\.") as said:
        model = rs.load((hf, None))
    assert len(said) == 1
    assert said[0].filename == __file__
    assert "untried: transformers 5.999.0" in repr(model.certificate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = rs.load((hf, None))
    assert again.certificate.cached
    assert again.certificate.untried == model.certificate.untried


def test_releases_that_were_run_are_not_spoken_of(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        certificate = rs.load((tiny_llama().float(), None)).certificate
    assert certificate.untried == ()
    assert "untried" not in repr(certificate)


def test_a_certificate_kept_under_one_release_says_nothing_of_another(installed):
    """What is untried is read from what is installed now, not from the file."""
    installed(numpy="99.0")
    with pytest.warns(versions.UntriedVersion, match="numpy 99.0"):
        rs.load((tiny_llama().float(), None))
    installed(numpy=versions.tried()["numpy"][1])
    kept = rs.load((tiny_llama().float(), None)).certificate
    assert kept.cached
    assert kept.untried == ()


@pytest.mark.parametrize("name", LIBRARIES)
def test_doctor_warns_of_a_newer_release_and_fails_an_older(installed, name):
    least, key = doctor.NEEDED[name], name.replace("-", "_")
    assert doctor.version(name, least).state == "ok"
    installed(**{key: "999.0.0"})
    check = doctor.version(name, least)
    assert (check.state, check.mend) == (
        "warn",
        f"pip install '{name}=={versions.tried()[name][1]}', the newest that was",
    )
    installed(**{key: "0.1"})
    assert doctor.version(name, least).state == "fail"


def test_make_run_says_its_steps_and_hides_pips_warnings_but_not_its_errors(tmp_path):
    """The commands of a first `make run`, as make itself would run them."""
    out = subprocess.run(
        ["make", "-n", "-B", "run", f"VENV={tmp_path}/venv"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    said = re.findall(r"recipes/step\.py (\d+) (\d+) ", out)
    assert said == [(str(n), "5") for n in range(1, 6)]
    pips = re.findall(r"pip install (.*)", out)
    assert len(pips) == 3
    for options in pips:
        assert re.match(r"-qq ", options), options  # -q shows warnings, -qqq hides errors


def test_a_step_says_what_it_does_passes_on_what_comes_and_ends_as_it_ended(tmp_path):
    script = (ROOT / "recipes/step.py").read_text()
    quick = tmp_path / "step.py"
    quick.write_text(script.replace("EVERY = 15", "EVERY = 0.2"))
    command = (
        "import sys, time; print('out', flush=True); print('ERROR: why', file=sys.stderr); time.sleep(0.7); sys.exit(3)"
    )
    done = subprocess.run(
        [sys.executable, str(quick), "2", "5", "some words", "--", sys.executable, "-c", command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert done.returncode == 3
    assert done.stderr == "ERROR: why\n"
    assert lines[0] == "step 2 of 5: some words"
    assert "out" in lines
    assert sum("at it for" in line for line in lines) >= 2
    assert lines[-1].endswith("failed with exit code 3")
    fine = subprocess.run(
        [sys.executable, str(quick), "2", "5", "some words", "--", sys.executable, "-c", ""],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert fine.stdout.splitlines()[-1].endswith("40 % of the steps done")


def test_the_recipe_asks_for_the_ends_of_what_pyproject_allows():
    sys.path.insert(0, str(ROOT / "recipes"))
    try:
        import versions as recipe
    finally:
        sys.path.remove(str(ROOT / "recipes"))
    assert recipe.requirements("oldest") == [f"{name}=={padded(floors()[name])}" for name in LIBRARIES]
    newest = recipe.requirements("newest")
    assert newest == [
        next(line for line in PROJECT["dependencies"] if re.split("[<>=]", line)[0] == name) for name in LIBRARIES
    ]
    ran = {"versions": dict.fromkeys(LIBRARIES, "1.0"), "ran": {"llama": 7, "every family alike": 3}, "failed": {}}
    broken = {**ran, "failed": {"llama": 2}}
    table = recipe.table({"oldest": ran, "newest": broken})
    assert "| `llama` | 7 passed | 2 of 7 failed |" in table
    assert "| every family alike | 3 passed | 3 passed |" in table


def test_one_file_states_the_version():
    """`__version__`, which pyproject reads; a package file or a lock that states one too is one more to forget."""
    root = ROOT
    assert 'dynamic = ["version"]' in (root / "pyproject.toml").read_text()
    stated = []
    for name in ("web/package.json", "web/package-lock.json"):
        told = json.loads((root / name).read_text())
        stated += [(name, part) for part in (told, told.get("packages", {}).get("", {})) if "version" in part]
    for file in [*(root / "src").rglob("*.py"), *(root / "web" / "src").rglob("*.ts"), *root.glob("*.py")]:
        if file.name != "__init__.py" and f'"{rs.__version__}"' in file.read_text():
            stated.append((file.name, rs.__version__))
    assert not stated
