"""SAELens' folders: `cfg.json` and `sae_weights.safetensors`, of version 6 and of those before it."""

from collections.abc import Mapping
from typing import Any

import torch

from residscope.errors import DirectionError
from residscope.sae import folding
from residscope.sae.folding import Parts
from residscope.sae.formats.base import Format, Found, Unit
from residscope.sae.hooks import site_of

WEIGHTS = "sae_weights.safetensors"
ARCHITECTURES = (
    "standard", "topk", "batchtopk", "jumprelu", "gated", "matryoshka_batchtopk",
    "transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder",
)  # fmt: skip
NORMALISE = {"none": "none", "layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}
AVERAGE = "expected_average_only_in"
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}


def mine(unit: Unit) -> bool:
    cfg = unit.config("cfg.json")
    return bool(cfg) and ("d_sae" in cfg or "architecture" in cfg) and {"W_enc", "W_dec", "b_dec"} <= unit.names


def read(unit: Unit) -> Found:
    raw = unit.config("cfg.json")
    said = raw.get("metadata") if isinstance(raw.get("metadata"), Mapping) else None
    cfg = _before_six(raw) if said is None else dict(raw)
    told = cfg if said is None else dict(said)
    architecture = str(cfg.get("architecture", "standard"))
    if architecture not in ARCHITECTURES:
        raise DirectionError(
            f"{unit.base} is of an architecture that is not read",
            received=architecture,
            allowed=", ".join(ARCHITECTURES),
        )
    if told.get("hook_head_index") is not None:
        raise DirectionError("an encoder of one head is not read", received=f"head {told['hook_head_index']}")
    parts = _parts(unit, cfg, architecture)
    _check_size(parts, cfg)
    hook, out = told.get("hook_name"), told.get("hook_name_out")
    kwargs = told.get("model_from_pretrained_kwargs")
    keys = ("neuronpedia_id", "dataset_path", "context_size", "exclude_special_tokens", "sae_lens_version")
    more = {key: told[key] for key in keys if told.get(key) is not None} | {"architecture": architecture}
    own = told.get("residscope")
    if isinstance(own, Mapping):
        return _ours(own, parts, more, told)
    return Found(
        format=f"SAELens {'6' if said is not None else 'before 6'}",
        parts=parts,
        site=None if not isinstance(hook, str) else site_of(hook, reads="transcoder" in architecture),
        written=None if not isinstance(out, str) else site_of(out),
        model=told.get("model_name"),
        bos=told.get("prepend_bos"),
        centred=isinstance(kwargs, Mapping) and kwargs.get("center_writing_weights") is True,
        scale=_scale(unit, cfg),
        more=more,
    )


def _ours(own: Mapping[str, Any], parts: Parts, more: dict[str, Any], told: Mapping[str, Any]) -> Found:
    """What `sae.save` wrote: SAELens' format, and beside it what that has no word for."""
    names, written = own.get("names"), own.get("written")
    parts |= {"names": tuple(map(str, names))} if isinstance(names, list) else {}
    provenance = own.get("provenance")
    more = {**(provenance if isinstance(provenance, Mapping) else {}), **more, "name": str(own.get("name", "sae"))}
    return Found(
        "SAELens 6", parts, str(own["site"]), None if written is None else str(written), model=told.get("model_name"),
        bos=told.get("prepend_bos"), more=more,
    )  # fmt: skip


def _before_six(raw: Mapping[str, Any]) -> dict[str, Any]:
    cfg = {RENAMED.get(key, key): value for key, value in raw.items()}
    cfg.setdefault("prepend_bos", True)
    kwargs = cfg.get("activation_fn_kwargs") or {}
    if cfg.get("activation_fn") == "topk" and kwargs.get("k") is not None:
        cfg |= {"architecture": "topk", "k": kwargs["k"]}
    elif cfg.get("activation_fn", "relu") != "relu":
        raise DirectionError("no such activation is read", received=str(cfg["activation_fn"]), allowed="relu, topk")
    if isinstance(cfg.get("normalize_activations"), bool):
        cfg["normalize_activations"] = AVERAGE if cfg["normalize_activations"] else "none"
    return cfg


