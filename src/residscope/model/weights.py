"""From a name to a model in memory: the folder that holds its files, their fingerprint, and the stock objects.

A name is a catalog name, a local folder, or a hub repository. Weights are read from safetensors alone: a pickle can
run code when it is opened.
"""

import contextlib
import ctypes
import difflib
import functools
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residscope.errors import (
    DamagedModel,
    HashMismatch,
    MissingExtra,
    ModelError,
    ModelNotFound,
    NoTokenizer,
    Offline,
    RemoteCodeRefused,
    UnknownFamily,
)
from residscope.model import catalog, checkpoints
from residscope.model.catalog import CATALOG, Entry, Progress
from residscope.model.toy_names import TOYS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
HUB_FILES = [
    *("config.json", "generation_config.json", "model.safetensors", "model-*.safetensors"),
    *("model.safetensors.index.json", "tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "spiece.model", "tekken.json", "*.py"),
]
TOY = "residscope_toy"
AGAIN = "fetch or save the model again (residscope models rm, then pull)"


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
            entry, convert=functools.partial(convert, entry=entry, progress=progress), progress=progress
        )
    elif entry.made:
        from residscope.model import planted

        path = planted.folder()
    elif repository is not None:
        path = fetched(repository, revision=revision, progress=progress)
    elif name and (path := Path(name).expanduser().resolve()).is_dir():
        pass
    else:
        near = difflib.get_close_matches(name, CATALOG, n=1)
        raise ModelNotFound(
            "no model of that name",
            received=name or "an empty name",
            allowed=f"{', '.join(n for n in CATALOG if n not in TOYS)}, a toy such as attn-only-2l, an existing folder, "
            "or a hub repository (owner/name)",
            fix=f"perhaps you meant {near[0]}" if near else "residscope models list shows the catalog",
            on_page=f"perhaps you meant {near[0]}"
            if near
            else "choose a model of the list, or type a folder or a hub repository",
        )
    if checkpoints.published(path) is not None:
        path = _converted(path, hub_repository(name), revision=revision, progress=progress)
    _check(path)
    return Source(name if revision is None else f"{name}@{revision}", path, _bos(path, entry), fingerprint(path))


def _converted(path: Path, repository: str | None, *, revision: str | None, progress: Progress | None) -> Path:
    """A checkpoint in TransformerLens' format as a folder like any other; what the hub has of it is fetched."""
    if repository is not None:
        path = fetched(repository, revision=revision, progress=progress, files=["config.json", checkpoints.FINAL])
    config = (path / "config.json").read_bytes()
    digest = hashlib.sha256(config + sha256_once(checkpoints.checkpoint_in(path)).encode()).hexdigest()

    def tokenizer() -> Path | None:
        named = json.loads(config).get("tokenizer_name")
        if any((path / file).is_file() for file in TOKENIZER_FILES):
            return path
        if named is None:
            return None
        return fetched(named, revision=None, progress=progress, files=checkpoints.TOKENIZER)

    with _quiet():
        return checkpoints.converted(path, name=repository or path.name, digest=digest, tokenizer=tokenizer)


def _bos(path: Path, entry: Entry) -> bool | None:
    """Whether prompts begin with BOS: toys were trained so, though their tokenizers do not say it."""
    if not (path / "config.json").is_file():  # a tokenizer by itself
        return entry.bos
    config = json.loads((path / "config.json").read_bytes())
    return config.get("bos_token_id") is not None if config.get("model_type") == TOY else entry.bos


def _revised(name: str, revision: str | None) -> tuple[str, str | None]:
    """A name and its revision, which may stand behind it."""
    plain, at, behind = name.partition("@")
    if not at or hub_repository(plain) is None or Path(name).expanduser().is_dir():
        return name, revision
    if revision not in (None, behind):
        raise ModelNotFound("two revisions are asked for", received=f"{behind} and {revision}", allowed="one")
    return plain, behind


