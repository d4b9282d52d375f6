"""Where a stock model keeps its parts, and which sites it has: hand-written module paths, resolved for the reference."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from by_hand import family_of
from torch import Tensor

from residscope.model.sites import KINDS

PARTS = (
    "attn", "attn_norm", "attn_proj", "attn_post_norm", "q_norm", "k_norm", "mlp", "mlp_norm", "mlp_up", "mlp_gate", "mlp_down",
    "mlp_post_norm", "router",
)  # fmt: skip
NORMS = ("attn_scale", "attn_post_scale", "mlp_scale", "mlp_post_scale", "q_scale", "k_scale", "final_scale")
INSIDE = ("q", "k", "v", "scores", "pattern", "z")


@dataclass(frozen=True)
class Wiring:
    """A private copy of a stock model, its modules by part, its constants and its sites."""

    hf: Any
    family: Any
    sizes: Any
    factors: Any
    blocks: tuple[SimpleNamespace, ...]
    names: tuple[str, ...]
    aliases: dict[str, str]

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def interface(self) -> bool:
        return self.family.attention == "interface"

    @property
    def mixture(self) -> bool:
        return "router" in self.names

    def module(self, path: str) -> Any:
        return self.hf.get_submodule(path)

    def canonical(self, site: str) -> str:
        """The one name of a tensor: `resid_post.0` is `resid_pre.1`."""
        name, _, layer = site.partition(".")
        name = self.aliases.get(name, name)
        if name == "resid_post" and int(layer) < self.n_layers - 1:
            return f"resid_pre.{int(layer) + 1}"
        return f"{name}.{layer}" if layer else name

    def expand(self, site: str) -> list[str]:
        """Every canonical site that a name, a group or a site means."""
        if site == "norms":
            return [one for name in NORMS if name in self.names for one in self.expand(name)]
        if site == "patterns":
            return self.expand("pattern")
        if "." in site or not KINDS[site].layered:
            return [self.canonical(site)]
        return [self.canonical(f"{site}.{layer}") for layer in range(self.n_layers)]

    def every(self) -> list[str]:
        """All canonical sites."""
        return list(dict.fromkeys(site for name in self.names for site in self.expand(name)))

    def axes(self, site: str) -> tuple[str, ...]:
        return KINDS[site.partition(".")[0]].axes

    def size(self, axis: str) -> int:
        s = self.sizes
        return {
            "d_model": s.d_model, "head": s.n_heads, "kv_head": s.n_kv_heads, "d_head": s.d_head, "d_mlp": s.d_mlp,
            "d_vocab": s.d_vocab, "expert": s.n_experts, "1": 1,
        }[axis]  # fmt: skip


def wire(model: Any) -> Wiring:
    hf = copy.deepcopy(model).eval().requires_grad_(False)
    family = family_of(hf.config)
    family = family.variant(hf.config)
    factors = family.read_factors(hf.config)
    blocks = []
    for block in hf.get_submodule(family.blocks).children():
        parts = {name: getattr(family.block, name) for name in PARTS}
        found = {name: None if path is None else block.get_submodule(path) for name, path in parts.items()}
        b = family.block
        found["attn_writer"] = block.get_submodule(b.attn_writer or b.attn_post_norm or b.attn)
        mlp_writer = b.mlp_writer or b.mlp_post_norm or b.mlp
        found["mlp_writer"] = None if mlp_writer is None else block.get_submodule(mlp_writer)
        blocks.append(SimpleNamespace(block=block, **found))
    bare = factors.residual == 1
    aliases = {"attn_raw": "attn_out"} if bare and not family.block.attn_post_norm else {}
    aliases |= {"mlp_raw": "mlp_out"} if bare and not family.block.mlp_post_norm else {}
    names = tuple(name for name in KINDS if name not in family.absent)
    return Wiring(hf, family, family.read_sizes(hf.config), factors, tuple(blocks), names, aliases)


def sigma_of(wiring: Wiring, module: Any, x: Tensor, kind: str) -> Tensor:
    """What a norm divides by: sqrt(mean x^2 + eps), of the centred x for a LayerNorm."""
    eps = next(getattr(m, wiring.family.norm_eps) for m in module.modules() if hasattr(m, wiring.family.norm_eps))
    x = x.double()
    if kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def matrix_of(module: Any) -> Tensor:
    """A layer's W as x @ W has it."""
    return module.weight.T if isinstance(module, torch.nn.Linear) else module.weight
