"""dictionary_learning's folders: `ae.pt`, a state dict, and `config.json`, which names the class."""

from collections.abc import Mapping
from typing import Any

import torch

from residscope.errors import DirectionError
from residscope.sae import folding
from residscope.sae.folding import Parts
from residscope.sae.formats.base import Format, Found, Unit
from residscope.sae.hooks import site_of

LINEAR = {"encoder.weight", "decoder.weight"}
KEYS = {
    "AutoEncoder": LINEAR | {"bias", "encoder.bias"},
    "AutoEncoderNew": LINEAR | {"encoder.bias", "decoder.bias"},
    "GatedAutoEncoder": LINEAR | {"decoder_bias", "r_mag", "gate_bias", "mag_bias"},
    "AutoEncoderTopK": LINEAR | {"b_dec", "encoder.bias"},
    "BatchTopKSAE": LINEAR | {"b_dec", "encoder.bias", "threshold"},
    "JumpReluAutoEncoder": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"},
    "MatryoshkaBatchTopKSAE": {"W_enc", "b_enc", "W_dec", "b_dec", "threshold", "group_sizes"},
}


def mine(unit: Unit) -> bool:
    """By the class that is named, or by the parts where one class alone has these."""
    if not unit.path.suffix.startswith((".pt", ".bin")):
        return False
    return _named(unit) is not None or (bool(_alike(unit)) and "pre_bias" not in unit.names)


def _named(unit: Unit) -> str | None:
    trainer = unit.config("config.json").get("trainer")
    named = trainer.get("dict_class") if isinstance(trainer, Mapping) else None
    return None if named is None else str(named)


def _alike(unit: Unit) -> list[str]:
    """The classes whose parts these are, and no others."""
    own = unit.names - {"k"}
    return [name for name, keys in KEYS.items() if keys <= own and not own - keys - {"threshold", "group_sizes"}]


def _class(unit: Unit) -> str:
    named, alike = _named(unit), _alike(unit)
    if named is not None:
        if named not in KEYS:
            raise DirectionError(
                "no such class of dictionary_learning's is read", received=named, allowed=", ".join(KEYS)
            )
        if named not in alike:
            raise ValueError(f"config.json says {named}, and the parts are {', '.join(sorted(unit.names))}")
        return named
    if "W_enc" in unit.names:
        return "MatryoshkaBatchTopKSAE" if "group_sizes" in unit.names else "JumpReluAutoEncoder"
    if "b_dec" in unit.names:
        raise ValueError("TopK or BatchTopK: without config.json nothing says which")
    return alike[0]


def read(unit: Unit) -> Found:
    config = unit.config("config.json")
    trainer: Mapping[str, Any] = config.get("trainer") or {}
    named = _class(unit)
    parts = _parts(unit, named, trainer)
    for key, have in (("dict_size", parts["read"].shape[0]), ("activation_dim", parts["read"].shape[1])):
        if trainer.get(key) not in (None, have):
            raise ValueError(f"config.json says {key} {trainer[key]!r}, and the weights have {have}")
    buffer = config.get("buffer") if isinstance(config.get("buffer"), Mapping) else {}
    layer, module = trainer.get("layer"), trainer.get("submodule_name")
    reads = buffer.get("io") == "in" if isinstance(buffer, Mapping) else False
    site = None if layer is None else f"{'resid_pre' if reads else 'resid_post'}.{layer}"
    if isinstance(module, str):
        site = site_of(module, layer=layer, reads=reads)
    context = buffer.get("ctx_len") if isinstance(buffer, Mapping) else None
    more = {"architecture": named} | ({} if context is None else {"context_size": context})
    return Found("dictionary_learning", parts, site, model=trainer.get("lm_name"), more=more)


def _parts(unit: Unit, named: str, trainer: Mapping[str, Any]) -> Parts:
    if named in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        read, write = unit.weight("W_enc").T.contiguous(), unit.weight("W_dec")
    else:
        read, write = unit.weight("encoder.weight"), unit.weight("decoder.weight").T.contiguous()
    n, d = read.shape
    bases = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
    base = unit.weight(bases.get(named, "b_dec"))
    subtracted = named not in ("JumpReluAutoEncoder", "AutoEncoderNew")
    parts: Parts = {"read": read, "write": write, "base": base, "mean": base.clone() if subtracted else torch.zeros(d)}
    if named == "GatedAutoEncoder":
        gates = {"bias": "mag_bias", "gate_bias": "gate_bias", "gate_scale": "r_mag"}
        return parts | {"activation": "gated"} | {part: unit.weight(name) for part, name in gates.items()}
    parts |= {"bias": unit.weight("b_enc" if "b_enc" in unit.names else "encoder.bias")}
    if named == "AutoEncoderTopK":
        return parts | {"activation": "topk", "k": _k(unit, trainer)}
    if named in ("AutoEncoder", "AutoEncoderNew"):
        unit_length = torch.allclose(write.norm(dim=1), torch.ones(n))
        # its own loader makes the decoder's rows of unit length, where they are not
        return parts if named == "AutoEncoderNew" or unit_length else folding.unit_decoder(parts)
    threshold = unit.weight("threshold").expand(n).clone().clamp_min(0)  # under zero: not set yet, plain ReLU
    return parts | {"activation": "jumprelu", "threshold": threshold}


def _k(unit: Unit, trainer: Mapping[str, Any]) -> int:
    own, said = unit.tensors.get("k"), trainer.get("k")
    k = said if own is None else int(own)
    if k is None or said not in (None, k):
        raise ValueError(f"config.json says k {said!r}, and the weights {k!r}")
    return int(k)


FORMAT = Format("dictionary_learning", "ae.pt and config.json", mine, read)
