"""From a folder on this machine to the stock objects: the model in eval mode and its tokenizer."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from residscope.errors import (
    DamagedModel,
    MissingExtra,
    ModelError,
    ModelNotFound,
    NoTokenizer,
    RemoteCodeRefused,
    ResidscopeError,
    UnknownFamily,
)
from residscope.model import catalog, folders
from residscope.model.catalog import CATALOG, Entry
from residscope.model.weights import AGAIN, TOKENIZER_FILES, TOY, Source, bos_of, here

TRUST = "RESIDSCOPE_TRUST"
PANIC = "PanicException"  # how Rust's libraries fail where they should not: no Exception


def open_source(
    source: Source, *, dtype: Any = None, device: str = "cpu", device_map: Any = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """The stock model in eval mode, and its tokenizer or None; `dtype` is a torch dtype, fp32 unless said.

    `device_map` goes to accelerate as it is: "auto", or modules to devices, "cpu" or "disk". A folder's own Python code runs
    where it is asked for, or where `RESIDSCOPE_TRUST` names the model (several: with commas between).
    """
    import torch
    from transformers import AutoTokenizer

    trusted = trust_remote_code or source.name in [name.strip() for name in os.environ.get(TRUST, "").split(",")]
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trusted}
    try:
        placed: dict[str, Any] = {} if torch.device(device).type == "cpu" else {"device_map": {"": device}}
    except RuntimeError as error:
        raise ModelError("no such device", received=device, allowed="cpu, cuda, cuda:1, mps ...") from error
    if device_map is not None:
        placed = {"device_map": device_map, "offload_folder": str(catalog.cache_folder() / "offload")}
    config = folders.config_of(source.path)
    if config.get("model_type") == TOY:
        from residscope.model import toys

        toys.register()
    with catalog.quiet(), _reading(source, part="model"):
        cls = _class_of(config)
        if not config.get("auto_map"):
            folders.check_size(source.path, _empty(cls, source.path), packed=bool(config.get("quantization_config")))
        hf, loading_info = cls.from_pretrained(
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
        with catalog.quiet(), _reading(source, part="tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(source.path, **options)
    _give_back()
    return hf.eval(), tokenizer


def _empty(cls: Any, path: Path) -> Any:
    """The model that a folder's configuration describes, without memory for its weights."""
    import torch
    from transformers import AutoConfig
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        return cls.from_config(AutoConfig.from_pretrained(path, local_files_only=True))


def _class_of(config: dict[str, Any]) -> Any:
    """Which of transformers' classes reads a model: that for images and text, where a text model is a part of the whole."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

    composite = "text_config" in config and config.get("model_type") in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    return AutoModelForMultimodalLM if composite and not config.get("auto_map") else AutoModelForCausalLM


def own_code(path: Path) -> list[str]:
    """The files of Python code that a folder's configuration wants to run, and the classes in them."""
    named = folders.config_of(path).get("auto_map")
    values = [value for value in (named.values() if isinstance(named, dict) else ()) if isinstance(value, str)]
    return [f"{value.rpartition('.')[0]}.py ({value.rpartition('.')[2]})" for value in dict.fromkeys(values)]


def open_tokenizer(name: str) -> tuple[Any, bool | None]:
    """The tokenizer alone of a model that is on this machine, and what is known of its BOS; no weight is read, nothing fetched.

    Raises:
        ModelNotFound: it is not here. NoTokenizer: it has none. DamagedModel.
    """
    from transformers import AutoTokenizer

    path = here(name)
    if path is None:
        raise ModelNotFound(
            "that model is not on this machine", received=name[:200], allowed="a model that has been fetched, or a folder",
            fix=f"residscope models pull {name}", on_page="load it once",
        )  # fmt: skip
    if not any((path / file).is_file() for file in TOKENIZER_FILES):
        raise NoTokenizer("that model has no tokenizer", received=name, allowed="a model with tokenizer files")
    folders.check_files(path)
    entry = CATALOG.get(name) or Entry(name, "")
    with catalog.quiet(), _reading(Source(name, path, None, ""), part="tokenizer"):
        return AutoTokenizer.from_pretrained(path, local_files_only=True), bos_of(path, entry)


def _give_back() -> None:
    """Return freed memory to the system: reading a tokenizer leaves glibc with three times what it keeps."""
    with contextlib.suppress(OSError, AttributeError):  # another C library keeps less
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextlib.contextmanager
def _reading(source: Source, *, part: str) -> Iterator[None]:
    """Give transformers' refusals the type and the way out that ours have."""
    try:
        yield
    except ResidscopeError:
        raise
    except BaseException as error:  # whatever transformers, tokenizers and a model's own code raise
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            raise RemoteCodeRefused(
                f"{source.name} wants to run its own Python code",
                received=f"{', '.join(own_code(source.path)) or reason} in {source.path}",
                allowed="models of classes that transformers has; others where they are trusted by name",
                fix=f"read that code; if you trust it, load with trust_remote_code=True, or set {TRUST}={source.name} for "
                "what has no such argument: commands, and the page",
                on_page=f"whoever started this server reads that code and trusts it: {TRUST}={source.name} residscope",
            ) from error
        if "does not recognize this architecture" in str(error) or "Unrecognized" in reason:
            raise UnknownFamily(f"transformers does not know the {part} of {source.name}", received=reason) from error
        if isinstance(error, ImportError):
            raise MissingExtra(f"the {part} of {source.name} needs another package", received=reason) from error
        if "CUDA" in str(error) or "out of memory" in str(error):
            raise ModelError(f"the device cannot hold {source.name}", received=reason, fix="device='cpu'") from error
        raise DamagedModel(f"the {part} of {source.name} cannot be read", received=reason, fix=AGAIN) from error
