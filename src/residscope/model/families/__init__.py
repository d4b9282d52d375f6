"""Families: one data file each, saying where a Hugging Face decoder keeps its parts.

A file defines `FAMILY`. It names modules and configuration fields and holds no code that runs: the engine reads it, and
the certificate decides whether it is true.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from residscope.errors import UnknownConfig, UnknownFamily
from residscope.model.sites import Sizes

# Fields every configuration may carry that do not change the numbers a forward pass gives
# fmt: off
_HARMLESS = frozenset((
    "_name_or_path", "_model_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward", "dtype",
    "eos_token_id", "id2label", "initializer_range", "is_encoder_decoder", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "return_dict",
    "sep_token_id", "task_specific_params", "tie_word_embeddings", "torch_dtype", "transformers.js_config",
    "transformers_version", "unk_token_id", "use_cache",
))
# fmt: on


@dataclass(frozen=True)
class Block:
    """Where a block keeps its parts: module paths inside it. None where it has no such part."""

    attn: str
    attn_norm: str
    attn_proj: str
    mlp: str
    mlp_norm: str | None
    mlp_up: str
    mlp_down: str
    mlp_gate: str | None = None
    attn_post_norm: str | None = None
    mlp_post_norm: str | None = None


@dataclass(frozen=True)
class Family:
    """One Hugging Face family, as data.

    `sizes` maps Residscope's dimension names to configuration fields. `config` lists the fields the file knows, each with the
    values it may have (an empty tuple: any). `absent` gives the reason for each site the family lacks.
    """

    name: str
    model_types: tuple[str, ...]
    embed: str
    blocks: str
    block: Block
    final_norm: str
    unembed: str
    norm: str
    sizes: Mapping[str, str]
    config: Mapping[str, tuple[Any, ...]]
    pos_embed: str | None = None
    norm_eps: str = "eps"
    norm_gain_offset: float = 0.0
    softmax_dtype: str = "float32"
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def gated(self) -> bool:
        return self.block.mlp_gate is not None

    def read_sizes(self, config: Any) -> Sizes:
        """The model's dimensions. Raises UnknownConfig where a field has no value."""
        values: dict[str, int] = {}
        for name in ("n_layers", "d_model", "n_heads", "d_vocab", "context"):
            values[name] = int(getattr(config, self.sizes[name]))
        optional = {
            "n_kv_heads": values["n_heads"],
            "d_head": values["d_model"] // values["n_heads"],
            "d_mlp": 4 * values["d_model"],
        }
        for name, default in optional.items():
            found = getattr(config, self.sizes[name], None) if name in self.sizes else None
            values[name] = default if found is None else int(found)
        return Sizes(**values)

    def check_config(self, config: Any) -> None:
        """Refuse a configuration with a field, or a value, that this file does not know."""
        for name, value in config.to_dict().items():
            if name in _HARMLESS:
                continue
            if name not in self.config:
                raise UnknownConfig(
                    f"the {self.name} family file does not know the configuration field {name!r}, which may change the numbers",
                    received=f"{name}={value!r}",
                    allowed=", ".join(sorted(self.config)),
                    fix=f"check what the field does and add it to residscope/model/families/{self.name}.py",
                )
            allowed = self.config[name]
            if allowed and value not in allowed:
                raise UnknownConfig(
                    f"the {self.name} family file does not serve this value of {name!r}",
                    received=f"{name}={value!r}",
                    allowed=" or ".join(map(repr, allowed)),
                )


def families() -> dict[str, Family]:
    """Every family file in this folder, by model type."""
    found = [import_module(f"{__name__}.{module.name}").FAMILY for module in iter_modules(__path__)]
    return {model_type: family for family in found for model_type in family.model_types}


def family_of(config: Any) -> Family:
    """The family of a model's configuration, checked against it.

    Raises:
        UnknownFamily: no file for this model type. UnknownConfig: a field or value the file does not know.
    """
    known = families()
    model_type = getattr(config, "model_type", None)
    if model_type not in known:
        raise UnknownFamily(
            "no family file serves this model type",
            received=repr(model_type),
            allowed=", ".join(sorted(known)),
            fix="add a file to residscope/model/families (see docs/families.md)",
        )
    family = known[model_type]
    family.check_config(config)
    return family
