"""Gemma Scope's: `params.npz`, and `params.safetensors` of the second; where they lie says what they are of."""

import re

import torch

from residscope.sae.folding import Parts
from residscope.sae.formats.base import Format, Found, Unit
from residscope.sae.hooks import site_of

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}
SECOND = {"w_enc", "w_dec", "b_enc", "b_dec", "threshold"}
# the words of a path that say which site; transcoders first, since their folders also name a kind of site
PLACES = (
    (r"transcoder", ("mlp_in", "mlp_out")), (r"resid[_-]post|[-_/]res\b", ("resid_post", None)),
    (r"attn[_-]out|[-_/]att\b", ("z", None)), (r"mlp[_-]out|[-_/]mlp\b", ("mlp_out", None)),
)  # fmt: skip


def mine(unit: Unit) -> bool:
    return not unit.config("cfg.json") and (
        (unit.names >= KEYS and unit.path.suffix == ".npz")
        or (unit.names >= SECOND and unit.tensors["w_dec"].ndim == 2)
    )


def read(unit: Unit) -> Found:
    second = "w_enc" in unit.names
    W_enc, write = unit.weight("w_enc" if second else "W_enc"), unit.weight("w_dec" if second else "W_dec")
    base = unit.weight("b_dec")
    parts: Parts = {"read": W_enc.T.contiguous(), "write": write, "base": base, "mean": torch.zeros(len(W_enc))}
    threshold = unit.weight("threshold").clamp_min(0)
    parts |= {"bias": unit.weight("b_enc"), "activation": "jumprelu", "threshold": threshold}
    if "affine_skip_connection" in unit.names:  # stored as read by written
        parts |= {"skip": unit.weight("affine_skip_connection").T.contiguous()}
    config = unit.config("config.json") if second else {}
    site, written = _sites(unit, config)
    if site == "embed":  # trained on embeddings before Gemma multiplies them by sqrt(d)
        root = len(W_enc) ** 0.5
        parts |= {"read": parts["read"] / root, "write": write * root, "base": base * root}
    name = re.search(r"gemma-scope-(2-)?((?:\d+b|\d+m)(?:-it|-pt)?)", unit.words)
    model = config.get("model_name")
    if model is None and name is not None:
        size = name[2].removesuffix("-pt")
        model = f"google/gemma-3-{name[2]}" if name[1] else f"google/gemma-2-{size}"
    return Found("Gemma Scope 2" if second else "Gemma Scope", parts, site, written, model=model, bos=True)


def _sites(unit: Unit, config: dict[str, object]) -> tuple[str | None, str | None]:
    into, out = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if isinstance(into, str):
        return site_of(into), None if not isinstance(out, str) else site_of(out)
    words = unit.words.lower()
    if "embedding/" in words:
        return "embed", None
    layers = re.findall(r"layer_(\d+)", words)
    kind = next((sites for pattern, sites in PLACES if re.search(pattern, words)), None)
    if not layers or kind is None:
        return None, None
    read, written = kind
    return f"{read}.{layers[-1]}", None if written is None else f"{written}.{layers[-1]}"


FORMAT = Format("Gemma Scope", "params.npz, or params.safetensors", mine, read)
