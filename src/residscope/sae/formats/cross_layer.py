"""Cross-layer transcoders as circuit-tracer keeps them: `W_enc_0.safetensors`, `W_dec_0.safetensors` ...."""

import re
from typing import Any

from torch import Tensor

from residscope.sae.cross_layer import CrossLayer
from residscope.sae.files import read_config, read_tensors, weight
from residscope.sae.hooks import site_of
from residscope.sae.source import Place

CONFIG = ("config.yaml", "config.yml", "config.json")


def mine(place: Place) -> bool:
    return {"W_enc_0.safetensors", "W_dec_0.safetensors"} <= place.names


def read(place: Place, reads: str | None, writes: str | None) -> CrossLayer:
    """reads, writes: site names without a layer, where they are said. Raises ValueError, KeyError: damaged."""
    layers = sum(bool(re.fullmatch(r"W_enc_\d+\.safetensors", name)) for name in place.names)
    parts: dict[str, list[Tensor]] = {part: [] for part in ("read", "bias", "base", "threshold", "write")}
    for i in range(layers):
        for file in (f"W_enc_{i}.safetensors", f"W_dec_{i}.safetensors"):
            if file not in place.names:
                raise ValueError(f"{file} is missing, and W_enc_{layers - 1}.safetensors is there")
        encoder, decoder = (read_tensors(place.fetch(f"W_{way}_{i}.safetensors")) for way in ("enc", "dec"))
        for part, name in (("read", f"W_enc_{i}"), ("bias", f"b_enc_{i}"), ("base", f"b_dec_{i}")):
            parts[part].append(weight(encoder, name))
        if f"threshold_{i}" in encoder:
            parts["threshold"].append(weight(encoder, f"threshold_{i}").flatten())
        parts["write"].append(weight(decoder, f"W_dec_{i}"))
    threshold = parts.pop("threshold")
    if threshold and len(threshold) != layers:
        raise ValueError(f"{len(threshold)} of {layers} layers have a threshold")
    made: dict[str, Any] = {part: tuple(held) for part, held in parts.items()}
    config = next((read_config(place.fetch(name)) for name in CONFIG if name in place.names), {})
    into, out = (
        said or _name(config.get(f"feature_{way}_hook")) for said, way in ((reads, "input"), (writes, "output"))
    )
    provenance = {"format": "cross-layer transcoder", "source": place.name}
    provenance |= {"model name": config["model_name"]} if isinstance(config.get("model_name"), str) else {}
    return CrossLayer(
        **made, threshold=tuple(threshold) or None, reads=into or "resid_mid", writes=out or "mlp_out",
        provenance=provenance,
    )  # fmt: skip


def _name(hook: object) -> str | None:
    return site_of(f"blocks.0.{hook}").rpartition(".")[0] if isinstance(hook, str) else None
