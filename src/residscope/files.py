"""Files of tensors that are whole or not there: safetensors with a few plain facts, checked by hash when they are read.

A killed process leaves the old file or the new one. What was changed since, by one bit even, is refused by the file's name.
"""

import errno
import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from residscope.drafts import replace_whole
from residscope.endings import check_ending
from residscope.errors import DamagedFile, FileNotThere, NotPlain, ResidscopeError, Unsealed
from residscope.incoming import Unreadable, content, facts_of, mapping, parsed, regular, tensors_at
from residscope.json_values import byte_array, from_plain, to_plain

AGAIN = "save it again from where it was made, or take it from a backup"


def write_tensors(path: str | Path, kind: str, tensors: Mapping[str, Tensor], about: Any) -> None:
    """Tensors and plain JSON values `about` them, in one safetensors file that says what `kind` of thing it holds.

    Raises:
        WrongEnding, FileNotThere: a name of another kind of file; no such folder. NotPlain: what has no form in JSON, by name.
    """
    check_ending(path, kind)
    told = json.dumps(to_plain(about, name=f"what is said of the {kind}"), allow_nan=False)
    write_told(path, kind, tensors, told)


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, each with memory of its own: safetensors refuses those that share it."""
    own: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, x in tensors.items():
        plain = x.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        storages.add(plain.untyped_storage().data_ptr())
        own[name] = plain
    return own


def write_plain(path: str | Path, kind: str, about: Mapping[str, Any]) -> None:
    """Plain values, of those with a form in `residscope.json_values`, in one safetensors file, each tensor in them once.

    Raises:
        As `write_tensors`.
    """
    check_ending(path, kind.partition(":")[0])
    tensors: dict[str, Tensor] = {}
    told = json.dumps(to_plain(about, tensors, name=f"the {kind}"), allow_nan=False)
    write_told(path, kind, tensors, told)


def write_told(path: str | Path, kind: str, tensors: Mapping[str, Tensor], told: str) -> None:
    """Tensors and JSON that is written already, sealed as all files are. Raises FileNotThere."""
    own = unshared(tensors)
    facts = {"residscope": kind, "about": told, "sha256": digest(kind, own, told)}
    replace_whole(path, lambda draft: save_tensors(own, draft, facts))


def save_tensors(tensors: Mapping[str, Tensor], path: Path, facts: Mapping[str, str] | None = None) -> None:
    """safetensors' own writer, whose failures are the disk's. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), str(path), metadata=None if facts is None else dict(facts))
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def kind_of(path: str | Path) -> str:
    """What kind of thing a file says it holds. Raises FileNotThere; DamagedFile where it says nothing."""
    path = _there(path)
    try:
        facts = facts_of(path)
    except Unreadable as error:
        raise _damaged(path, error) from error
    older = next((kind for kind in ("dictionaries", "edits") if kind in facts), None)
    kind = facts.get("residscope", older)
    if kind is None:
        raise DamagedFile(f"{path.name} holds nothing of Residscope's", received="another program's safetensors")
    return str(kind)


def read_plain(
    path: str | Path, kind: str, *, only: str, of: type[Any], check: Callable[[Any], None] | None = None
) -> Any:
    """The value that `write_plain` wrote under the name `only`, of a class. check: refuses, with NotPlain, what else is said.

    Raises:
        FileNotThere, DamagedFile: as `read_tensors`; also for what this version cannot make of it.
    """
    name = Path(path).name
    tensors, told = read_told(path, kind)
    try:
        plain = parsed(told, own=True)
        if check is not None:
            check(plain)
        value = from_plain(plain[only], tensors)
        if not isinstance(value, of):
            raise NotPlain("it is something else", received=type(value).__name__, allowed=of.__name__)
        return value
    except (ResidscopeError, TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DamagedFile(
            f"{name} holds no {kind} that this version reads", received=reason[:400], fix=AGAIN
        ) from error


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    """What `write_tensors` wrote: the tensors, on the CPU, and what is said about them, a mapping.

    Raises:
        FileNotThere: no such file. DamagedFile: it is not whole, was changed since, or holds something else.
    """
    tensors, told = read_told(path, kind)
    try:
        plain = parsed(told, own=True)
        about = from_plain(plain)
        if not isinstance(about, dict):
            raise ValueError(f"what is said of it is a {type(about).__name__}, not a mapping")
        return tensors, about
    except (ValueError, KeyError, TypeError, RuntimeError, NotPlain) as error:
        raise _damaged(Path(path).expanduser(), error) from error


def _there(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if not regular(path):
        raise FileNotThere(f"there is no file {path.name}", received=str(path), allowed="a file that exists")
    return path


def _damaged(path: Path, error: Exception) -> DamagedFile:
    reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return DamagedFile(f"{path.name} is damaged: {reason}", received=str(path), fix=AGAIN)


def warn_unsealed(path: str | Path, what: str) -> None:
    """Say of a file of before files were sealed that nothing shows whether it is still as it was saved."""
    warnings.warn(
        f"{Path(path).name} is of a version that did not seal {what}: nothing shows whether it is as it was saved. "
        "Save it again to seal it.",
        Unsealed,
        stacklevel=3,
    )


def read_told(path: str | Path, kind: str) -> tuple[dict[str, Tensor], str]:
    """A file's tensors and its JSON, once the hash over both is right. Raises FileNotThere, DamagedFile."""
    path = _there(path)
    try:
        if (said := facts_of(path).get("residscope")) != kind:
            received = said or "another program's safetensors"
            raise DamagedFile(f"{path.name} holds no {kind}", received=received, allowed=f"a saved {kind}")
        tensors, facts = tensors_at(path)
        if digest(kind, tensors, facts["about"]) != facts["sha256"]:
            raise ValueError("its contents are not those that were saved (sha256)")
        return tensors, facts["about"]
    except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error


def write_sealed(path: Path, told: Mapping[str, Any]) -> None:
    """Plain values as JSON with their sha256: what has changed on the disk since is not read again."""
    sealed = {"sha256": _seal(told), "told": told}
    replace_whole(path, lambda draft: draft.write_text(json.dumps(sealed, indent=1)))


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises Unreadable, FileNotFoundError."""
    sealed = mapping(parsed(content(path), constants=True), "it")
    told = dict(mapping(sealed.get("told"), "what is told"))
    if sealed.get("sha256") != _seal(told):
        raise Unreadable("its contents are not those that were written (sha256)")
    return told


def _seal(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def digest(kind: str, tensors: Mapping[str, Tensor], about: str) -> str:
    """sha256 of tensors and of what is said about them: the same whatever order a file keeps them in."""
    hashed = hashlib.sha256(f"{kind}\n{about}\n".encode())
    for name in sorted(tensors):
        x = tensors[name]
        hashed.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        hashed.update(byte_array(x).data)
    return hashed.hexdigest()
