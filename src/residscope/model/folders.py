"""A model's folder, looked at before anything is made of it: whole files, and weights as large as the configuration says."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from residscope.errors import DamagedModel
from residscope.incoming import Unreadable, content, header, mapping, parsed

CONFIG = "config.json"
LARGEST_CONFIG = 64 << 20  # bytes; the index of a model of a thousand shards has 10 MB
AGAIN = "fetch or save the model again (residscope models rm, then pull)"
PACKED = 16  # weights that one stored element may stand for: two-bit ones in int32
MOST_LABELS = 1 << 20
BUFFERS = 512 << 20  # bytes beyond the weights' own size for what a model keeps beside them: masks, tables of positions
_LAYERS = re.compile(r"(num_(hidden_|decoder_|encoder_)?layers|n_layers?)")


def config_of(path: Path) -> dict[str, Any]:
    """A folder's configuration. Raises DamagedModel."""
    return json_of(path / CONFIG)


def json_of(file: Path) -> dict[str, Any]:
    """A file of JSON in a model's folder that holds a mapping. Raises DamagedModel."""
    try:
        told = parsed(content(file, most=LARGEST_CONFIG), constants=True)
        return dict(mapping(told, "it"))
    except FileNotFoundError as error:
        raise DamagedModel(f"{file.name} is missing", received=str(file.parent), fix=AGAIN) from error
    except Unreadable as error:
        raise DamagedModel(f"{file.name} cannot be read ({error})", received=str(file.parent), fix=AGAIN) from error


def check(path: Path) -> None:
    """Refuse a folder without config and whole safetensors, naming the file; it reads headers alone.

    Raises:
        DamagedModel.
    """
    check_files(path)
    config = config_of(path)
    for file in path.glob("*.safetensors.index.json"):
        shards = json_of(file).get("weight_map", {})
        if not isinstance(shards, dict) or not all(_is_name(shard) for shard in shards.values()):
            raise DamagedModel(f"{file.name} names no files of the folder", received=str(file), fix=AGAIN)
        for shard in sorted(set(shards.values())):
            if not (path / shard).is_file():
                raise DamagedModel(f"{shard} is missing", received=str(file), fix=AGAIN)
    weights = sorted(path.glob("*.safetensors"))
    if not weights:
        others = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".gguf", ".h5"))
        fix = "convert them once: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)"
        contents = f"{path} with {', '.join(others) or 'no weights'}"
        raise DamagedModel("no safetensors weights", received=contents, allowed="*.safetensors (no pickle)", fix=fix)
    _check_layers(path, config, sum(len(header_of(file)) for file in weights))


def header_of(file: Path) -> dict[str, Any]:
    """The tensors that a safetensors file describes, by name. Raises DamagedModel."""
    try:
        described = header(file)
    except (Unreadable, FileNotFoundError) as error:
        have = f"{file.stat().st_size:,} bytes" if file.exists() else "nothing"
        raise DamagedModel(f"{file.name} is damaged: {error}", received=f"{file}, {have}", fix=AGAIN) from error
    described.pop("__metadata__", None)
    return described


def check_size(path: Path, empty: Any, *, packed: bool) -> None:
    """Refuse a model, built without memory for its weights, that would need more than the folder's files have.

    empty: on the `meta` device. packed: quantised, where one stored element is several weights.

    Raises:
        DamagedModel.
    """
    described = [entry for file in path.glob("*.safetensors") for entry in header_of(file).values()]
    stored = sum(_product(entry["shape"]) for entry in described)
    nbytes = sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in described)
    wanted = sum(weight.numel() for weight in empty.parameters())
    if wanted > stored * (PACKED if packed else 2):
        raise DamagedModel(
            f"{CONFIG} describes a larger model than the weights are of", received=f"{wanted:,} parameters",
            allowed=f"about the {stored:,} that the files in {path} hold", fix=AGAIN,
        )  # fmt: skip
    beside = sum(buffer.numel() * buffer.element_size() for buffer in empty.buffers())
    if beside > nbytes + BUFFERS:
        raise DamagedModel(
            f"{CONFIG} describes tables that are larger than the model", received=f"{beside:,} bytes",
            allowed=f"{nbytes + BUFFERS:,} for the weights in {path}", fix="see how many positions it names",
        )  # fmt: skip


def _product(shape: list[int]) -> int:
    made = 1
    for n in shape:
        made *= n
    return made


def _is_name(shard: Any) -> bool:
    return isinstance(shard, str) and shard == Path(shard).name and "\0" not in shard and shard not in ("", "..")


def check_files(path: Path) -> None:
    """Refuse a folder in which something lies that would be waited for: a pipe, a device. Raises DamagedModel."""
    for file in path.iterdir():
        try:
            mode = file.stat().st_mode
        except OSError:  # a link to nothing: missing, where it is wanted
            continue
        if not S_ISREG(mode) and not S_ISDIR(mode):
            raise DamagedModel(f"{file.name} is no file (a pipe or a device)", received=str(path), fix="take it away")


def _check_layers(path: Path, config: Mapping[str, Any], tensors: int) -> None:
    """No layer is without a tensor: what a configuration says of more is not built."""
    for name, said in _numbers(config):
        if name == "num_labels" and said > MOST_LABELS:
            raise DamagedModel(f"{CONFIG} names more labels than any model has", received=f"{said:,}", fix=AGAIN)
        if _LAYERS.fullmatch(name) and said > tensors:
            raise DamagedModel(
                f"{CONFIG} describes more layers than there are weights of", received=f"{name}: {said}",
                allowed=f"at most one for each of the {tensors:,} tensors in {path}", fix=AGAIN,
            )  # fmt: skip


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, int | float]]:
    for name, value in config.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield name, value
        elif isinstance(value, dict):
            yield from _numbers(value)
