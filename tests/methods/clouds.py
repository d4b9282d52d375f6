"""Random probes and clouds of labelled vectors, in float64."""

import torch

from residscope.methods.probes.probe_fit import fit
from residscope.probes.probe import Probe


def cloud(classes=2, n=120, d=8, gap=2.0, seed=0):
    """Labelled vectors of a correlated Gaussian, the classes' means apart; a balanced number of each."""
    drawn = torch.Generator().manual_seed(seed)
    labels = [f"c{i % classes}" for i in range(n)]
    mixing = torch.randn(d, d, generator=drawn, dtype=torch.float64)
    means = gap * torch.randn(classes, d, generator=drawn, dtype=torch.float64)
    x = torch.randn(n, d, generator=drawn, dtype=torch.float64) @ mixing + 5
    return x + means[[i % classes for i in range(n)]], labels


def fitted(classes=2, n=120, d=8, gap=2.0, seed=0, **options) -> Probe:
    x, labels = cloud(classes, 2 * n, d, gap, seed)
    where = {"site": "resid_pre.2", "position": "END", "label": "kind"}
    return fit(x[:n], x[n:], labels[:n], labels[n:], **(where | options))
