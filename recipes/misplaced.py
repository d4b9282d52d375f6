"""python recipes/misplaced.py: is a dictionary that says another layer than its own caught, and is its own layer named?

Trains a small TopK autoencoder of each of three neighbouring layers of SmolLM2, in plain PyTorch, moves each to its neighbours,
and prints what `rs.sae.fit_check` finds. About four minutes on a busy core.
"""

from typing import Any

import torch
from torch import Tensor

import residscope as rs
from residscope.corpus.vectors import vectors_of
from residscope.directions import EncoderDictionary

LAYERS, TOKENS, FEATURES, K, STEPS = (7, 8, 9), 16_000, 1024, 24, 250


def trained(x: Tensor) -> dict[str, Any]:
    """Adam on the squared error of the inputs scaled to a mean length of sqrt(d); the scale is folded in."""
    torch.manual_seed(0)
    s = x.shape[1] ** 0.5 / x.norm(dim=1).mean()
    x = x * s
    rows = torch.nn.functional.normalize(torch.randn(FEATURES, x.shape[1]), dim=1)
    read, write = rows.clone().requires_grad_(), rows.clone().requires_grad_()
    bias, mean = torch.zeros(FEATURES, requires_grad=True), x.mean(0).clone().requires_grad_()
    adam = torch.optim.Adam([read, write, bias, mean], lr=2e-3)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = 2e-3 * min(1.0, (STEPS - step) / (STEPS * 0.4))
        y = x[torch.randint(len(x), (512,))]
        values, indices = ((y - mean) @ read.T + bias).topk(K)
        a = torch.zeros(len(y), FEATURES).scatter(1, indices, values.relu())
        loss = (y - a @ write - mean).square().sum(1).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    parts = {"read": read * s, "write": write / s, "mean": mean / s, "base": mean / s, "bias": bias}
    return {name: part.detach() for name, part in parts.items()} | {"activation": "topk", "k": K}


def main() -> None:
    model = rs.load("smollm2-135m")
    sites = [f"resid_post.{layer}" for layer in LAYERS]
    seen = [*vectors_of(model, "english", sites, tokens=TOKENS)]
    right = of = 0
    for layer, site in zip(LAYERS, sites, strict=True):
        parts = trained(torch.cat([vectors[model.sites.parse(site)] for vectors in seen]))
        for said in (layer - 1, layer, layer + 1):
            found = rs.sae.fit_check(model, EncoderDictionary("sae", f"resid_post.{said}", **parts), "english")
            named = found.fvu.coords["site"][found.fvu.coords["reading"].index(found.best)]
            same = model.sites.canonical(str(named)) == model.sites.canonical(site)
            right, of = right + (same and found.fits == (said == layer)), of + 1
            print(f"of {site}, said to be of resid_post.{said}: {found}", flush=True)
    print(f"{right} of {of} judged rightly")


if __name__ == "__main__":
    main()
