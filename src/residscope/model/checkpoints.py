"""TransformerLens' published checkpoints, read into folders that load like any other.

The hub holds them as a config.json of TransformerLens' own fields beside a pickled state dict `*_final.pth` of its own names.
The pickle is opened by torch's reader of plain tensors alone (`weights_only`), which runs no code; it is converted once.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from residscope.errors import DamagedModel, UnknownConfig
from residscope.incoming import Unreadable, content, parsed, regular, torch_values
from residscope.model import catalog

RECIPE = 1  # raise it when the conversion changes, and cached conversions are made anew
FINAL = "*final.pth"
TOKENIZER = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
AGAIN = "fetch the checkpoint again (residscope models rm, then pull)"

# each published size, and its name in our class's configuration
_SIZES = {
    "d_model": "hidden_size", "d_mlp": "intermediate_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
    "d_head": "head_dim", "n_ctx": "max_position_embeddings", "d_vocab": "vocab_size",
}  # fmt: skip
# each module of a checkpoint and of our class; each parameter's name there and here, and how its axes are turned
_MODULES = {
    "embed": "model.embed_tokens", "pos_embed": "model.embed_positions", "ln_final": "model.norm", "unembed": "lm_head",
    "ln1": "input_layernorm", "ln2": "post_attention_layernorm", "attn": "self_attn", "mlp": "mlp", "mlp.ln": "mlp.norm",
}  # fmt: skip
_PARAMETERS = {
    "W_E": ("weight", "v m -> v m"), "W_pos": ("weight", "p m -> p m"), "w": ("weight", "m -> m"), "b": ("bias", "m -> m"),
    "W_Q": ("q_proj.weight", "h m d -> (h d) m"), "b_Q": ("q_proj.bias", "h d -> (h d)"),
    "W_K": ("k_proj.weight", "h m d -> (h d) m"), "b_K": ("k_proj.bias", "h d -> (h d)"),
    "W_V": ("v_proj.weight", "h m d -> (h d) m"), "b_V": ("v_proj.bias", "h d -> (h d)"),
    "W_O": ("o_proj.weight", "h d m -> m (h d)"), "b_O": ("o_proj.bias", "m -> m"),
    "W_in": ("up.weight", "m n -> n m"), "b_in": ("up.bias", "n -> n"),
    "W_out": ("down.weight", "n m -> m n"), "b_out": ("down.bias", "m -> m"),
    "W_U": ("weight", "m v -> v m"), "b_U": ("bias", "v -> v"),
}  # fmt: skip


def published(path: Path) -> dict[str, Any] | None:
    """The configuration of a checkpoint in TransformerLens' format; None for a folder of any other kind."""
    try:
        raw = parsed(content(path / "config.json"), constants=True)
    except (OSError, ValueError):
        return None
    ours = (
        isinstance(raw, dict) and "model_type" not in raw and {"d_model", "n_layers", "n_ctx", "act_fn"} <= raw.keys()
    )
    return raw if ours else None


def converted(path: Path, *, name: str, digest: str, tokenizer: Callable[[], Path | None]) -> Path:
    """The folder in the cache with a checkpoint's weights as safetensors under our class's names; made on the first call.

    digest: of the checkpoint's contents. tokenizer: finds a folder with the tokenizer's files.

    Raises:
        DamagedModel: no checkpoint, more in the pickle than tensors, or weights that do not fit. UnknownConfig.
    """

    def make(folder: Path) -> None:
        raw = published(path) or {}
        fields, state = configuration(raw), _unpickle(checkpoint_in(path))
        if raw.get("architecture", "neel-solu-old" if "_old" in name else "neel") == "neel-solu-old":
            state = straightened(state, fields["num_hidden_layers"])
        if fields["num_hidden_layers"] > len(state):
            raise DamagedModel(
                "the configuration describes more layers than the checkpoint has tensors",
                received=f"n_layers: {fields['num_hidden_layers']}", allowed=f"at most {len(state):,}", fix=AGAIN,
            )  # fmt: skip
        with _fitting():
            _save(folder, fields, renamed(state), tokenizer())

    return catalog.made_once(folder_of(name, digest), make, lock=name.replace("/", "--"))


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """What a configuration and tensors that do not belong together make of each other. Raises DamagedModel."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"[:300]
        raise DamagedModel("the checkpoint does not fit its configuration", received=reason, fix=AGAIN) from error


def folder_of(name: str, digest: str = "") -> Path:
    """Where a converted checkpoint lies; without a digest, a pattern for all of that name."""
    return catalog.cache_folder() / "models" / f"{name.replace('/', '--')}-{digest[:8] or '*'}-{RECIPE}"


def checkpoint_in(path: Path) -> Path:
    """The final checkpoint of a folder.

    Raises:
        DamagedModel: there is none.
    """
    checkpoints = sorted(file for file in path.glob(FINAL) if regular(file))
    if not checkpoints:
        raise DamagedModel("no checkpoint", received=str(path), allowed=FINAL, fix=AGAIN)
    return checkpoints[0]


def configuration(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Our class's configuration fields for a published configuration.

    Raises:
        UnknownConfig: an architecture, norm or activation that the class does not have, or a size that is missing.
    """
    from residscope.model.toys import ACTIVATIONS

    attn_only = bool(raw.get("attn_only"))
    given = {
        "architecture": (raw.get("architecture", "neel"), ("neel", "neel-solu-old")),
        "normalization": (raw.get("normalization", raw.get("normalization_type")), ("LN", "LNPre")),
        "act_fn": (raw["act_fn"], (raw["act_fn"],) if attn_only else tuple(ACTIVATIONS)),
    }
    for field, (value, served) in given.items():
        if value not in served:
            raise UnknownConfig(
                "the checkpoint is of a toy that Residscope does not know",
                received=f"{field}={value!r}",
                allowed=" or ".join(map(repr, served)),
            )
    sizes = _SIZES.keys() - ({"d_mlp"} if attn_only else set())
    if missing := sorted(size for size in sizes if not isinstance(raw.get(size), int)):
        raise UnknownConfig("the checkpoint's configuration lacks a size", received=f"no {', '.join(missing)}")
    return {
        **{_SIZES[size]: raw[size] for size in sizes},
        **({"intermediate_size": 0} if attn_only else {"hidden_act": raw["act_fn"]}),
        "attn_only": attn_only,
        "shortformer": bool(raw.get("shortformer_pos", False)),
        "final_rms": bool(raw.get("final_rms", False)),
    }


