"""Where dictionaries lie: a file, a folder, or a repository of a hub."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from residscope.errors import FileNotThere, Offline
from residscope.incoming import path_of
from residscope.sae.files import ENDINGS

MOST_FILES = 100_000
_HUB = re.compile(r"(?:hub:)?([\w][\w.-]*/[\w][\w.-]*)((?:/[^/@]+)*?)/?(?:@([^@]+))?")


@dataclass(frozen=True)
class Place:
    """Files by name, each on this machine once it is fetched. name: what finds it again. words: its whole path, for what it says.

    only: the file that was asked for, where it was one. hub: whether they have to be fetched.
    """

    name: str
    words: str
    names: frozenset[str]
    fetch: Callable[[str], Path]
    only: str | None = None
    hub: bool = False


def place_of(source: str | Path) -> Place:
    """The place that a source means: what is on this machine first, then `owner/name/folder@revision` on the hub.

    Raises:
        FileNotThere: neither. Offline: the hub does not answer, and it is not in the cache.
    """
    path = path_of(source)
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        return _file(path)
    match = _HUB.fullmatch(str(source))
    if isinstance(source, Path) or match is None or str(source).startswith((".", "/", "~")) or ".." in path.parts:
        raise FileNotThere(
            "there is no such dictionary",
            received=str(source),
            allowed="a file, a folder, or owner/name/folder@revision on the hub",
        )
    return _repository(match[1], match[2].strip("/"), match[3])


def _folder(path: Path) -> Place:
    names = frozenset(_walk(path))
    return Place(str(path), str(path.resolve()), names, lambda name: path / name)


def _walk(path: Path) -> Iterator[str]:
    count = 0
    for folder, folders, files in os.walk(path):
        folders.sort()
        for file in sorted(files):
            count += 1
            if count > MOST_FILES:
                raise FileNotThere(f"{path.name} has over {MOST_FILES:,} files", fix="name a folder within it")
            yield (Path(folder) / file).relative_to(path).as_posix()


def _file(path: Path) -> Place:
    """A file with what lies beside it, and in the folder above, where some formats keep their configuration."""
    above = path.parent
    names = frozenset(p.name for p in above.iterdir() if p.is_file())
    return Place(str(path), str(above.resolve()), names, lambda name: above / name, only=path.name)


def _repository(repository: str, within: str, revision: str | None) -> Place:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        with _refusals(repository, revision):
            info = HfApi(endpoint=_endpoint()).model_info(repository, revision=revision)
    except Offline:
        return _cached(repository, within, revision)
    commit, names = str(info.sha), [sibling.rfilename for sibling in info.siblings or ()]
    only = within.rpartition("/")[2] if within.endswith(ENDINGS) and within in names else None
    folder = within.rpartition("/")[0] if only else within
    inside = frozenset(name.removeprefix(f"{folder}/") for name in names if not folder or name.startswith(f"{folder}/"))
    if not inside:
        raise FileNotThere(
            f"{repository} has no folder {folder}", received=within, allowed=", ".join(sorted(names)[:8]) + " ..."
        )

    def fetch(name: str) -> Path:
        with _refusals(repository, commit):
            whole = f"{folder}/{name}" if folder else name
            path = Path(hf_hub_download(repository, whole, revision=revision, endpoint=_endpoint()))
            if commit not in path.parts:  # the branch moved between the two questions
                path = Path(hf_hub_download(repository, whole, revision=commit, endpoint=_endpoint()))
            return path

    named = f"{repository}{'/' + within if within else ''}@{commit}"
    return Place(named, f"{repository}/{folder}", inside, fetch, only=only, hub=True)


def _cached(repository: str, within: str, revision: str | None) -> Place:
    """What the cache has of a repository. Raises Offline where that is nothing."""
    from huggingface_hub import snapshot_download

    with _refusals(repository, revision):
        root = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    where = root / within
    if not where.exists():
        raise Offline(
            f"the hub does not answer, and the cache has no {within} of {repository}", received=f"{repository}/{within}"
        )
    place = _file(where) if where.is_file() else _folder(where)
    named = f"{repository}{'/' + within if within else ''}@{root.name}"
    return replace(place, name=named, words=f"{repository}/{within}")


@contextlib.contextmanager
def _refusals(repository: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        fix = f"accept its terms at https://huggingface.co/{repository}, then `hf auth login` (or set HF_TOKEN)"
        raise FileNotThere(f"{repository} is gated", received="no access", fix=fix) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotThere(f"{repository} has no such revision", received=revision) from error
    except errors.RepositoryNotFoundError as error:
        fix = "check the spelling; for a private repository `hf auth login` (or set HF_TOKEN)"
        raise FileNotThere("the hub has no such repository", received=repository, fix=fix) from error
    except FileNotThere:
        raise
    except Exception as error:  # no answer: the client lets its HTTP library's own errors through
        raise Offline(
            f"the hub does not answer for {repository}",
            received=(str(error.__cause__ or error).splitlines() or [type(error).__name__])[0][:300],
            fix="check the network; or give a file or folder on this machine, which needs none",
        ) from error


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
