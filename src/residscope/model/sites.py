"""Sites: the named places in a decoder's forward pass, in the field's words.

A site is written `name.layer` (`resid_pre.6`, `pattern.3`) or, where there is one in the whole model, `name` (`embed`,
`logits`). That one spelling is used in code, files, URLs and on the page. TransformerLens' names are understood too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from residscope.errors import AbsentSite, UnknownHead, UnknownLayer, UnknownNeuron, UnknownSite


@dataclass(frozen=True)
class Kind:
    """What the sites of one name have in common: their shape, and what stands there."""

    dims: str
    about: str
    layered: bool = True

    @property
    def axes(self) -> tuple[str, ...]:
        return tuple(self.dims.split())


KINDS: dict[str, Kind] = {
    "embed": Kind("batch pos d_model", "the token embedding, as added to the stream", layered=False),
    "pos_embed": Kind("batch pos d_model", "the position embedding, as added to the stream", layered=False),
    "resid_pre": Kind("batch pos d_model", "the stream before the block"),
    "attn_scale": Kind("batch pos 1", "the divisor of the norm before attention"),
    "attn_in": Kind("batch pos d_model", "what attention's weights read"),
    "q": Kind("batch pos head d_head", "queries, after rotary"),
    "k": Kind("batch pos kv_head d_head", "keys, after rotary"),
    "v": Kind("batch pos kv_head d_head", "values"),
    "q_scale": Kind("batch pos head 1", "the divisor of the norm of each query"),
    "k_scale": Kind("batch pos kv_head 1", "the divisor of the norm of each key"),
    "scores": Kind("batch head query key", "attention scores: scaled, capped and masked, before the softmax"),
    "pattern": Kind("batch head query key", "attention probabilities"),
    "z": Kind("batch pos head d_head", "each head's mix of values"),
    "result": Kind("batch pos head d_model", "each head's own write to the stream, z W_O"),
    "attn_raw": Kind("batch pos d_model", "the attention module's own output"),
    "attn_post_scale": Kind("batch pos 1", "the divisor of the norm after attention"),
    "attn_out": Kind("batch pos d_model", "what attention adds to the stream"),
    "resid_mid": Kind("batch pos d_model", "the stream between attention and MLP"),
    "mlp_scale": Kind("batch pos 1", "the divisor of the norm before the MLP"),
    "mlp_in": Kind("batch pos d_model", "what the MLP's weights read"),
    "mlp_pre": Kind(
        "batch pos d_mlp", "x W_in: what the nonlinearity reads, or, with a gate, what the gate multiplies"
    ),
    "mlp_gate": Kind("batch pos d_mlp", "x W_gate, before the nonlinearity"),
    "mlp_post": Kind("batch pos d_mlp", "the neurons: what W_out reads"),
    "router": Kind("batch pos expert", "the router's logits"),
    "mlp_raw": Kind("batch pos d_model", "the MLP module's own output"),
    "mlp_post_scale": Kind("batch pos 1", "the divisor of the norm after the MLP"),
    "mlp_out": Kind("batch pos d_model", "what the MLP adds to the stream"),
    "resid_post": Kind("batch pos d_model", "the stream after the block"),
    "final_scale": Kind("batch pos 1", "the divisor of the final norm", layered=False),
    "final_norm": Kind("batch pos d_model", "the stream after the final norm", layered=False),
    "logits": Kind("batch pos d_vocab", "the logits, as the model emits them", layered=False),
}

# TransformerLens' hook names within a block, and ours
_TRANSFORMER_LENS = {
    "hook_resid_pre": "resid_pre", "hook_resid_mid": "resid_mid", "hook_resid_post": "resid_post",
    "hook_attn_in": "attn_in", "hook_attn_out": "attn_out", "hook_mlp_in": "mlp_in", "hook_mlp_out": "mlp_out",
    "ln1.hook_scale": "attn_scale", "ln2.hook_scale": "mlp_scale",
    "attn.hook_q": "q", "attn.hook_k": "k", "attn.hook_v": "v", "attn.hook_rot_q": "q", "attn.hook_rot_k": "k",
    "attn.hook_z": "z", "attn.hook_attn_scores": "scores", "attn.hook_pattern": "pattern", "attn.hook_result": "result",
    "mlp.hook_pre": "mlp_pre", "mlp.hook_pre_linear": "mlp_pre", "mlp.hook_post": "mlp_post",
    "hook_embed": "embed", "hook_pos_embed": "pos_embed", "ln_final.hook_scale": "final_scale",
}  # fmt: skip
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_SITE = re.compile(r"([a-z_]+?)(?:\.(\d+))?")


@dataclass(frozen=True, order=True)
class Site:
    """One place: a name, and a layer where every layer has one.

    >>> Site.parse("resid_pre.6"), str(Site("pattern", 3)), str(Site.parse("blocks.10.attn.hook_z"))
    (Site(name='resid_pre', layer=6), 'pattern.3', 'z.10')
    """

    name: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.name if self.layer is None else f"{self.name}.{self.layer}"

    @property
    def kind(self) -> Kind:
        return KINDS[self.name]

    @classmethod
    def parse(cls, text: "str | Site", *, gated: bool = False) -> "Site":
        """The site a name means. `gated` says whether TransformerLens' `mlp.hook_pre` is the gate (it is, on gated MLPs)."""
        if isinstance(text, Site):
            return text
        text = _translate(str(text), gated)
        match = _SITE.fullmatch(text)
        if match is None or match[1] not in KINDS:
            near = get_close_matches(text.split(".")[0], KINDS, n=3, cutoff=0.5)
            raise UnknownSite(
                "there is no such site",
                received=repr(text),
                allowed="a site's name and layer, such as resid_pre.6 or pattern.3; names: " + ", ".join(KINDS),
                fix="did you mean " + " or ".join(near) + "?" if near else "see model.sites",
            )
        name, layer = match[1], None if match[2] is None else int(match[2])
        if layer is not None and not KINDS[name].layered:
            raise UnknownLayer(f"{name} has no layer", received=repr(text), allowed=name, fix=f"write {name}")
        return cls(name, layer)


