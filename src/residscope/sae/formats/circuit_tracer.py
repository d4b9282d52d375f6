"""circuit-tracer's transcoders, a file a layer: `layer_3.safetensors`, and `config.yaml` with the hooks."""

import re

import torch

from residscope.sae.folding import Parts
from residscope.sae.formats.base import Format, Found, Unit
from residscope.sae.hooks import site_of

KEYS = {"W_enc", "W_dec", "b_enc", "b_dec"}
THRESHOLD = "activation_function.threshold"
CONFIG = ("config.yaml", "config.yml", "config.json")


def mine(unit: Unit) -> bool:
    """W_enc is features by width here; where both are equal, the file's name says whose it is."""
    if not unit.names >= KEYS or unit.path.suffix != ".safetensors" or unit.config("cfg.json"):
        return False
    tall = tuple(unit.tensors["W_enc"].shape) == (*unit.tensors["b_enc"].shape, *unit.tensors["b_dec"].shape)
    return tall and bool(re.search(r"layer_\d+", unit.base) or THRESHOLD in unit.names or unit.config(*CONFIG))


def read(unit: Unit) -> Found:
    config = unit.config(*CONFIG, above=True)
    weights, write, bias, base = (unit.weight(name) for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    parts: Parts = {"read": weights, "write": write, "base": base, "bias": bias, "mean": torch.zeros(weights.shape[1])}
    parts |= {"skip": unit.weight("W_skip")} if "W_skip" in unit.names else {}
    k = int(unit.tensors["k"]) if "k" in unit.names else config.get("k")
    if THRESHOLD in unit.names:
        parts |= {"activation": "jumprelu", "threshold": unit.weight(THRESHOLD)}
    elif config.get("activation") == "topk" or "k" in unit.names:
        parts |= {"activation": "topk", "k": k}
    layer = re.search(r"layer_(\d+)", unit.base)
    site, written = sites(config, None if layer is None else int(layer[1]))
    return Found("circuit-tracer", parts, site, written, model=config.get("model_name"))


def sites(config: dict[str, object], layer: int | None) -> tuple[str | None, str | None]:
    """Where a layer reads and writes, as `feature_input_hook` and `feature_output_hook` say."""
    hooks = [config.get(f"feature_{way}_hook") for way in ("input", "output")]
    if layer is None:
        return None, None
    read, written = (site_of(f"blocks.{layer}.{hook}") if isinstance(hook, str) else None for hook in hooks)
    return read, written or f"mlp_out.{layer}"


FORMAT = Format("circuit-tracer", "layer_0.safetensors and config.yaml", mine, read)
