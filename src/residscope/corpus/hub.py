"""Texts of a hub's data sets: `hub:org/name`, with `/folder`, `@revision` and `#field` behind it."""

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from residscope.errors import CorpusError, Offline

ENDINGS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".txt", ".txt.gz", ".txt.zst")
_SOURCE = re.compile(r"hub:(\w[\w.-]*(?:/\w[\w.-]*)?)((?:/[^/@#]+)*)(?:@([^@#]+))?(?:#(.+))?")
_TRAIN, _OTHER = (
    re.compile(rf"(?<![a-z])({words})(?![a-z])") for words in ("train", "test|val|valid|validation|dev|eval")
)


@dataclass(frozen=True)
class DataSet:
    """A data set of the hub at one commit, and its files of text: of one ending, of the train split where one is named."""

    repository: str
    folder: str
    commit: str
    files: tuple[str, ...]
    field: str = "text"

    @property
    def name(self) -> str:
        """What finds this very text again."""
        folder = f"/{self.folder}" if self.folder else ""
        return f"hub:{self.repository}{folder}@{self.commit}" + ("" if self.field == "text" else f"#{self.field}")

    def fetched(self) -> Iterator[Path]:
        """Its files, each fetched, or found in the cache, only when it is asked for."""
        yield from map(self.fetch, self.files)

    def fetch(self, file: str) -> Path:
        """One of its files, fetched or found in the cache. Raises CorpusError, Offline."""
        from huggingface_hub import hf_hub_download

        with _refusals(self.repository, self.commit):
            return Path(
                hf_hub_download(self.repository, file, repo_type="dataset", revision=self.commit, endpoint=_endpoint())
            )

    def key(self, file: str) -> str:
        """What says that a file is the same: a commit's never changes."""
        return f"{_endpoint() or 'hub'} {self.repository}@{self.commit} {file}"


def data_set(source: str) -> DataSet:
    """The data set that `hub:org/name/folder@revision#field` means, at the commit its revision stands for now.

    Raises:
        CorpusError: not of this form, no such data set or revision, or no file of text in it.
        Offline: the hub does not answer; what its files are is asked each time, whatever the cache has of them.
    """
    match = _SOURCE.fullmatch(source)
    if match is None:
        raise CorpusError(
            "not the name of a data set",
            received=source,
            allowed="hub:org/name, or with a folder, revision and field hub:org/name/folder@revision#field",
        )
    repository, folder, revision, field = match[1], match[2].strip("/"), match[3], match[4] or "text"
    commit, listed = _listed(repository, revision)
    files = of_text([file for file in listed if not folder or file.startswith(f"{folder}/")])
    if not files:
        raise CorpusError(
            f"{repository} has no files of text" + (f" in {folder}/" if folder else ""),
            received=", ".join(listed[:8]) + (" ..." if len(listed) > 8 else ""),
            allowed=", ".join(ENDINGS) + " files",
        )
    return DataSet(repository, folder, commit, tuple(files), field)


def of_text(files: Sequence[str]) -> list[str]:
    """The files that hold a data set's text: of the first ending there is, of the train split, else of no other split.

    >>> of_text(["README.md", "en/test-0.parquet", "en/train-0.parquet", "en/train-1.parquet"])
    ['en/train-0.parquet', 'en/train-1.parquet']
    """
    for ending in ENDINGS:
        of_ending = sorted(file for file in files if file.lower().endswith(ending))
        if of_ending:
            train = [file for file in of_ending if _TRAIN.search(file.lower())]
            return train or [file for file in of_ending if not _OTHER.search(file.lower())] or of_ending
    return []


def _listed(repository: str, revision: str | None) -> tuple[str, list[str]]:
    """The commit that a revision stands for now, and its files."""
    from huggingface_hub import HfApi, errors

    with _refusals(repository, revision):
        try:
            info = HfApi(endpoint=_endpoint()).dataset_info(repository, revision=revision)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except Exception as error:  # no answer: the client lets its HTTP library's own errors through
            raise OSError(str(error)) from error
    return str(info.sha), [file.rfilename for file in info.siblings or ()]


@contextlib.contextmanager
def _refusals(repository: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        fix = (
            f"accept its terms at https://huggingface.co/datasets/{repository}, then `hf auth login` (or set HF_TOKEN)"
        )
        raise CorpusError(f"{repository} is gated", received="no access", fix=fix) from error
    except errors.RevisionNotFoundError as error:
        raise CorpusError(f"{repository} has no such revision", received=revision) from error
    except errors.RepositoryNotFoundError as error:
        fix = "check the spelling; for a private data set `hf auth login` (or set HF_TOKEN)"
        raise CorpusError("the hub has no such data set", received=repository, fix=fix) from error
    except OSError as error:
        raise Offline(
            f"the hub does not answer for {repository}",
            received=(str(error.__cause__ or error).splitlines() or [type(error).__name__])[0],
            fix="check the network; or give a .txt or .jsonl file, which needs none",
        ) from error


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