def _translate(text: str, gated: bool) -> str:
    if text in _TRANSFORMER_LENS:
        return _TRANSFORMER_LENS[text]
    match = _BLOCK.fullmatch(text)
    if match is None or match[2] not in _TRANSFORMER_LENS:
        return text
    name = "mlp_gate" if gated and match[2] == "mlp.hook_pre" else _TRANSFORMER_LENS[match[2]]
    return f"{name}.{match[1]}"


def rank(site: Site, n_layers: int) -> int:
    """The last block that must have run for a site to be known: -1 for none, n_layers for what follows the blocks."""
    if site.layer is not None:
        return site.layer - 1 if site.name == "resid_pre" else site.layer
    return -1 if site.name in ("embed", "pos_embed") else n_layers


def positions_axis(site: Site) -> int:
    """Which axis of a site's tensor the positions of the run stand on."""
    axes = site.kind.axes
    return axes.index("query" if "query" in axes else "pos")


@dataclass(frozen=True)
class HeadSizes:
    """The heads of one layer: how many, how many have keys and values of their own, and the length of their vectors.

    d_head is that of values and z, d_qk that of queries and keys.
    """

    n_heads: int
    n_kv_heads: int
    d_head: int
    d_qk: int

    @property
    def groups(self) -> int:
        """How many heads read one KV head."""
        return self.n_heads // self.n_kv_heads