def _parts(unit: Unit, cfg: Mapping[str, Any], architecture: str) -> Parts:
    W_enc, write, base = (unit.weight(name) for name in ("W_enc", "W_dec", "b_dec"))
    read = W_enc.T.contiguous()
    n, d = read.shape
    transcoder = "transcoder" in architecture
    subtracted = not transcoder and bool(cfg.get("apply_b_dec_to_input", True))
    parts: Parts = {"read": read, "write": write, "base": base, "mean": base.clone() if subtracted else torch.zeros(d)}
    how = cfg.get("normalize_activations") or "none"
    if how != AVERAGE and how not in NORMALISE:
        raise DirectionError(
            "no such normalisation is read", received=str(how), allowed=", ".join([*NORMALISE, AVERAGE])
        )
    parts |= {"normalise": NORMALISE.get(how, "none")}
    parts |= {"skip": unit.weight("W_skip")} if "skip" in architecture else {}
    if architecture == "gated":
        gates = {"bias": "b_mag", "gate_bias": "b_gate", "gate_scale": "r_mag"}
        return parts | {"activation": "gated"} | {part: unit.weight(name) for part, name in gates.items()}
    parts |= {"bias": unit.weight("b_enc") if "b_enc" in unit.names else torch.zeros(n)}
    if architecture == "topk":
        parts |= {"activation": "topk", "k": cfg.get("k")}
    elif "threshold" in unit.names or "jumprelu" in architecture:
        threshold = unit.weight("log_threshold").exp() if "log_threshold" in unit.names else unit.weight("threshold")
        parts |= {"activation": "jumprelu", "threshold": threshold.clamp_min(0)}
    elif "batchtopk" in architecture:
        threshold = unit.weight("topk_threshold").expand(n).clone()
        parts |= {"activation": "jumprelu", "threshold": threshold.clamp_min(0)}
    if cfg.get("rescale_acts_by_decoder_norm") and architecture in ("topk", "batchtopk", "matryoshka_batchtopk"):
        parts = folding.with_decoder_norms(parts)
    return _with_scaling(unit, cfg, parts)


def _with_scaling(unit: Unit, cfg: Mapping[str, Any], parts: Parts) -> Parts:
    """What was finetuned beside the decoder: each activation's factor before it is decoded."""
    name = next((name for name in ("scaling_factor", "finetuning_scaling_factor") if name in unit.names), None)
    if name is None:
        return parts
    factor = unit.weight(name)
    if torch.allclose(factor, torch.ones_like(factor)):
        return parts
    if not cfg.get("finetuning_scaling_factor"):
        raise ValueError(f"{name} is not one, and the configuration does not say finetuning_scaling_factor")
    return parts | {"write": parts["write"] * factor[:, None]}


def _scale(unit: Unit, cfg: Mapping[str, Any]) -> float | None:
    """What the input was multiplied by in training and is not folded in; None where nothing says how much."""
    if cfg.get("normalize_activations") != AVERAGE:
        return 1.0
    beside = unit.config("activation_scaler.json").get("scaling_factor")
    found = next((x for x in (beside, cfg.get("norm_scaling_factor")) if isinstance(x, int | float)), None)
    return None if found is None else float(found)


def _check_size(parts: Parts, cfg: Mapping[str, Any]) -> None:
    n, d = parts["read"].shape
    for key, have in (("d_sae", n), ("d_in", d), ("d_out", parts["write"].shape[-1])):
        said = cfg.get(key)
        if said is not None and said != have:
            raise ValueError(f"cfg.json says {key} {said!r}, and the weights have {have}")


FORMAT = Format("SAELens", f"cfg.json and {WEIGHTS}", mine, read)
