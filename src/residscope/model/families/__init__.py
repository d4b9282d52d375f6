"""Families: where a Hugging Face decoder keeps its parts, as data.

Most are found by looking (`engine.look`). A file is for what no forward shows, and says what that is. It defines `FAMILY`; so may
a plugin's, by an entry point of the group `residscope.families`. It names modules and configuration fields and holds no code
that runs: the engine reads it, and the certificate decides whether it is true.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from residscope.declare.plugins import load_group, skip
from residscope.errors import UnknownConfig, UnknownFamily
from residscope.model.sites import HeadSizes, Sizes

# Fields every configuration may carry that do not change the numbers a forward pass gives
# fmt: off
HARMLESS = frozenset((
    "_model_name_or_path", "_name_or_path", "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "dtype", "eos_token_id", "gradient_checkpointing", "id2label", "initializer_range", "is_encoder_decoder", "label2id",
    "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
    "return_dict", "sep_token_id", "task_specific_params", "tie_word_embeddings", "tokenizer_class", "torch_dtype",
    "transformers.js_config", "transformers_version", "unk_token_id", "use_cache",
))
# fmt: on


@dataclass(frozen=True)
class Block:
    """Where a block keeps its parts: module paths inside it. None where it has no such part.

    A writer is the module whose output is added to the stream: the post-norm or the branch itself, unless said. `mlp_up` and
    `mlp_gate` may name one module, whose output is then the gate's half and the other's. `qk_norm_axes` are those of what
    the norms of queries and keys read. `mlp_added_in_place`: the block adds to the MLP's output where it lies. `heads`: how many
    heads and KV heads, the length of q and k and that of v and z, where they are not the family's `sizes`.
    """

    attn: str | None
    attn_norm: str | None
    attn_proj: str | None
    mlp: str | None
    mlp_norm: str | None
    mlp_up: str | None
    mlp_down: str | None
    mlp_gate: str | None = None
    attn_post_norm: str | None = None
    mlp_post_norm: str | None = None
    attn_writer: str | None = None
    mlp_writer: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    qk_norm_axes: str = "pos head d_head"
    sinks: str | None = None
    router: str | None = None
    experts: str | None = None
    mlp_added_in_place: bool = False
    attn_beside: str | None = None
    mlp_beside: str | None = None
    z_changed: bool = False
    core: str | None = None
    positions: str | None = None
    heads: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Variant:
    """What is otherwise where configuration fields have these values: merged over the family's own (absent None: present)."""

    when: Mapping[str, tuple[Any, ...]]
    block: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, str | int] = field(default_factory=dict)
    absent: Mapping[str, str | None] = field(default_factory=dict)
    final_kind: str | None = None
    positions: str | None = None


@dataclass(frozen=True)
class Factors:
    """The constants a model multiplies by, or caps with, on the way.

    embed: the embedding; residual: what attention and MLP add to the stream; logits: what the unembedding gives. A cap c
    makes x into c tanh(x / c): of the attention scores, and of the logits.
    """

    embed: float = 1.0
    residual: float = 1.0
    logits: float = 1.0
    scores_cap: float | None = None
    logits_cap: float | None = None


