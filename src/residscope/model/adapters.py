"""LoRA adapters as PEFT keeps them: a folder with adapter_config.json and adapter_model.safetensors, merged into the weights.

`BASE+ADAPTER` is a name like any other: `smollm2-135m+repeated-name`, `gpt2+./my-lora`, `owner/base+owner/lora`.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from residscope.errors import DamagedModel, ModelNotFound, WrongAdapter
from residscope.incoming import Unreadable, content, header, parsed, path_of, tensors_at
from residscope.model import catalog

SHIPPED = Path(__file__).parent.parent / "data" / "adapters"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BETWEEN = "+"
PREFIX = "base_model.model."
# each would make of A and B another matrix than (alpha / r) B A
OTHER_KINDS = (
    "use_dora",
    "modules_to_save",
    "megatron_config",
    "layer_replication",
    "trainable_token_indices",
    "lora_bias",
)


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: a folder, what its config says, and the hash of both files."""

    name: str
    path: Path
    config: dict[str, Any]
    fingerprint: str


def parted(name: str) -> tuple[str, str | None]:
    """The base's name and the adapter's, of `BASE+ADAPTER`; a folder whose own name has a plus is a folder."""
    base, plus, adapter = name.partition(BETWEEN)
    if not (plus and base and adapter) or path_of(name).is_dir():
        return name, None
    return base, adapter


def shipped() -> list[str]:
    """The adapters that come with Residscope; all are of the default model."""
    return sorted(path.name for path in SHIPPED.glob("*") if (path / CONFIG).is_file())


def about(name: str) -> str:
    """One that ships, in a few words."""
    words = {"repeated-name": "a small LoRA of it, which answers with the name that was said twice"}
    return words.get(name, "with a LoRA that ships with Residscope")


def find_adapter(name: str, *, progress: catalog.Progress | None = None) -> Adapter:
    """By the name of one that ships, a folder, or a hub repository.

    Raises:
        ModelNotFound, DamagedModel. WrongAdapter: of another kind than LoRA, or with parts that are more than a low rank.
    """
    from residscope.model.weights import fetched, hub_repository, sha256_once

    if (own := SHIPPED / name).is_dir() and "/" not in name and name.strip("."):
        path = own
    elif (path := path_of(name).resolve()).is_dir():
        pass
    elif (repository := hub_repository(name)) is not None:
        path = fetched(repository, revision=None, progress=progress, files=[CONFIG, WEIGHTS])
    else:
        raise ModelNotFound(
            "no adapter of that name",
            received=name[:200],
            allowed=f"{', '.join(shipped())}, a folder with {CONFIG} and {WEIGHTS}, or a hub repository (owner/name)",
        )
    try:
        config = parsed(content(path / CONFIG))
        facts = json.dumps(_checked(config), sort_keys=True)
        header(path / WEIGHTS)
        digest = sha256_once(path / WEIGHTS)
    except FileNotFoundError as error:
        raise DamagedModel(
            f"the adapter lacks {Path(str(error.filename)).name}",
            received=str(path),
            allowed=f"{CONFIG} and {WEIGHTS}, as PEFT saves them",
        ) from error
    except (OSError, ValueError) as error:
        raise DamagedModel(f"the adapter cannot be read: {error}", received=str(path)) from error
    return Adapter(name, path, config, hashlib.sha256(f"{facts}\n{digest}".encode()).hexdigest())


def _checked(config: Any) -> dict[str, Any]:
    """What of a config decides the numbers. Raises WrongAdapter."""
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind != "LORA":
        raise WrongAdapter("this adapter is no LoRA", received=f"peft_type {kind!r}", allowed='"LORA"')
    if found := [name for name in OTHER_KINDS if config.get(name)]:
        raise WrongAdapter(
            "this LoRA is more than (alpha / r) B A",
            received=", ".join(f"{name}: {config[name]}" for name in found)[:200],
            allowed="plain and rank-stabilised LoRA",
            fix="merge it with PEFT, and load the object: rs.load((model.merge_and_unload(), tokenizer))",
        )
    if config.get("bias", "none") != "none":
        raise WrongAdapter("this LoRA changes biases", received=f"bias: {config['bias']}", allowed="bias: none")
    named = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
    return {name: config.get(name) for name in named}


