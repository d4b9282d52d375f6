"""Dictionaries in SAELens' format, so that its users have them too."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residscope.directions import EncoderDictionary
from residscope.drafts import drafts, make, sweep, sync
from residscope.errors import DirectionError, FileNotThere
from residscope.files import save_tensors, unshared
from residscope.json_values import as_json
from residscope.sae.formats.saelens import NORMALISE, WEIGHTS
from residscope.sae.hooks import hook_of

CONFIG = "cfg.json"
VERSION = "6.54.12"  # of SAELens, whose format this is
SAES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
TRANSCODERS = {"relu": "transcoder", "jumprelu": "jumprelu_transcoder"}


def save(dictionary: EncoderDictionary, folder: str | Path, *, model_name: str | None = None) -> None:
    """Write a dictionary as SAELens 6 does: a folder with `cfg.json` and `sae_weights.safetensors`.

    SAELens loads it, and gives the same activations (a mean that is not the base goes into the bias). model_name: what SAELens
    calls the model, such as "gpt2-small"; what its files said unless given. Where it came from goes with it. In a folder that
    is there the two files are replaced once both are on the disk; killed between the two, it holds none.

    Raises:
        DirectionError: what SAELens has no architecture for. FileNotThere: no folder above.
    """
    architecture = _architecture(dictionary)
    tensors, subtracted = _tensors(dictionary)
    into = Path(folder).expanduser()
    if not into.parent.is_dir() or (into.exists() and not into.is_dir()):
        raise FileNotThere("there is no such folder", received=str(into), fix="make the folder above it first")
    cfg = _config(dictionary, architecture, subtracted=subtracted, model_name=model_name)
    text = json.dumps(cfg, indent=1)
    into.mkdir(exist_ok=True)
    sweep(into)
    with drafts(into) as made:
        make(made / WEIGHTS, lambda draft: save_tensors(unshared(tensors), draft))
        make(made / CONFIG, lambda draft: draft.write_text(text, encoding="utf-8"))
        (into / CONFIG).unlink(missing_ok=True)  # so that no other's weights are ever read by it
        for name in (WEIGHTS, CONFIG):
            (made / name).replace(into / name)
        if os.name == "posix":
            sync(into)


def _architecture(dictionary: EncoderDictionary) -> str:
    transcoder = dictionary.write_site != dictionary.site
    known = TRANSCODERS if transcoder else SAES
    found = known.get(dictionary.activation)
    if found is None or (dictionary.skip is not None and not transcoder):
        what = "transcoder" if transcoder else "autoencoder"
        beside = " with a linear path beside its features" if dictionary.skip is not None else ""
        raise DirectionError(
            f"SAELens has no {what}{beside} of this kind",
            received=dictionary.activation,
            allowed=f"{', '.join(known)} for {what}s; a linear path for transcoders alone",
        )
    if dictionary.threshold is not None and bool((dictionary.threshold < 0).any()):
        raise DirectionError(
            "SAELens takes no threshold under zero", received=f"{float(dictionary.threshold.min()):.3g}"
        )
    return found.replace("transcoder", "skip_transcoder") if dictionary.skip is not None else found


def _tensors(dictionary: EncoderDictionary) -> tuple[dict[str, Tensor], bool]:
    """By SAELens' names, and whether b_dec is subtracted before reading."""
    d = dictionary
    transcoder = d.write_site != d.site
    subtracted = not transcoder and torch.equal(d.mean, d.base)
    lost = torch.zeros_like(d.bias) if subtracted else d.read @ d.mean
    found = {"W_enc": d.read.T.contiguous(), "W_dec": d.write, "b_dec": d.base}
    if d.gate_bias is not None and d.gate_scale is not None:
        found |= {"b_gate": d.gate_bias - lost, "r_mag": d.gate_scale, "b_mag": d.bias - lost * d.gate_scale.exp()}
    else:
        found |= {"b_enc": d.bias - lost}
    found |= {} if d.threshold is None else {"threshold": d.threshold}
    found |= {} if d.skip is None else {"W_skip": d.skip}
    return {name: x.float() for name, x in found.items()}, subtracted


def _config(
    dictionary: EncoderDictionary, architecture: str, *, subtracted: bool, model_name: str | None
) -> dict[str, Any]:
    d, told = dictionary, dictionary.provenance
    transcoder = d.write_site != d.site
    back = {ours: theirs for theirs, ours in NORMALISE.items()}
    metadata: dict[str, Any] = {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": model_name or told.get("model name"),
        "hook_name": hook_of(d.site),
        "hook_head_index": None,
        "prepend_bos": bool(told.get("bos", False)),
        "model_from_pretrained_kwargs": {},
    }
    metadata |= {key: told[key] for key in ("neuronpedia_id", "dataset_path", "context_size") if key in told}
    metadata |= {"hook_name_out": hook_of(d.write_site)} if transcoder else {}
    metadata |= {"residscope": _own(d)}
    cfg: dict[str, Any] = {
        "d_in": d.read.shape[1],
        "d_sae": len(d),
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": subtracted,
        "normalize_activations": back[d.normalise],
        "reshape_activations": "hook_z" if d.flat else "none",
        "metadata": metadata,
        "architecture": architecture,
    }
    cfg |= {"k": d.k, "rescale_acts_by_decoder_norm": False} if d.k is not None else {}
    return cfg | ({"d_out": d.write.shape[1]} if transcoder else {})


def _own(dictionary: EncoderDictionary) -> Mapping[str, Any]:
    """What SAELens has no word for: sites, names, where it comes from."""
    told: dict[str, Any] = {"site": dictionary.site, "written": dictionary.written, "name": dictionary.name}
    told |= {"names": [*dictionary.names]} if dictionary.names else {}
    return {**told, "provenance": as_json(dictionary.provenance)}
