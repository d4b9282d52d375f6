"""Other programs' files of tensors, opened so that nothing in them runs and nothing in them grows."""

import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor

from residscope.errors import DamagedFile, FileNotThere
from residscope.incoming import array_header, content, parsed, regular, tensors_at, torch_values

ENDINGS = (".safetensors", ".npz", ".pt", ".pth", ".bin")
MOST_GROWN = 16  # how many times larger than its file the content of an archive may be: trained weights hardly compress
LARGEST_CONFIG = 4 << 20  # bytes
AGAIN = "fetch it again"


def read_tensors(path: Path) -> dict[str, Any]:
    """The tensors in a file, by name, on the CPU; of a torch file also plain values (numbers, texts, mappings of them).

    safetensors; npz, without pickles; torch files by its reader of plain tensors alone (`weights_only`), which runs no code.

    Raises:
        FileNotThere: no file. DamagedFile: truncated, no such kind of file, with code in it, or one that would grow in memory.
    """
    if not regular(path):
        raise FileNotThere(f"there is no file {path.name}", received=str(path), allowed="a file that exists")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[:2] == b"PK":
            return _of_archive(path)
        return _of_safetensors(path) if path.suffix == ".safetensors" or start[8:] == b"{" else _of_torch(path)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error


def read_config(path: Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping. Raises DamagedFile."""
    try:
        data = content(path, most=LARGEST_CONFIG)
        found = _yaml(data.decode()) if path.suffix in (".yaml", ".yml") else parsed(data, constants=True)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not a mapping")
        return found
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception | str) -> DamagedFile:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return DamagedFile(f"{path.name} cannot be read: {reason}", received=str(path), fix=AGAIN)


def _yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped, unused-ignore]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _of_safetensors(path: Path) -> dict[str, Any]:
    return dict(tensors_at(path)[0])


def _of_archive(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        inside = archive.infolist()
        grown, most = sum(info.file_size for info in inside), MOST_GROWN * path.stat().st_size
        if grown > most:
            raise ValueError(f"its content is {grown:,} bytes, over {MOST_GROWN} times the file's own size")
        arrays = all(info.filename.endswith(".npy") for info in inside)
        if arrays:
            for info in inside:
                _check_array(archive, info)
    return _of_npz(path) if arrays and inside else _of_torch(path)


def _check_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """That an array is as large as its header says, before anything of that size is made."""
    with archive.open(info) as file:
        shape, dtype, begins = array_header(cast(BinaryIO, file))
        if math.prod(shape) * dtype.itemsize != info.file_size - begins:
            raise ValueError(f"{info.filename} has {info.file_size:,} bytes and says that its shape is {shape}")


def _of_npz(path: Path) -> dict[str, Any]:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(np.array(file[name])) for name in file.files}


def _of_torch(path: Path) -> dict[str, Any]:
    state = torch_values(path)
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"it holds a {type(state).__name__}, not tensors by name")
    return state


def weight(tensors: dict[str, Any], name: str) -> Tensor:
    """One of the tensors, as float32. Raises ValueError where it is missing or has no real numbers."""
    if name not in tensors:
        raise ValueError(f"{name} is missing; it has {', '.join(sorted(map(str, tensors)))[:200]}")
    x = tensors[name]
    if not isinstance(x, Tensor) or x.layout is not torch.strided or x.is_complex():
        raise ValueError(f"{name} is no dense tensor of real numbers")
    return x.detach().to(torch.float32).contiguous()
