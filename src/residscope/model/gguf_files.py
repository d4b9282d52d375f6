"""GGUF files: refused where a part cannot be read, else converted once to safetensors by transformers' own reader."""

import contextlib
import io
from pathlib import Path
from typing import Any

from residscope.errors import DamagedModel, ModelError, ModelNotFound, UnknownFamily
from residscope.incoming import regular
from residscope.model import catalog
from residscope.model.catalog import Entry, Progress
from residscope.model.gguf_header import walked

RECIPE = 1
# what gguf and transformers raise at a file that is none of what they expect
DAMAGE = (ArithmeticError, AssertionError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
FULL = ("F32", "F16", "F64", "I8", "I16", "I32", "I64")
SMALLER = "load the repository that it was made from, or convert it with llama.cpp to a type that is read (Q8_0, F16)"


def found(path: Path) -> Path | None:
    """The GGUF file that a name means: the file itself, or the only one in a folder without safetensors.

    Raises:
        ModelNotFound: the folder has several.
    """
    if regular(path) and path.suffix == ".gguf":
        return path
    if not path.is_dir() or any(path.glob("*.safetensors")):
        return None
    files = sorted(file for file in path.glob("*.gguf") if regular(file))
    if len(files) > 1:
        raise ModelNotFound(
            "the folder has several GGUF files",
            received=", ".join(file.name for file in files),
            allowed="one of them",
            fix=f"name it: {files[0]}",
        )
    return files[0] if files else None


def converted(file: Path, *, digest: str, progress: Progress | None) -> Path:
    """The folder in the cache with a GGUF's weights in float32 as safetensors, made on the first call. digest: of the file.

    Raises:
        DamagedModel: it is no whole GGUF file, or lacks tensors. UnknownFamily: transformers reads no such architecture.
        ModelError: a tensor of a type that cannot be read; or the file is one part of several.
    """
    final = catalog.cache_folder() / "models" / f"{file.stem}-gguf-{digest[:12]}-{RECIPE}"
    if final.is_dir():
        return final
    with_tokenizer = check(file)

    def make(folder: Path) -> None:
        convert(file, folder, entry=Entry(file.name, ""), progress=progress, with_tokenizer=with_tokenizer)

    return catalog.made_once(final, make, lock=final.name)


def check(file: Path) -> bool:
    """Whether a GGUF file has a tokenizer; refused where transformers cannot read it. Reads its header alone."""
    from gguf import GGUFReader
    from gguf.quants import _type_traits
    from transformers.modeling_gguf_pytorch_utils import GGUF_CONFIG_MAPPING

    try:
        tensors, elements = walked(file)
        reader = GGUFReader(file)
        parts = _value(reader, "split.count")
        types = {tensor.tensor_type.name: tensor.name for tensor in reader.tensors}
    except DAMAGE as error:
        raise DamagedModel(f"{file.name} is no whole GGUF file: {error}", received=str(file)) from error
    kind = _value(reader, "general.architecture")
    known = sorted(set(GGUF_CONFIG_MAPPING) - {"general", "tokenizer"})
    if kind not in known:
        raise UnknownFamily(
            f"transformers reads no GGUF file of the architecture {kind!r}",
            received=file.name,
            allowed=", ".join(known),
            fix="load the repository that it was made from",
        )
    if isinstance(parts, int) and parts > 1:
        raise ModelError(
            "a GGUF file that is split is not read", received=f"{file.name}, one of {parts} parts", allowed="one whole file",
            fix="join it first: llama-gguf-split --merge",
        )  # fmt: skip
    readable = {*FULL, *(kind.name for kind in _type_traits)}
    if strange := {name: tensor for name, tensor in types.items() if name not in readable}:
        name, tensor = next(iter(strange.items()))
        raise ModelError(
            "a tensor of the GGUF file is of a type that cannot be read",
            received=f"{tensor} of type {name} in {file.name}",
            allowed=", ".join(sorted(readable)),
            fix=SMALLER,
        )
    _check_size(file, tensors, elements, layers=_value(reader, f"{kind}.block_count"))
    return "tokenizer.ggml.model" in reader.fields


def _check_size(file: Path, tensors: int, elements: int, *, layers: Any) -> None:
    """Refuse a file that describes more than it has, before a model of that size is made. Raises DamagedModel."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    if not isinstance(layers, int) or layers > tensors:
        raise DamagedModel(
            f"{file.name} describes more layers than it has weights of", received=f"{layers} layers",
            allowed=f"at most one for each of its {tensors:,} tensors",
        )  # fmt: skip
    try:
        with catalog.quiet(), contextlib.redirect_stderr(io.StringIO()), torch.device("meta"), no_init_weights():
            empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(file.parent, gguf_file=file.name))
    except Exception as error:  # whatever transformers makes of sizes that do not go together
        raise DamagedModel(f"{file.name} describes no model that can be made", received=str(error)[:300]) from error
    if (wanted := sum(weight.numel() for weight in empty.parameters())) > 2 * elements:
        raise DamagedModel(
            f"{file.name} describes a larger model than its weights are of", received=f"{wanted:,} parameters",
            allowed=f"about the {elements:,} that it holds",
        )  # fmt: skip


def _value(reader: Any, name: str) -> Any:
    field = reader.fields.get(name)
    return None if field is None else field.contents()


def convert(
    gguf: Path, into: Path, *, entry: Entry, progress: Progress | None = None, with_tokenizer: bool = True
) -> None:
    """A GGUF file as fp32 safetensors, config and tokenizer, read by transformers' own GGUF reader.

    Raises:
        DamagedModel: it cannot be read, or has not every tensor.
    """
    import torch
    from transformers import AutoModelForCausalLM

    report = progress or (lambda stage, done, total: None)
    with catalog.quiet(), contextlib.redirect_stderr(io.StringIO()):  # one more bar, which heeds no switch
        report("convert", 0, 3)
        tokenizer = _tokenizer_of(gguf, entry) if with_tokenizer else None
        report("convert", 1, 3)
        try:
            model, told = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
            )
        except DAMAGE as error:
            raise DamagedModel(f"{gguf.name} cannot be read", received=str(error).strip()[:300]) from error
        if entry.wheel is None and told["missing_keys"]:
            lacking = ", ".join(sorted(told["missing_keys"])[:3])
            raise DamagedModel(f"{gguf.name} lacks {lacking}", received=f"{len(told['missing_keys'])} tensors missing")
        del model.config.quantization_config  # plain fp32 now; save_pretrained refuses otherwise
        model.hf_quantizer = None
        report("convert", 2, 3)
        model.save_pretrained(into)
        if tokenizer is not None:
            tokenizer.model_max_length = model.config.max_position_embeddings
            tokenizer.save_pretrained(into)
        report("convert", 3, 3)


def _tokenizer_of(gguf: Path, entry: Entry) -> Any:
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except (*DAMAGE, ImportError) as error:
        raise DamagedModel(f"the tokenizer of {gguf.name} cannot be read", received=str(error).strip()[:300]) from error
    if entry.wheel is not None and entry.wheel.split_digits:
        backend = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
    return tokenizer
