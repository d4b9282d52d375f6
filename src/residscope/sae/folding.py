"""What peers do to an encoder's input or output, put into its weights: exactly the same activations."""

from typing import Any

import torch

from residscope.errors import DirectionError

Parts = dict[str, Any]
"""Arguments of an EncoderDictionary, but its name and sites."""


def scaled(parts: Parts, s: float) -> Parts:
    """Of x what was trained on s x: read s, write / s, mean / s, base / s.

    (`expected_average_only_in`: s = sqrt(d) over the mean length of x.)
    """
    return parts | {
        "read": parts["read"] * s,
        "write": parts["write"] / s,
        "mean": parts["mean"] / s,
        "base": parts["base"] / s,
    }


def with_decoder_norms(parts: Parts) -> Parts:
    """Pre-activations multiplied by |write_i| and activations divided by it before they are decoded (TopK in SAELens)."""
    norms = parts["write"].norm(dim=1)
    write = parts["write"] / norms.clamp_min(torch.finfo(norms.dtype).tiny)[:, None]
    return parts | {"read": parts["read"] * norms[:, None], "bias": parts["bias"] * norms, "write": write}


def unit_decoder(parts: Parts) -> Parts:
    """Write rows of length one, and activations that make up for it (ReLU alone)."""
    return with_decoder_norms(parts)


def centred(parts: Parts) -> Parts:
    """Of x what was trained on x - mean(x), as a model with `center_writing_weights` has it.

        P = I - 1 1^T / d;  read_i . (P x - m) + b_i = (P read_i) . (x - m) + b_i - mean(read_i) sum(m)

    A layer norm takes the mean off anyway. What it reconstructs is P x: it says nothing of the mean.
    """
    normalise = parts.get("normalise", "none")
    skip = parts.get("skip")
    told = {} if skip is None else {"skip": skip - skip.mean(1, keepdim=True)}
    if normalise == "layer_norm":
        return parts | told
    if normalise != "none":
        raise DirectionError(
            "an encoder of centred weights whose input is brought to one length cannot be put into its weights",
            received=f"center_writing_weights, {normalise}",
            allowed="none or layer_norm",
        )
    read, lost = parts["read"], parts["read"].mean(1) * parts["mean"].sum()
    told |= {"read": read - read.mean(1, keepdim=True)}
    if parts.get("gate_scale") is not None:
        told |= {"gate_bias": parts["gate_bias"] - lost, "bias": parts["bias"] - lost * parts["gate_scale"].exp()}
    else:
        told |= {"bias": parts["bias"] - lost}
    return parts | told
