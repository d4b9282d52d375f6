"""Dictionaries written by hand: random weights, and SAELens' folders of them."""

import json

import torch
from safetensors.torch import save_file

D, F, K = 12, 20, 4


def weights(seed=0, d=D, n=F):
    draw = torch.Generator().manual_seed(seed)

    def new(*shape):
        return torch.randn(*shape, generator=draw) * (d**-0.5 if len(shape) > 1 else 0.3)

    return {
        "W_enc": new(d, n), "W_dec": new(n, d), "b_enc": new(n), "b_dec": new(d), "threshold": new(n).abs(), "W_skip": new(d, d),
    }  # fmt: skip


def saelens(folder, w, *, tensors=("W_enc", "W_dec", "b_enc", "b_dec"), more=None, **cfg):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: w[k] for k in tensors} | (more or {}), folder / "sae_weights.safetensors")
    cfg = {"hook_name": "blocks.3.hook_resid_pre", "architecture": "standard", "d_in": D, "d_sae": F, **cfg}
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder
