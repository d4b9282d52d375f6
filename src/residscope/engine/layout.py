"""Layout: a family file's module paths, resolved on one model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from residscope.engine.parameters import device_of, in_memory, is_plain, method_of, plain_weight
from residscope.engine.structure import has_adapters
from residscope.errors import UnknownFamily, UnmergedAdapter
from residscope.model.families import Factors, Family, family_of
from residscope.model.sites import SiteTable, Sizes

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
        return torch.stack([w.detach() for w in self.module.parameters()]).unsqueeze(1)  # one norm for each head

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
    attn: nn.Module
    attn_norm: Norm | None
    attn_proj: nn.Module
    attn_post_norm: Norm | None
    attn_writer: nn.Module
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
    returns: dict[bool, tuple[int | None, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )  # stock.py's memory

    def logits(
        self, x: Float[Tensor, "*batch d_model"], ids: Sequence[int] | None = None, overlays: Iterable[Any] = ()
    ) -> Float[Tensor, "*batch column"]:
        """The logits of a stream after the final norm: unembedded, scaled and capped as the model does; of some tokens only.

        overlays: weight changes of the run whose stream it is; those of the unembedding count. Whatever needs logits
        elsewhere than at the end of the model's own forward asks for them here.
        """
        if ids is None:
            raw = self.unembed(x)
        else:
            bias = in_memory(self.unembed, "bias")
            raw = x @ weight_in_out(self.unembed)[:, list(ids)]
            raw = raw if bias is None else raw + bias[list(ids)]
        for laid in overlays:
            if laid.module is self.unembed:
                raw = raw + (x @ laid.A.to(x)) @ (laid.B if ids is None else laid.B[:, list(ids)]).to(x)
        logits, cap = raw * self.factors.logits, self.factors.logits_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @cached_property
    def offloaded(self) -> bool:
        """Whether accelerate moves weights around its modules' forwards, which must then come to their end."""
        return any(hasattr(module, "_hf_hook") for module in self.modules)

    @cached_property
    def configs(self) -> tuple[Any, ...]:
        """The configurations that its modules read, each once."""
        every = [self.hf.config, *(module.config for module in self.modules if hasattr(module, "config"))]
        return tuple({id(config): config for config in every if hasattr(config, "_attn_implementation")}.values())

    @property
    def device(self) -> torch.device:
        return device_of(self.embed)

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype


def lay_out(hf: Any) -> Layout:
    """Find the parts of a stock model.

    Raises:
        UnmergedAdapter: an adapter of PEFT's works beside the weights. UnknownFamily: no family file, or one whose paths are
        not in this model. UnknownConfig: see `family_of`.
    """
    if has_adapters(hf):
        raise UnmergedAdapter(
            "an adapter works beside the model's weights, so they are not what it multiplies by",
            received=type(hf).__name__,
            allowed="a model whose adapter is merged into its weights",
            fix="merge it first: rs.load((model.merge_and_unload(), tokenizer))",
        )
    family = family_of(hf.config)
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

    def norm(module: nn.Module, kind: str = family.norm) -> Norm:
        eps = next(getattr(m, family.norm_eps) for m in module.modules() if hasattr(m, family.norm_eps))
        return Norm(module, kind, float(eps), family.norm_gain_offset)

    def block_parts(block: nn.Module, index: int) -> BlockParts:
        def inside(path: str) -> nn.Module:
            return part(block, path, f"{family.blocks}.{index}")

        def maybe(path: str | None) -> nn.Module | None:
            return None if path is None else inside(path)

        def maybe_norm(path: str | None) -> Norm | None:
            return None if path is None else norm(inside(path))

        b = family.block
        return BlockParts(
            block=block,
            attn=inside(b.attn),
            attn_norm=maybe_norm(b.attn_norm),
            attn_proj=inside(b.attn_proj),
            attn_post_norm=maybe_norm(b.attn_post_norm),
            attn_writer=inside(b.attn_writer or b.attn_post_norm or b.attn),
            q_norm=maybe_norm(b.q_norm),
            k_norm=maybe_norm(b.k_norm),
            sinks=block.get_parameter(b.sinks) if b.sinks else None,
            mlp=maybe(b.mlp),
            mlp_norm=maybe_norm(b.mlp_norm),
            mlp_up=maybe(b.mlp_up),
            mlp_gate=maybe(b.mlp_gate),
            mlp_down=maybe(b.mlp_down),
            mlp_post_norm=maybe_norm(b.mlp_post_norm),
            mlp_writer=maybe(b.mlp_writer or b.mlp_post_norm or b.mlp),
            router=maybe(b.router),
            experts=maybe(b.experts),
        )

    listed, factors = part(hf, family.blocks, "the model"), family.read_factors(hf.config)
    blocks = tuple(block_parts(block, i) for i, block in enumerate(listed.children()))
    quantised, absent = method_of(hf.config), dict(family.absent)
    if quantised and not all(is_plain(parts.attn_proj) for parts in blocks):
        absent |= {"result": f"a head's own write is z W_O, and W_O is quantised ({quantised})"}
    plain = factors.residual == 1
    aliases = {"attn_raw": "attn_out"} if plain and not family.block.attn_post_norm else {}
    aliases |= {"mlp_raw": "mlp_out"} if plain and not family.block.mlp_post_norm else {}
    return Layout(
        hf=hf,
        family=family,
        sizes=sizes,
        factors=factors,
        table=SiteTable(sizes, absent, aliases, family.gated),
        embed=part(hf, family.embed, "the model"),
        embed_writer=part(hf, family.embed_norm or family.embed, "the model"),
        pos_embed=part(hf, family.pos_embed, "the model") if family.pos_embed else None,
        blocks=blocks,
        final_norm=norm(part(hf, family.final_norm, "the model"), family.final_kind or family.norm),
        unembed=part(hf, family.unembed, "the model"),
        modules=tuple(hf.modules()),
        quantised=quantised,
    )


def weight_in_out(module: Any) -> Float[Tensor, "d_in d_out"]:
    """A linear layer's matrix as x @ W reads it, whichever way round the module keeps it. Raises QuantisedModel, NoWeights."""
    weight = plain_weight(module)
    return weight.T if isinstance(module, nn.Linear) else weight
