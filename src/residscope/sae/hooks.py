"""Where a dictionary is hooked, in peers' words and in ours."""

import re

from residscope.errors import SiteError, UnknownSite
from residscope.model.sites import Site

# TransformerLens' and SAELens' names within a block, where `Site.parse` does not know them or means another place
_HOOKS = {
    "ln1.hook_normalized": "attn_in", "ln2.hook_normalized": "mlp_in", "mlp.hook_in": "mlp_in", "mlp.hook_out": "mlp_raw",
    "hook_mlp_in": "resid_mid", "attn.hook_in": "attn_in", "attn.hook_out": "attn_raw", "hook_z": "z",
    "hook_in": "resid_pre", "hook_out": "resid_post",
}  # fmt: skip
# modules of Hugging Face's blocks: what goes in, what comes out
_MODULES = (
    (r"", ("resid_pre", "resid_post")),
    (r"mlp|feed_forward|ffn", ("mlp_in", "mlp_raw")),
    (r"self_attn|self_attention|attn|attention", ("attn_in", "attn_raw")),
    (r"(?:self_attn|attn|attention)\.(?:o_proj|out_proj|c_proj|dense)", ("z", "attn_raw")),
    (r"mlp\.(?:down_proj|c_proj|fc_out|dense_4h_to_h)", ("mlp_post", "mlp_raw")),
    (r"input_layernorm|ln_1", ("resid_pre", "attn_in")),
    (r"pre_feedforward_layernorm", ("resid_mid", "mlp_in")),
    (r"post_feedforward_layernorm", ("mlp_raw", "mlp_out")),
    (r"post_attention_layernorm|ln_2", ("resid_mid", "mlp_in")),
)
_BLOCK = re.compile(r"(?:.*[._/])?blocks\.(\d+)\.(.+)")
_LAYER = re.compile(r"(?:.*?[./])?(?:layers|layer|h|blocks)[._](\d+)(?:[._/](.+?))??(?:\.(input|output))?")
_NAMED = re.compile(
    r"(resid(?:ual)?_?(?:stream_?)?(?:pre|mid|post)?|mlp_in|mlp_out|mlp|attn_out|attention_out|attn)"
    r"(?:_(?:layer_?)?(\d+))?"
)
_WORDS = {"mlp": "mlp_out", "attn": "attn_out", "attention_out": "attn_out"}
_LENS = {
    "resid_pre": "hook_resid_pre", "resid_mid": "hook_resid_mid", "resid_post": "hook_resid_post",
    "attn_in": "ln1.hook_normalized", "mlp_in": "ln2.hook_normalized", "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out", "q": "attn.hook_q", "k": "attn.hook_k", "v": "attn.hook_v", "z": "attn.hook_z",
    "mlp_pre": "mlp.hook_pre", "mlp_post": "mlp.hook_post", "attn_raw": "hook_attn_out", "mlp_raw": "hook_mlp_out",
}  # fmt: skip


def site_of(hook: str, *, layer: int | None = None, reads: bool = False) -> str:
    """The site that a peer's hook, or a Hugging Face module, means. layer: where the name has none.

    reads: of a module's name what goes into it, as transcoders are told; else what comes out.

    Raises UnknownSite.

    >>> site_of("blocks.6.ln2.hook_normalized"), site_of("layers.10"), site_of("model.layers.3.mlp", reads=True)
    ('mlp_in.6', 'resid_post.10', 'mlp_in.3')
    """
    text = hook.strip()
    if text in ("embed_tokens", "wte", "embed_in", "hook_embed") or text.endswith((".embed_tokens", ".wte")):
        return "embed"
    block = _BLOCK.fullmatch(text)
    if block is not None and block[2] in _HOOKS:
        return f"{_HOOKS[block[2]]}.{block[1]}"
    try:
        return str(Site.parse(text.split("/")[-1] if block is None else f"blocks.{block[1]}.{block[2]}"))
    except SiteError:
        pass
    found = _of_module(text, reads=reads) or _of_word(text, layer)
    if found is None:
        raise UnknownSite(
            "no site is known for this hook",
            received=repr(hook)[:200],
            allowed="TransformerLens' hooks, such as blocks.6.hook_resid_pre; Hugging Face's modules, such as layers.10.mlp",
            fix="say where it reads: site=",
        )
    return found


def _of_module(text: str, *, reads: bool) -> str | None:
    match = _LAYER.fullmatch(text)
    if match is None:
        return None
    into = reads if match[3] is None else match[3] == "input"
    for module, (before, after) in _MODULES:
        if re.fullmatch(module, match[2] or ""):
            return f"{before if into else after}.{match[1]}"
    return None


def _of_word(text: str, layer: int | None) -> str | None:
    match = _NAMED.fullmatch(text.lower())
    number = layer if match is None or match[2] is None else int(match[2])
    if match is None or number is None:
        return None
    name = match[1]
    if name.startswith("resid"):
        name = next((f"resid_{part}" for part in ("pre", "mid", "post") if name.endswith(part)), "resid_post")
    return f"{_WORDS.get(name, name)}.{number}"


def hook_of(site: str) -> str:
    """The name that TransformerLens gives a site; the site's own where it has none.

    >>> hook_of("resid_post.3"), hook_of("embed")
    ('blocks.3.hook_resid_post', 'hook_embed')
    """
    where = Site.parse(site)
    if where.layer is None:
        return {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}.get(where.name, str(where))
    return f"blocks.{where.layer}.{_LENS[where.name]}" if where.name in _LENS else str(where)
