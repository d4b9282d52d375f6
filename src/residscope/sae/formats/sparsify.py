"""sparsify's folders, each named after its module: `cfg.json` and `sae.safetensors`."""

import torch

from residscope.errors import DirectionError, UnknownSite
from residscope.sae.folding import Parts
from residscope.sae.formats.base import Format, Found, Unit
from residscope.sae.hooks import site_of


def mine(unit: Unit) -> bool:
    cfg = unit.config("cfg.json")
    return "k" in cfg and "d_sae" not in cfg and {"encoder.weight", "W_dec", "b_dec"} <= unit.names


def read(unit: Unit) -> Found:
    cfg = unit.config("cfg.json")
    if cfg.get("activation", "topk") != "topk" or cfg.get("signed"):
        received = "signed" if cfg.get("signed") else str(cfg["activation"])
        raise DirectionError("no such activation of sparsify's is read", received=received, allowed="topk")
    weights, write, base = (unit.weight(name) for name in ("encoder.weight", "W_dec", "b_dec"))
    n, d = weights.shape
    if cfg.get("d_in") not in (None, d):
        raise ValueError(f"cfg.json says d_in {cfg['d_in']!r}, and the weights have {d}")
    if (cfg.get("num_latents") or n) != n:
        raise ValueError(f"cfg.json says num_latents {cfg['num_latents']!r}, and the weights have {n}")
    transcode = bool(cfg.get("transcode"))
    if bool(cfg.get("skip_connection")) != ("W_skip" in unit.names):
        raise ValueError("cfg.json and the weights do not agree on whether there is a skip connection")
    parts: Parts = {
        "read": weights,
        "write": write,
        "base": base,
        "mean": torch.zeros(d) if transcode else base.clone(),
    }
    parts |= {"bias": unit.weight("encoder.bias"), "activation": "topk", "k": cfg["k"]}
    parts |= {"skip": unit.weight("W_skip")} if "W_skip" in unit.names else {}
    module = unit.folder.rpartition("/")[2] or unit.place.words.rpartition("/")[2]
    site: str | None
    written: str | None
    try:
        site, written = site_of(module, reads=transcode), site_of(module) if transcode else None
    except UnknownSite:
        site = written = None
    told = unit.config("config.json", above=True)
    return Found("sparsify", parts, site, written, model=told.get("model"), more={"module": module})


FORMAT = Format("sparsify", "cfg.json and sae.safetensors, in a folder named after the module", mine, read)