def convert(gguf: Path, into: Path, *, entry: Entry, progress: Progress | None = None) -> None:
    """A GGUF file as fp32 safetensors, config and tokenizer, read by transformers' own GGUF reader."""
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    report = progress or (lambda stage, done, total: None)
    with _quiet(), contextlib.redirect_stderr(io.StringIO()):  # one more bar, which heeds no switch
        report("convert", 0, 3)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if entry.wheel is not None and entry.wheel.split_digits:
            backend = tokenizer.backend_tokenizer
            digits = pre_tokenizers.Digits(individual_digits=True)
            backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
        report("convert", 1, 3)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        del model.config.quantization_config  # plain fp32 now; save_pretrained refuses otherwise
        model.hf_quantizer = None
        report("convert", 2, 3)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)
        report("convert", 3, 3)


def open_source(
    source: Source, *, dtype: Any = None, device: str = "cpu", device_map: Any = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """The stock model in eval mode, and its tokenizer or None; `dtype` is a torch dtype, fp32 unless said.

    `device_map` goes to accelerate as it is: "auto", or modules to devices, "cpu" or "disk".
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        placed: dict[str, Any] = {} if torch.device(device).type == "cpu" else {"device_map": {"": device}}
    except RuntimeError as error:
        raise ModelError("no such device", received=device, allowed="cpu, cuda, cuda:1, mps ...") from error
    if device_map is not None:
        placed = {"device_map": device_map, "offload_folder": str(catalog.cache_folder() / "offload")}
    if json.loads((source.path / "config.json").read_bytes()).get("model_type") == TOY:
        from residscope.model import toys

        toys.register()
    with _quiet(), _reading(source, part="model"):
        hf, loading_info = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=dtype or torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **placed,
        )
    missing, unexpected = loading_info["missing_keys"], loading_info["unexpected_keys"]
    for keys, what in ((missing, "lack"), (unexpected, "hold, for no part of the model,")):
        if keys:
            raise DamagedModel(
                f"the weights of {source.name} {what} {', '.join(sorted(keys)[:3])}",
                received=f"{len(keys)} such tensors in {source.path}",
                allowed="exactly the tensors that config.json describes",
                fix=AGAIN,
            )
    tokenizer = None
    if any((source.path / file).is_file() for file in TOKENIZER_FILES):
        with _quiet(), _reading(source, part="tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(source.path, **options)
    _give_back()
    return hf.eval(), tokenizer


def open_tokenizer(name: str) -> tuple[Any, bool | None]:
    """The tokenizer alone of a model that is on this machine, and what is known of its BOS; no weight is read, nothing fetched.

    Raises:
        ModelNotFound: it is not here. NoTokenizer: it has none. DamagedModel.
    """
    from transformers import AutoTokenizer

    path = _here(name)
    if path is None:
        raise ModelNotFound(
            "that model is not on this machine", received=name[:200], allowed="a model that has been fetched, or a folder",
            fix=f"residscope models pull {name}", on_page="load it once",
        )  # fmt: skip
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise NoTokenizer("that model has no tokenizer", received=name, allowed="a model with tokenizer files")
    entry = CATALOG.get(name) or Entry(name, "")
    with _quiet(), _reading(Source(name, path, None, ""), part="tokenizer"):
        return AutoTokenizer.from_pretrained(path, local_files_only=True), _bos(path, entry)


def _here(name: str) -> Path | None:
    """The folder of a model that is on this machine already."""
    if not name or not cached(name):
        return None
    folder = _folder_of(name) or Path(name).expanduser().resolve()
    if not folder.name.startswith("models--"):
        return folder
    commit = revision = _revised(name, None)[1] or "main"
    with contextlib.suppress(OSError):
        commit = (folder / "refs" / revision).read_text().strip()
    return folder / "snapshots" / commit


def _give_back() -> None:
    """Return freed memory to the system: reading a tokenizer leaves glibc with three times what it keeps."""
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps less
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def fingerprint(path: Path) -> str:
    """SHA-256 over the weights and config.json, less what the library that saved it writes about itself.

    A file is read once, then known by its size and modification time.
    """
    config = json.loads((path / "config.json").read_bytes())
    facts = {key: config[key] for key in config.keys() - {"transformers_version", "_name_or_path"}}
    lines = [f"{file.name} {sha256_once(file)}" for file in sorted(path.glob("*.safetensors"))]
    return hashlib.sha256("\n".join([json.dumps(facts, sort_keys=True), *lines]).encode()).hexdigest()


def cached(name: str) -> bool:
    """Whether loading this name needs no network."""
    folder = _folder_of(name) or Path(name).expanduser()
    if not folder.name.startswith("models--"):
        return folder.is_dir()
    pickled = any(folder.glob(f"snapshots/*/{checkpoints.FINAL}"))
    if pickled and _conversions(name):
        return True
    commit = revision = _revised(name, None)[1] or "main"
    with contextlib.suppress(OSError):
        commit = (folder / "refs" / revision).read_text().strip()
    return any(folder.glob(f"snapshots/{commit}/*.safetensors"))


def size(name: str) -> int:
    """Bytes on disk; 0 where nothing is there."""
    return sum(map(catalog.bytes_in, [_folder_of(name) or Path(name).expanduser(), *_conversions(name)]))


def remove(name: str) -> int:
    """Delete a model from the cache, with what unfinished downloads left; the bytes freed."""
    cached_folder, (plain, revision) = _folder_of(name), _revised(name, None)
    if revision is not None:
        raise ModelNotFound("the cache lets go of a model with all its revisions", received=name, allowed=plain)
    if cached_folder is None:
        raise ModelNotFound("not a model of the cache", received=name, allowed="a catalog name or a hub repository")
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
    return name if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).is_dir() else None


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


def _check(path: Path) -> None:
    """Refuse a folder without config and whole safetensors, naming the file; it reads headers alone."""
    for file in (path / "config.json", *path.glob("*.safetensors.index.json")):
        try:
            parsed = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
            raise DamagedModel(f"{file.name} {reason}", received=str(path), fix=AGAIN) from error
        for shard in sorted(set(parsed.get("weight_map", {}).values())):
            if not (path / shard).is_file():
                raise DamagedModel(f"{shard} is missing", received=str(file), fix=AGAIN)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        others = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".gguf", ".h5"))
        fix = "convert them once: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)"
        contents = f"{path} with {', '.join(others) or 'no weights'}"
        raise DamagedModel("no safetensors weights", received=contents, allowed="*.safetensors (no pickle)", fix=fix)
    for file in weights:
        with file.open("rb") as opened:
            header = int.from_bytes(opened.read(8), "little")
            have = file.stat().st_size
            try:
                if header > have:
                    raise ValueError("its header is longer than the file")
                tensors = json.loads(opened.read(header))
                end = max(
                    (entry["data_offsets"][1] for key, entry in tensors.items() if key != "__metadata__"), default=0
                )
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise DamagedModel(f"{file.name} is damaged: {error}", received=str(file), fix=AGAIN) from error
        if (whole := 8 + header + end) != have:
            what = "truncated" if have < whole else "longer than it says"
            raise DamagedModel(f"{file.name} is {what}", received=f"{have:,} of {whole:,} bytes", fix=AGAIN)


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
        memo.write_text(digest)
    return digest


@contextlib.contextmanager
def _reading(source: Source, *, part: str) -> Iterator[None]:
    """Give transformers' refusals the type and the way out that ours have."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            fix = "if you trust its authors, load it with trust_remote_code=True"
            raise RemoteCodeRefused(
                f"{source.name} wants to run its own Python code", received=reason, fix=fix
            ) from error
        if "does not recognize this architecture" in str(error) or "Unrecognized" in reason:
            raise UnknownFamily(f"transformers does not know the {part} of {source.name}", received=reason) from error
        if isinstance(error, ImportError):
            raise MissingExtra(f"the {part} of {source.name} needs another package", received=reason) from error
        if "CUDA" in str(error) or "out of memory" in str(error):
            raise ModelError(f"the device cannot hold {source.name}", received=reason, fix="device='cpu'") from error
        raise DamagedModel(f"the {part} of {source.name} cannot be read", received=reason, fix=AGAIN) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers' own while ours is shown."""
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()