def merge(hf: Any, adapter: Adapter) -> None:
    """W + s B A in the place of W, in the weights' own precision, for each pair of the adapter (Hu et al. 2021, 2106.09685).

    s is alpha / r, or alpha / sqrt(r) where it is rank-stabilised (Kalajdzievski 2023, 2312.03732).

    Raises:
        WrongAdapter: of another model, which is told by a weight that is not there, or of another shape.
    """
    import torch
    from torch import nn

    try:
        tensors, _ = tensors_at(adapter.path / WEIGHTS)
    except (Unreadable, FileNotFoundError) as error:
        raise DamagedModel(f"{WEIGHTS} cannot be read", received=f"{adapter.path}: {error}") from error
    modules = dict(hf.named_modules())
    pairs = _pairs(tensors, adapter)
    scales = {name: _scale(adapter, name) for name in pairs}
    for name, (A, B) in pairs.items():
        module: Any = modules.get(name)
        weight = getattr(module, "weight", None)
        if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or weight.is_meta:
            raise WrongAdapter(
                "the adapter is of another model: this one has no such matrix", received=name,
                allowed="the adapter's own base, " + str(adapter.config.get("base_model_name_or_path")),
            )  # fmt: skip
        out_in = isinstance(module, nn.Linear)
        d_out, d_in = weight.shape if out_in else weight.T.shape
        if A.ndim != 2 or A.shape[1] != d_in or B.shape != (d_out, len(A)):
            raise WrongAdapter(
                f"the adapter is of another model: {name} has another shape there",
                received=f"A {tuple(A.shape)}, B {tuple(B.shape)}",
                allowed=f"A (r, {d_in}), B ({d_out}, r)",
            )
        change = scales[name] * (B.float() @ A.float())
        with torch.no_grad():
            weight.add_((change if out_in else change.T).to(weight))


def _pairs(tensors: dict[str, Any], adapter: Adapter) -> dict[str, tuple[Any, Any]]:
    """A [r, d_in] and B [d_out, r], by the module that they change. Raises WrongAdapter."""
    found: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        name, _, which = key.removeprefix(PREFIX).removesuffix(".weight").rpartition(".lora_")
        if which.removesuffix(".default") not in ("A", "B") or not name:
            raise WrongAdapter(
                "the adapter has a tensor that is no part of a low-rank pair",
                received=key[:200],
                allowed=f"{PREFIX}MODULE.lora_A.weight and .lora_B.weight",
            )
        found.setdefault(name, {})[which[0]] = tensor
    if not found or any(len(pair) != 2 for pair in found.values()):
        lone = next((name for name, pair in found.items() if len(pair) != 2), "no tensors at all")
        raise WrongAdapter("the adapter has half of a low-rank pair", received=f"{lone} in {adapter.path}")
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def _scale(adapter: Adapter, name: str) -> float:
    try:
        return scale_of(adapter.config, name)
    except (ArithmeticError, AttributeError, TypeError, ValueError, re.error) as error:
        raise WrongAdapter(
            "the adapter's rank or alpha is no number", received=f"{name[:200]}: {error}", allowed="r and lora_alpha above 0"
        ) from error  # fmt: skip


def scale_of(config: dict[str, Any], name: str) -> float:
    """What B A is multiplied by at one module: its own rank and alpha, where patterns of the config give them."""
    rank = _patterned(config.get("rank_pattern"), name, config.get("r", 8))
    alpha = _patterned(config.get("alpha_pattern"), name, config.get("lora_alpha", 8))
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _patterned(patterns: Any, name: str, unless: float) -> float:
    """The value of the first pattern that is the end of the name, as PEFT matches them."""
    return next((v for p, v in (patterns or {}).items() if re.match(rf"(.*\.)?({p})$", name)), unless)
