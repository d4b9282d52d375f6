"""Layout: a family file's module paths, resolved on one model."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residscope.engine.parameters import device_of, in_memory, is_plain, method_of, plain_weight, ranks_of
from residscope.engine.structure import has_adapters
from residscope.errors import AbsentSite, UnknownFamily, UnmergedAdapter
from residscope.model.families import Factors, Family, family_of
from residscope.model.sites import SiteTable, Sizes

_PLACEHOLDER = re.compile("(image|video|audio)_token_(id|index)")  # what configurations call them
# what each process sees a part of, where weights are spread over several
_SPREAD = (
    "q",
    "k",
    "v",
    "scores",
    "pattern",
    "z",
    "result",
    "q_scale",
    "k_scale",
    "mlp_pre",
    "mlp_gate",
    "mlp_post",
    "router",
)
_LARGEST = 1e18  # stock norms square in float32, and so give nothing for a stream much longer


@dataclass(frozen=True)
class Norm:
    """A LayerNorm or RMSNorm of the model, and the divisor it computes.

    LayerNorm: y = (x - mean x) / sigma * g + b with sigma = sqrt(var x + eps); RMSNorm: y = x / sigma * g with
    sigma = sqrt(mean x^2 + eps).
    """

    module: Any
    kind: str
    eps: float
    gain_offset: float

    def sigma(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
        """The divisor for x, in float32 at least, as the stock norms compute it."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.kind == "layer":
            wide = wide - wide.mean(-1, keepdim=True)
        return (wide.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()

    @property
    def gain(self) -> Float[Tensor, "..."]:
        if (weight := in_memory(self.module, "weight")) is not None:
            return weight + self.gain_offset
        own = [w.detach() for w in self.module.parameters()]
        return torch.stack(own).unsqueeze(1) if own else torch.ones(())  # one norm for each head; or no gain at all

    @property
    def bias(self) -> Float[Tensor, "d_model"] | None:
        return in_memory(self.module, "bias")

    def center(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """x as the norm sees it: without its mean, for LayerNorm."""
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x

    def over(self, x: Tensor, divisor: Tensor) -> Tensor:
        """The norm's output for x, had its divisor been this one: finite also where x is so large that its own is not."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        core = (self.center(wide) / divisor).to(x.dtype) * self.gain
        return (core if self.bias is None else core + self.bias).to(x.dtype)

    def rescale(self, out: Tensor, old: Tensor, new: Tensor, x: Tensor | None = None) -> Tensor:
        """The norm's output, had its divisor been `new` instead of `old`; where what it read, x, was too large for it, from x."""
        bias = self.bias
        core = out if bias is None else out - bias
        core = (core * (old / new)).to(out.dtype)
        scaled = core if bias is None else core + bias
        lost = old > _LARGEST
        return scaled if x is None or not lost.any() else torch.where(lost, self.over(x, new).to(out.dtype), scaled)


@dataclass(frozen=True)
class BlockParts:
    """The modules of one block, None where there is no such part. A writer's output, times the residual factor, is added."""

    block: nn.Module
    attn: nn.Module | None
    attn_core: nn.Module | None
    attn_norm: Norm | None
    attn_proj: nn.Module | None
    attn_post_norm: Norm | None
    attn_writer: nn.Module | None
    q_norm: Norm | None
    k_norm: Norm | None
    sinks: Tensor | None
    mlp: nn.Module | None
    mlp_norm: Norm | None
    mlp_up: nn.Module | None
    mlp_gate: nn.Module | None
    mlp_down: nn.Module | None
    mlp_post_norm: Norm | None
    mlp_writer: nn.Module | None
    router: nn.Module | None
    experts: nn.Module | None
    qk_axes: str = "pos head d_head"
    mlp_in_place: bool = False
    attn_beside: nn.Module | None = None
    mlp_beside: nn.Module | None = None
    z_changed: bool = False


@dataclass(frozen=True)
class Layout:
    """Where everything is in one model."""

    hf: Any
    family: Family
    sizes: Sizes
    factors: Factors
    table: SiteTable
    embed: Any
    embed_writer: nn.Module
    pos_embed: nn.Module | None
    blocks: tuple[BlockParts, ...]
    final_norm: Norm
    unembed: nn.Module
    modules: tuple[nn.Module, ...]
    quantised: str | None = None
    ranks: int = 1
    returns: dict[bool, tuple[int | None, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )  # stock.py's memory

    def logits(
        self,
        x: Float[Tensor, "*batch d_model"],
        ids: Sequence[int] | slice | None = None,
        overlays: Iterable[Any] = (),
        into: Float[Tensor, "*batch column"] | None = None,
    ) -> Float[Tensor, "*batch column"]:
        """The logits of a stream after the final norm: unembedded, scaled and capped as the model does; of some tokens only.

        overlays: weight changes of the run whose stream it is; those of the unembedding count. Whatever needs logits
        elsewhere than at the end of the model's own forward asks for them here. into: where the products may be put.
        """
        if ids is None:
            raw = self.unembed(x)
        else:
            columns, bias = ids if isinstance(ids, slice) else list(ids), in_memory(self.unembed, "bias")
            raw = torch.matmul(x, weight_in_out(self.unembed)[:, columns], out=into)
            raw = raw if bias is None else raw + bias[columns]
        for laid in overlays:
            if laid.module is self.unembed:
                raw = raw + (x @ laid.A.to(x)) @ (laid.B if ids is None else laid.B[:, columns]).to(x)
        cap = self.factors.logits_cap
        logits = raw if self.factors.logits == 1 else raw * self.factors.logits
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @property
    def whole(self) -> bool:
        """Whether later positions can only be run together with those before them."""
        return self.family.whole

    @property
    def fed(self) -> bool:
        """Whether blocks are also given something of the tokens that is not the stream."""
        return self.family.fed

    @cached_property
    def offloaded(self) -> bool:
        """Whether accelerate moves weights around its modules' forwards, which must then come to their end."""
        return any(hasattr(module, "_hf_hook") for module in self.modules)

    @cached_property
    def placeholders(self) -> frozenset[int]:
        """The token ids that stand for images and sound."""
        return placeholders(self.hf.config)

    @cached_property
    def configs(self) -> tuple[Any, ...]:
        """The configurations that its modules read, each once."""
        return configs_of(self.hf)

    @property
    def device(self) -> torch.device:
        return device_of(self.embed)

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype


def placeholders(config: Any) -> frozenset[int]:
    """The token ids that stand for images and sound, where a model has a part that reads those."""
    given = {name: value for name, value in vars(config).items() if isinstance(value, int)}
    return frozenset(value for name, value in given.items() if _PLACEHOLDER.fullmatch(name))


def configs_of(hf: Any) -> tuple[Any, ...]:
    """The configurations that a model's modules read, each once."""
    every = [hf.config, *(module.config for module in hf.modules() if hasattr(module, "config"))]
    return tuple({id(config): config for config in every if hasattr(config, "_attn_implementation")}.values())


def require_merged(hf: Any) -> None:
    """Raises UnmergedAdapter: an adapter of PEFT's works beside the weights."""
    if has_adapters(hf):
        raise UnmergedAdapter(
            "an adapter works beside the model's weights, so they are not what it multiplies by",
            received=type(hf).__name__,
            allowed="a model whose adapter is merged into its weights",
            fix="merge it first: rs.load((model.merge_and_unload(), tokenizer))",
        )


def lay_out(hf: Any, family: Family | None = None) -> Layout:
    """Find the parts of a stock model, as its family's file says or the family given.

    Raises:
        UnmergedAdapter: an adapter of PEFT's works beside the weights. UnknownFamily: no family file, or one whose paths are
        not in this model. UnknownConfig: see `family_of`.
    """
    require_merged(hf)
    family = family or family_of(hf.config)
    sizes = family.read_sizes(hf.config)

    def part(root: nn.Module, path: str, where: str) -> nn.Module:
        try:
            return root.get_submodule(path)
        except AttributeError:
            raise UnknownFamily(
                f"the {family.name} family file names a part that is not in this model",
                received=f"{path} in {where}",
                fix=f"correct residscope/model/families/{family.name}.py",
            ) from None

    def norm(module: nn.Module, role: str) -> Norm:
        usual = (family.norm, family.norm_eps, family.norm_gain_offset)
        kind, eps, offset = family.norms.get(role, usual)
        if role == "final_norm" and role not in family.norms:
            kind = family.final_kind or kind
        if isinstance(eps, str):
            eps = float(next(getattr(m, eps) for m in module.modules() if hasattr(m, eps)))
        return Norm(module, kind, eps, offset)

    def block_parts(block: nn.Module, index: int) -> BlockParts:
        def inside(path: str) -> nn.Module:
            return part(block, path, f"{family.blocks}.{index}")

        def maybe(path: str | None) -> nn.Module | None:
            return None if path is None else inside(path)

        def maybe_norm(role: str) -> Norm | None:
            path = getattr(b, role)
            return None if path is None else norm(inside(path), role)

        b = family.block_of(index)
        return BlockParts(
            block=block,
            attn=maybe(b.attn),
            attn_core=maybe(b.core or b.attn),
            attn_norm=maybe_norm("attn_norm"),
            attn_proj=maybe(b.attn_proj),
            attn_post_norm=maybe_norm("attn_post_norm"),
            attn_writer=maybe(b.attn_writer or b.attn_post_norm or b.attn),
            q_norm=maybe_norm("q_norm"),
            k_norm=maybe_norm("k_norm"),
            sinks=block.get_parameter(b.sinks) if b.sinks else None,
            mlp=maybe(b.mlp),
            mlp_norm=maybe_norm("mlp_norm"),
            mlp_up=maybe(b.mlp_up),
            mlp_gate=maybe(b.mlp_gate),
            mlp_down=maybe(b.mlp_down),
            mlp_post_norm=maybe_norm("mlp_post_norm"),
            mlp_writer=maybe(b.mlp_writer or b.mlp_post_norm or b.mlp),
            router=maybe(b.router),
            experts=maybe(b.experts),
            qk_axes=b.qk_norm_axes,
            mlp_in_place=b.mlp_added_in_place,
            attn_beside=maybe(b.attn_beside),
            mlp_beside=maybe(b.mlp_beside),
            z_changed=b.z_changed,
        )

    listed, factors = part(hf, family.blocks, "the model"), family.read_factors(hf.config)
    blocks = tuple(block_parts(block, i) for i, block in enumerate(listed.children()))
    quantised, absent = method_of(hf.config), dict(family.absent)
    if quantised and not all(parts.attn_proj is None or is_plain(parts.attn_proj) for parts in blocks):
        absent |= {"result": f"a head's own write is z W_O, and W_O is quantised ({quantised})"}
    ranks, kept = ranks_of(hf), family
    if ranks > 1:
        part_of = f"tensor parallel: each of {ranks} processes computes a part of the heads and neurons"
        absent, kept = dict.fromkeys(_SPREAD, part_of) | absent, replace(family, whole=True)
        sizes = _whole_sizes(sizes, hf.config.get_text_config())
    described = [family.block_of(i) for i in range(len(blocks))]
    plain = factors.residual == 1
    aliases = {"attn_raw": "attn_out"} if plain and not any(b.attn_post_norm for b in described) else {}
    aliases |= {"mlp_raw": "mlp_out"} if plain and not any(b.mlp_post_norm for b in described) else {}
    return Layout(
        hf=hf,
        family=kept,
        sizes=sizes,
        factors=factors,
        table=SiteTable(sizes, everywhere(absent, sizes.n_layers), aliases, family.gated),
        embed=part(hf, family.embed, "the model"),
        embed_writer=part(hf, family.embed_norm or family.embed, "the model"),
        pos_embed=part(hf, family.pos_embed, "the model") if family.pos_embed else None,
        blocks=blocks,
        final_norm=norm(part(hf, family.final_norm, "the model"), "final_norm"),
        unembed=part(hf, family.unembed, "the model"),
        modules=tuple(hf.modules()),
        quantised=quantised,
        ranks=ranks,
    )


def _whole_sizes(sizes: Sizes, config: Any) -> Sizes:
    """The sizes of a model of which one process sees a part of the heads and neurons, as its configuration says them."""
    fields = {"n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "d_mlp": "intermediate_size"}
    told = {name: getattr(config, field, None) for name, field in fields.items()}
    whole: dict[str, Any] = {name: value for name, value in told.items() if isinstance(value, int)}
    return replace(sizes, **whole)


def everywhere(absent: Mapping[str, str], n_layers: int) -> dict[str, str]:
    """Reasons by name where a site is absent in every layer, by site where it is in some."""
    told = dict(absent)
    for name in {site.rpartition(".")[0] for site in absent if "." in site}:
        sites = [f"{name}.{layer}" for layer in range(n_layers)]
        if all(site in told for site in sites):
            told = {site: why for site, why in told.items() if site not in sites} | {name: told[sites[0]]}
    return told


def weight_in_out(module: Any) -> Float[Tensor, "d_in d_out"]:
    """A linear layer's matrix as x @ W reads it, whichever way round the module keeps it.

    Raises:
        QuantisedModel, NoWeights. AbsentSite: this layer has no such matrix.
    """
    if module is None:
        raise AbsentSite(
            "a layer has no such matrix: no head, or no neuron, is seen there",
            received="the weights of a layer without one", allowed="the layers that model.sites names for z and mlp_post",
        )  # fmt: skip
    weight = plain_weight(module)
    return weight.T if isinstance(module, nn.Linear) else weight
