"""Editing a thousand recorded activations by LRQP's dual: against one second, and a few of them against the seed's own route."""

import statistics
from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row, _seconds, pair
from residscope.methods.probes.probe_fit import fit
from residscope.probes.lrqp_qp import by_quadratic_programme

WIDTH, PROMPTS, FEW = 576, 1000, 3


def rows(*, quick: bool = False) -> Iterator[Row]:
    for classes in (2, 6):
        probe, x = _cloud(classes)
        target = torch.arange(PROMPTS) % classes
        edit = rs.lrqp(probe, to="other")
        times = [
            _seconds(lambda edit=edit, x=x, target=target: edit.solve(x, target)) for _ in range(3 if quick else 15)
        ]
        low, middle, high = statistics.quantiles(times, n=4)
        note = f"{PROMPTS} activations of width {WIDTH}, in memory, against one second"
        yield Row(f"LRQP, {classes} classes", middle, 1.0, middle, low, high, 1.0, len(times), note)

        G = torch.stack([probe.weights[0] - probe.weights[other] for other in range(1, classes)])
        gap = torch.stack([probe.bias[0] - probe.bias[other] for other in range(1, classes)])

        def theirs(x: torch.Tensor = x, G: torch.Tensor = G, gap: torch.Tensor = gap, probe: rs.Probe = probe) -> None:
            for x0 in x[:FEW]:
                by_quadratic_programme(x0, G, 10 - gap, probe.covariance)

        def ours(x: torch.Tensor = x, edit: object = edit) -> None:
            edit.solve(x[:FEW], torch.zeros(FEW, dtype=torch.long))  # type: ignore[attr-defined]

        note = f"{FEW} activations, against qpsolvers + OSQP at eps 1e-8"
        yield pair(f"LRQP by the dual, {classes} classes", ours, theirs, pairs=3 if quick else 5, warm=1, note=note)


def _cloud(classes: int) -> tuple[rs.Probe, torch.Tensor]:
    """A probe of random vectors as wide as SmolLM2's stream, and activations to edit."""
    drawn = torch.Generator().manual_seed(0)
    labels = [str(i % classes) for i in range(PROMPTS)]
    means = torch.randn(classes, WIDTH, generator=drawn, dtype=torch.float64)
    x = torch.randn(PROMPTS, WIDTH, generator=drawn, dtype=torch.float64) + means[[i % classes for i in range(PROMPTS)]]
    where = {"site": "resid_mid.6", "position": "END", "label": "kind"}
    return fit(x[:400], x[400:600], labels[:400], labels[400:600], Cs=(0.01,), **where), x