@dataclass(frozen=True)
class Family:
    """One Hugging Face family, as data.

    `sizes` maps Residscope's dimension names to configuration fields, or to a number. `factors` maps the names of `Factors` to
    fields (`1/logits`: the field divides), or to numbers. `others` are the blocks that are not as `block` says, by layer; a
    site of one layer (`z.3`) may be absent by itself. `whole`: what a block makes of later positions cannot be had from keys
    and values of the earlier ones, so they run together. `fed`: blocks are also given something of the tokens that is not the
    stream (the embeddings once more, inputs of each layer's own), so the rows of a pass must be prompts of its own. `norms`:
    those of a role (`attn_norm`, `q_norm`, `final_norm` ...) that are of another kind, eps or offset than the family's.
    `found`: by looking (`engine.look`). `config` lists the fields the file knows, each with the values it may have (an empty
    tuple: any; `attn_config.alibi`: a field of a field); `same` those that must equal another; `reasons` says why a
    value is refused. `final_kind` is the last norm's kind where it is not `norm`. `absent` gives the reason for each site
    the family lacks. `attention` is how the engine reaches the sites inside it: through transformers' own interface, or
    through the module's two matrix products.

    What is only said, in a block's equations (`engine.flow`): `positions` come in as `rotary` (where `rotary_switch` of the
    attention module is on), `added` to the stream, as `slopes` on the scores, or `beside` what queries and keys read.
    `scores_scale` is what the attention module calls the factor of q k^T (`1/name`: it divides), or a number; `query_scale`
    one that is in the queries already. `activation` is the configuration's field, or the nonlinearity's name itself.
    """

    name: str
    model_types: tuple[str, ...]
    embed: str
    blocks: str
    block: Block
    final_norm: str
    unembed: str
    norm: str
    sizes: Mapping[str, str | int]
    config: Mapping[str, tuple[Any, ...]]
    pos_embed: str | None = None
    embed_norm: str | None = None
    final_kind: str | None = None
    norm_eps: str | float = "eps"
    norm_gain_offset: float = 0.0
    softmax_dtype: str = "float32"
    attention: str = "interface"
    positions: str = "rotary"
    rotary_switch: str | None = None
    scores_scale: str | float = "scaling"
    query_scale: str | None = None
    activation: str = "hidden_act"
    factors: Mapping[str, str | float] = field(default_factory=dict)
    norms: Mapping[str, tuple[str, str | float, float]] = field(default_factory=dict)
    others: Mapping[int, Block] = field(default_factory=dict)
    found: bool = False
    whole: bool = False
    fed: bool = False
    same: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()

    @property
    def gated(self) -> bool:
        return self.block.mlp_gate is not None

    def block_of(self, layer: int) -> Block:
        """Where the parts of one layer's block are."""
        return self.others.get(layer, self.block)

    def variant(self, config: Any) -> "Family":
        """The family as it is for this configuration."""
        family = self
        for v in self.variants:
            if all(getattr(config, name, None) in values for name, values in v.when.items()):
                absent = {k: why for k, why in {**family.absent, **v.absent}.items() if why is not None}
                sizes, block = {**family.sizes, **v.sizes}, replace(family.block, **v.block)
                kind = v.final_kind or family.final_kind
                places = v.positions or family.positions
                family = replace(family, block=block, sizes=sizes, absent=absent, final_kind=kind, positions=places)
        return replace(family, variants=())

    def read_sizes(self, config: Any) -> Sizes:
        """The model's dimensions."""

        def read(name: str, default: int | None = None) -> int:
            where = self.sizes.get(name)
            value = getattr(config, where, None) if isinstance(where, str) else where
            if value is None and default is None:
                raise UnknownConfig(f"the configuration does not say {name}", received=f"{where}=None")
            return int(value if value is not None else default or 0)

        n_heads, d_model, d_qk = read("n_heads"), read("d_model"), read("d_qk", 0)
        n_kv_heads, d_head = read("n_kv_heads", n_heads), read("d_head", d_model // n_heads)
        told = [self.block_of(layer).heads for layer in range(read("n_layers"))]
        usual = HeadSizes(n_heads, n_kv_heads, d_head, d_qk or d_head)
        every = [usual if own is None else HeadSizes(own[0], own[1], own[3], own[2]) for own in told]
        return Sizes(
            n_layers=read("n_layers"),
            n_heads=max(heads.n_heads for heads in every),
            n_kv_heads=n_kv_heads,
            d_model=d_model,
            d_head=d_head,
            d_mlp=read("d_mlp", 4 * d_model),
            d_vocab=read("d_vocab"),
            context=read("context"),
            n_experts=read("n_experts", 0),
            d_qk=d_qk,
            heads=dict(enumerate(every)) if any(told) else {},
        )

    def read_factors(self, config: Any) -> Factors:
        """The model's constants; those without a field, or without a value, do nothing."""
        factors: dict[str, float] = {}
        for name, where in self.factors.items():
            value = where if isinstance(where, float) else getattr(config, where, None)
            if value is not None:
                factors[name.removeprefix("1/")] = 1 / float(value) if name.startswith("1/") else float(value)
        return Factors(**factors)

    def strange(self, config: Any) -> list[str]:
        """The fields of a configuration that this file does not know."""
        return [name for name, _ in self._fields(config.to_dict()) if name not in self.config]

    def check_config(self, config: Any) -> None:
        """Refuse a configuration with a field, or a value, that this file does not know."""
        for name, value in self._fields(config.to_dict()):
            if name not in self.config:
                raise UnknownConfig(
                    f"the {self.name} family file does not know the configuration field {name!r}, which may change the numbers",
                    received=f"{name}={value!r}",
                    allowed=", ".join(sorted(self.config)),
                    fix=f"check what the field does and add it to residscope/model/families/{self.name}.py",
                )
            allowed = self.config[name]
            if name in self.same:
                allowed = (getattr(config, self.same[name]),)
            if allowed and value not in allowed:
                why = f": {self.reasons[name]}" if name in self.reasons else ""
                raise UnknownConfig(
                    f"the {self.name} family file does not serve this value of {name!r}{why}",
                    received=f"{name}={value!r}",
                    allowed=" or ".join(map(repr, allowed)),
                )

    def _fields(self, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
        """Every field that may matter; those of a field that is a table of its own, one by one."""
        for name, value in values.items():
            full = prefix + name
            if name in HARMLESS or full == "quantization_config":  # the engine's to decide, for every family alike
                continue
            if isinstance(value, Mapping) and full not in self.config:
                yield from self._fields(value, f"{full}.")
            else:
                yield full, value


def families() -> dict[str, Family]:
    """Every family file in this folder, and those that plugins bring, by model type."""
    files = [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]
    listed = [import_module(f"{__name__}.{name}").FAMILY for name in files]
    own = {model_type: family for family in listed for model_type in family.model_types}
    return {**_plugins(own), **own}


def _plugins(own: Mapping[str, Family]) -> dict[str, Family]:
    """The families of plugins. One that is none, or that would serve a model type twice, is named in `plugins.BROKEN`."""
    served: dict[str, Family] = {}
    for name, loaded in load_group("residscope.families").items():
        family = getattr(loaded, "FAMILY", loaded)
        if not isinstance(family, Family):
            skip(name, f"it is no Family: {type(family).__name__}")
        elif twice := [model_type for model_type in family.model_types if model_type in own or model_type in served]:
            skip(name, f"another family serves the model type {twice[0]}")
        else:
            served |= dict.fromkeys(family.model_types, family)
    return served


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
    return family.variant(config)
