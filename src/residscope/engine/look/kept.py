"""Descriptions found by looking, kept in the cache folder by architecture: a second load looks at nothing.

What the look gives is kept by the model's classes, settings, shapes and configuration, whatever its weights; what the
certificate had to take from it, by those weights alone. A description that is kept is judged like one that was just found.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import ref

from residscope.engine.structure import Structure
from residscope.files import read_sealed, write_sealed
from residscope.model.families import Block, Family

_SEEN: dict[str, tuple[Family, ref[Any]]] = {}  # and on which model; by where the description would be kept
_MOST = 64
_NAMES = ("_name_or_path", "name_or_path", "transformers_version", "architectures", "_attn_implementation")


def recall(hf: Any, weights: str = "") -> Family | None:
    """The kept description of a model: of these very weights where there is one, else of its architecture.

    Of one that somebody put hooks or forwards on, it is that of the model without them.
    """
    return _kept(_key(hf, Structure(hf)), weights)


def known(hf: Any, weights: str, look: Callable[[Any], Family]) -> Family:
    """The kept description of a model; or what looking found of its architecture earlier in this process, or finds now."""
    structure = Structure(hf)
    key = _key(hf, structure)
    if (kept := _kept(key, weights)) is not None:
        return kept
    place = str(_file(key))
    if place in _SEEN:
        return _SEEN[place][0]
    found = look(hf)
    if not structure.attached():
        _SEEN[place] = found, ref(hf)
        if len(_SEEN) > _MOST:
            _SEEN.pop(next(iter(_SEEN)), None)
    return found


def _kept(key: str, weights: str) -> Family | None:
    own = _read(_file(key, weights)) if weights else None
    return own or _read(_file(key))


def of_another(hf: Any) -> bool:
    """Whether what is remembered of a model's architecture was found on another model of it."""
    found = _SEEN.get(str(_file(_key(hf, Structure(hf)))))
    return found is not None and found[1]() is not hf


def keep(hf: Any, family: Family, weights: str = "") -> None:
    """Keep what was found of a model's architecture; with `weights`, what the certificate left of it for these alone."""
    if (key := architecture(hf)) is None:
        return
    path = _file(key, weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, written(family))


def architecture(hf: Any) -> str | None:
    """A hash of all but the weights' values that a look may depend on. None where somebody's hooks or forwards are on it."""
    structure = Structure(hf)
    return None if structure.attached() else _key(hf, structure)


def _key(hf: Any, structure: Structure) -> str:
    first: dict[int, str] = {}
    shapes = [
        f"{name} {tuple(p.shape)} {p.dtype} {first.setdefault(id(p), name)}"
        for name, p in hf.named_parameters(remove_duplicate=False)
    ]
    config = {name: value for name, value in hf.config.to_dict().items() if name not in _NAMES}
    parts = [structure.digest(), *shapes, json.dumps(config, sort_keys=True, default=str), _sources()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def written(family: Family) -> dict[str, Any]:
    """A description as JSON has it."""
    told: dict[str, Any] = json.loads(json.dumps(asdict(family)))
    return told


def read(told: Mapping[str, Any]) -> Family:
    """The description that `written` told."""
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    fields["block"] = _block(told["block"])
    fields["others"] = {int(layer): _block(block) for layer, block in told["others"].items()}
    fields["norms"] = {role: tuple(norm) for role, norm in told["norms"].items()}
    return Family(**fields)


def _block(told: Mapping[str, Any]) -> Block:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return Block(**fields)


def _file(key: str, weights: str = "") -> Path:
    from residscope.model.catalog import cache_folder

    return cache_folder() / "families" / f"{key}{f'-{weights[:16]}' if weights else ''}.json"


def _read(path: Path) -> Family | None:
    try:
        return read(read_sealed(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


@cache
def _sources() -> str:
    """A digest of the code that looks and of what it looks with, and the libraries' versions."""
    room = Path(__file__).parent
    model = room.parents[1] / "model"
    files = [*sorted(room.glob("*.py")), *sorted(room.parent.glob("*.py")), model / "families" / "__init__.py"]
    versions = " ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in [*files, model / "sites.py"])).hexdigest() + versions