@dataclass(frozen=True)
class Sizes:
    """A decoder's dimensions, by the field's names.

    Where layers differ in their heads, n_heads is the most of any layer's, what else is said of heads that of most layers.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_mlp: int
    d_vocab: int
    context: int
    n_experts: int = 0
    d_qk: int = 0
    """The length of queries and keys where it is not that of values and z (0: it is)."""
    heads: Mapping[int, HeadSizes] = field(default_factory=dict)
    """Each layer's own heads, where layers differ in them (empty: every layer's are alike)."""

    def at(self, layer: int) -> HeadSizes:
        """The heads of one layer."""
        usual = HeadSizes(self.n_heads, self.n_kv_heads, self.d_head, self.d_qk or self.d_head)
        return self.heads.get(layer, usual)


@dataclass(frozen=True)
class SiteTable:
    """Which sites one model has. Printing it lists them; each absent one says why.

    `absent` has names, for every layer, and sites (`z.3`), for one. `aliases` maps a name to the one it is
    the same tensor as (`attn_raw` to `attn_out` where nothing stands between).
    """

    sizes: Sizes
    absent: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    gated: bool = False

    def parse(self, text: str | Site) -> Site:
        """The one site `text` names in this model.

        Raises:
            UnknownSite, UnknownLayer: no such place. AbsentSite: a place this family does not have.
        """
        site = Site.parse(text, gated=self.gated)
        if site.name in self.absent:
            raise AbsentSite(
                f"this model has no {site.name}: {self.absent[site.name]}",
                received=str(site),
                allowed=", ".join(self.names),
            )
        if (reason := self.absent.get(str(site))) is not None:
            there = [str(s) for s in self.expand(site.name)]
            raise AbsentSite(
                f"layer {site.layer} has no {site.name}: {reason}", received=str(site), allowed=", ".join(there)
            )
        n = self.sizes.n_layers
        if site.kind.layered and site.layer is None:
            raise UnknownLayer(
                f"{site.name} stands in every layer: say which",
                received=str(site),
                allowed=f"{site.name}.0 to {site.name}.{n - 1}",
            )
        if site.layer is not None and site.layer >= n:
            raise UnknownLayer(
                f"the model has {n} layers", received=str(site), allowed=f"{site.name}.0 to {site.name}.{n - 1}"
            )
        return site

    def expand(self, text: str | Site) -> list[Site]:
        """The sites `text` names: every layer's that has one, where it gives no layer."""
        site = Site.parse(text, gated=self.gated)
        if not site.kind.layered or site.layer is not None:
            return [self.parse(site)]
        layers = [layer for layer in range(self.sizes.n_layers) if f"{site.name}.{layer}" not in self.absent]
        return [self.parse(Site(site.name, layer)) for layer in layers]

    def has(self, name: str, layer: int | None = None) -> bool:
        """Whether the model has a site; without a layer: in any of them."""
        return name in KINDS and name not in self.absent and (layer is None or f"{name}.{layer}" not in self.absent)

    def canonical(self, text: str | Site) -> Site:
        """The one name of the tensor at a site: `resid_post.9` is `resid_pre.10`."""
        site = self.parse(text)
        site = Site(self.aliases.get(site.name, site.name), site.layer)
        if site.name == "resid_post" and site.layer is not None and site.layer < self.sizes.n_layers - 1:
            return Site("resid_pre", site.layer + 1)
        return site

    @property
    def names(self) -> list[str]:
        return [name for name in KINDS if name not in self.absent]

    def size(self, site: Site, axis: str) -> int | None:
        """How many entries an axis has; None for batch, pos, query and key."""
        s, own = self.sizes, self.sizes.at(-1 if site.layer is None else site.layer)
        sizes = {"d_model": s.d_model, "head": own.n_heads, "kv_head": own.n_kv_heads, "d_head": own.d_head}
        if axis == "d_head" and site.name in ("q", "k"):
            return own.d_qk
        sizes |= {"d_mlp": s.d_mlp, "d_vocab": s.d_vocab, "expert": s.n_experts, "1": 1}
        return sizes.get(axis)

    def width(self, site: Site) -> int:
        """The length of a vector at this site (the last axis)."""
        return self.size(site, site.kind.axes[-1]) or 0

    def check_index(self, site: Site, axis: str, index: tuple[int, ...]) -> None:
        """Refuse heads, KV heads or neurons that are not there."""
        error, word = {"d_mlp": (UnknownNeuron, "neuron")}.get(axis, (UnknownHead, axis))
        if axis not in site.kind.axes:
            raise error(
                f"{site} has no {word} axis", received=f"{word}={list(index)}", allowed=f"its axes: {site.kind.dims}"
            )
        count = self.size(site, axis) or 0
        if not all(0 <= i < count for i in index):
            raise error(f"{site} has {count} {word}s", received=f"{word}={list(index)}", allowed=f"0 to {count - 1}")

    def __repr__(self) -> str:
        rows = [f"{name:16}{KINDS[name].dims:24}{self.absent.get(name) or KINDS[name].about}" for name in KINDS]
        rows = [("- " if name in self.absent else "  ") + row for name, row in zip(KINDS, rows, strict=True)]
        return f"sites of {self.sizes.n_layers} layers (- absent, with the reason)\n" + "\n".join(rows)
