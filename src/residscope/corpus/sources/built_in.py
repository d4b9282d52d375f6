"""The texts that are on every machine."""

import ast
import gzip
import hashlib
import sysconfig
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from residscope.once import once

BUILT_IN = ("python-docs", "english")


def python_docs() -> Iterator[str]:
    """Python's language reference topics and the standard library's docstrings: English prose on every machine."""
    from pydoc_data.topics import topics

    yield from topics.values()
    for file in _modules():
        yield from _docstrings(file)


def english() -> Iterator[str]:
    """General English of a megabyte, in the public domain: State of the Union addresses since 1961, and Moby-Dick, by turns."""
    yield from gzip.decompress(_english()).decode().split("\n\n")


def texts_of(name: str) -> Iterator[str]:
    return {"python-docs": python_docs, "english": english}[name]()


def key_of(name: str) -> str:
    """What says that a built-in text is still the same: its content, or of Python's own files name, size and time."""
    if name == "english":
        return hashlib.sha256(_english()).hexdigest()
    from pydoc_data import topics

    told = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in (Path(topics.__file__), *_modules())]
    return hashlib.sha256(repr(told).encode()).hexdigest()


def _english() -> bytes:
    return (files("residscope") / "data" / "english.txt.gz").read_bytes()


def _modules() -> list[Path]:
    return sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))


@once
def _docstrings(file: Path) -> tuple[str, ...]:
    """The long docstrings of a module; `ast.parse` is not for several threads at one time (it counts its depth for all)."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ()
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    docs = (ast.get_docstring(node) for node in nodes)
    return tuple(doc for doc in docs if doc and len(doc) > 200)