def straightened(state: Mapping[str, Any], n_layers: int) -> dict[str, Any]:
    """The first SoLU models' weights as all later ones are: their norms had another name, matrices the other way round.

    Positions are transposed up to 8 layers, every other matrix up to 6 (TransformerLens, `convert_neel_solu_old_weights`).
    """
    weights = {}
    for key, weight in state.items():
        key = key.replace("norm", "ln")
        key = f"ln_final.{key.removeprefix('ln.')}" if key.startswith("ln.") else key
        turned = n_layers <= 8 if key == "pos_embed.W_pos" else "W_" in key and n_layers <= 6
        weights[key] = weight.transpose(-2, -1) if turned else weight
    return weights


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """TransformerLens' parameters under our class's names. What is not a parameter is a buffer (the causal mask).

    Raises:
        DamagedModel: a parameter of no part of the model.
    """
    from einops import rearrange

    parameters = {}
    for key, weight in state.items():
        block, module, name = re.fullmatch(r"(blocks\.\d+\.)?(?:(.*)\.)?(.*)", key).groups()  # type: ignore[union-attr]
        if not re.fullmatch(r"[Wb]_\w+|w|b", name):
            continue
        if module not in _MODULES or name not in _PARAMETERS:
            raise DamagedModel("the checkpoint holds a parameter of no part of the model", received=key, fix=AGAIN)
        ours, axes = _PARAMETERS[name]
        layer = "" if block is None else block.replace("blocks", "model.layers")
        parameters[f"{layer}{_MODULES[module]}.{ours}"] = rearrange(weight, axes)
    return parameters


def completed(weights: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The weights, with those that a checkpoint leaves out as TransformerLens begins them: gains 1, biases 0.

    Folded norms (LNPre) have no parameters: these give the same numbers.

    Raises:
        DamagedModel: a matrix is missing, a weight is of no part of the model or of another shape.
    """
    import torch

    if spare := sorted(weights.keys() - expected.keys()):
        raise DamagedModel("the checkpoint holds more than its configuration says", received=", ".join(spare[:3]))
    completed = {}
    for key, like in expected.items():
        if key not in weights and like.ndim > 1:
            raise DamagedModel("the checkpoint lacks a matrix", received=f"no {key}", fix=AGAIN)
        completed[key] = (
            weights.get(key, torch.full(like.shape, 0.0 if key.endswith("bias") else 1.0)).float().contiguous()
        )
        if completed[key].shape != like.shape:
            received, allowed = (str(tuple(x.shape)) for x in (completed[key], like))
            raise DamagedModel(f"{key} does not fit the configuration", received=received, allowed=allowed)
    return completed


def _save(into: Path, fields: dict[str, Any], weights: Mapping[str, Any], tokenizer: Path | None) -> None:
    import torch
    from transformers import AutoTokenizer

    from residscope.model.toys import ToyConfig, ToyForCausalLM

    words = None if tokenizer is None else AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    if words is not None:
        words.bos_token = words.bos_token or words.eos_token  # as TransformerLens does
        fields = fields | {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}
        words.save_pretrained(into)
    with torch.device("meta"):
        hf = ToyForCausalLM(ToyConfig(**fields))
    hf.load_state_dict(completed(weights, hf.state_dict()), assign=True)
    hf.save_pretrained(into)


def _unpickle(file: Path) -> dict[str, Any]:
    import torch

    try:
        state = torch_values(file)
    except (Unreadable, FileNotFoundError) as error:
        raise DamagedModel(
            f"{file.name} is not a plain state dict", received=str(error), allowed="tensors by name, no code", fix=AGAIN
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(x, torch.Tensor) and isinstance(key, str) for key, x in state.items()
    ):
        raise DamagedModel(f"{file.name} is not a state dict", received=type(state).__name__, allowed="tensors by name")
    return state
