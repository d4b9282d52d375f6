"""OpenAI's torch files: pre_bias, latent_bias, encoder, decoder, and the activation by its name."""

import re
from collections.abc import Mapping
from typing import Any

from residscope.errors import DirectionError
from residscope.sae.folding import Parts
from residscope.sae.formats.base import Format, Found, Unit

LOCATIONS = {
    "mlp_post_act": "mlp_post", "resid_delta_attn": "attn_out", "resid_post_attn": "resid_mid",
    "resid_delta_mlp": "mlp_out", "resid_post_mlp": "resid_post",
}  # fmt: skip


def mine(unit: Unit) -> bool:
    return {"pre_bias", "latent_bias", "encoder.weight"} <= unit.names


def read(unit: Unit) -> Found:
    base, bias, weights = (unit.weight(name) for name in ("pre_bias", "latent_bias", "encoder.weight"))
    write = unit.weight("decoder.weight").T.contiguous() if "decoder.weight" in unit.names else weights.clone()
    parts: Parts = {"read": weights, "write": write, "base": base, "mean": base.clone(), "bias": bias}
    activation = unit.tensors.get("activation", "ReLU")
    if activation == "TopK":
        state: Mapping[str, Any] = unit.tensors["activation_state_dict"]
        after = state.get("postact_fn", "ReLU")
        if after != "ReLU":
            raise DirectionError("no such activation after TopK is read", received=str(after), allowed="ReLU")
        parts |= {
            "activation": "topk",
            "k": int(state["k"]),
            "normalise": "layer_norm",
        }  # it normalises where it is TopK
    elif activation != "ReLU":
        raise DirectionError("no such activation of OpenAI's is read", received=str(activation), allowed="ReLU, TopK")
    return Found("OpenAI", parts, _site(unit), model="gpt2" if "gpt2" in unit.words else None)


def _site(unit: Unit) -> str | None:
    """As their addresses have it: resid_post_mlp_v5_32k/autoencoders/6.pt."""
    where = next((site for name, site in LOCATIONS.items() if name in unit.words), None)
    layer = re.search(r"(?:^|/)(?:layer_?)?(\d+)(?:\.pt|/|$)", unit.words)
    return None if where is None or layer is None else f"{where}.{layer[1]}"


FORMAT = Format("OpenAI", "one .pt file", mine, read)
