"""Where a variable can be read: probes at every site and position, from one recorded pass over the prompts."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import BadSweep
from residscope.methods._lib.activations import recorded_halves
from residscope.methods.probes.probe_fit import fit_each, halves
from residscope.model.prompts import PromptSet
from residscope.probes.logistic import CS
from residscope.probes.probe import EDGE, Probe, warn_of_edges
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result


@method("probe-sweep", title="Where a label can be read", group="probes")
def probe_sweep(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    label: Annotated[str, fields.name(of="label")],
    positions: Annotated[Sequence[str], fields.positions(several=True, named=True)],
    sites: Annotated[Sequence[str], fields.site(every=True, several=True, usual="resid_pre")] = (
        "resid_pre",
        "resid_mid",
    ),
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    held_out: PromptSet | float = 0.5,
    seed: Annotated[int, fields.seed()] = 0,
    Cs: Sequence[float] = CS,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[str, Result]:
    """Held-out accuracy of a probe for every site, layer and position: `accuracy`, with Wilson's 95 % intervals, and `control`
    (shuffled labels), `selectivity` and `C` beside it, each over site x layer x position.

    sites: names without a layer. A name that stands in other layers only, or not at all, is refused.

        rs.probe_sweep(model, rs.tasks.ioi(model), label="order", positions=["S1+1", "S2", "END"])["accuracy"]

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel, UnknownPosition, SiteError.
        Cancelled: with the probes so far, by site and position, as its `partial`.
    """
    layers = tuple(range(model.n_layers)) if layers is None else tuple(layers)
    cells = {(name, layer, position): f"{name}.{layer}" for name in sites for layer in layers for position in positions}
    probes = fit_probes(
        model, data, sites=list(dict.fromkeys(cells.values())), positions=positions, label=label, held_out=held_out,
        seed=seed, Cs=Cs, progress=progress, cancel=cancel,
    )  # fmt: skip
    shape = (len(sites), len(layers), len(positions))
    coords: dict[str, Any] = {"site": tuple(sites), "layer": layers, "position": tuple(positions)}
    some = next(iter(probes.values()))
    of_cell = {f"{site}, {position}": probe for (site, position), probe in probes.items()}
    about: dict[str, Any] = {
        **{name: some.provenance[name] for name in ("model", "model name", "data", "seed")},
        "method": "probe_sweep", "label": label, "classes": list(some.classes), "held out": some.held_out,
        "train": {cell: sum(probe.counts) for cell, probe in of_cell.items()},
        "left out": {
            cell: dict(left) for cell, probe in of_cell.items() if any((left := probe.provenance["left out"]).values())
        },
        EDGE: {cell: probe.provenance[EDGE] for cell, probe in of_cell.items() if EDGE in probe.provenance},
    }  # fmt: skip

    def result(name: str, values: list[float], low: Any = None, high: Any = None, *, unit: str = "share") -> Result:
        low, high = (None if x is None else torch.tensor(x).reshape(shape) for x in (low, high))
        grid = torch.tensor(values, dtype=torch.float64).reshape(shape)
        return Result(grid, tuple(coords), coords, name=name, unit=unit, low=low, high=high, provenance=about)

    in_order = [probes[site, position] for (_, _, position), site in cells.items()]
    bounds = [[p.interval[side] for p in in_order] for side in (0, 1)]
    return {
        "accuracy": result(f"accuracy of {label}", [p.accuracy for p in in_order], *bounds),
        "control": result("accuracy on shuffled labels", [p.control for p in in_order]),
        "selectivity": result("accuracy - control", [p.selectivity for p in in_order]),
        "C": result("C", [p.C for p in in_order], unit="inverse penalty"),
    }


def fit_probes(
    model: Model,
    data: PromptSet,
    *,
    sites: Sequence[str],
    positions: Sequence[str],
    label: str,
    held_out: PromptSet | float = 0.5,
    seed: int = 0,
    Cs: Sequence[float] = CS,
    progress: Progress = None,
    cancel: Cancel = None,
) -> dict[tuple[str, str], Probe]:
    """`fit_probe` at several sites and positions, by (site, position), the model run once."""
    if not sites or not positions:
        raise BadSweep(
            "there is nowhere to fit probes",
            received=f"{len(sites)} sites, {len(positions)} positions",
            allowed="one or more of each",
        )
    train, test = halves(data, label=label, held_out=held_out, seed=seed, positions=positions)
    seen, unseen = recorded_halves(model, train, test, sites, positions, progress=progress, cancel=cancel)
    about = {"model": model.hash, "model name": model.name, "data": data.name, "seed": seed}
    probes: dict[tuple[str, str], Probe] = {}
    with stage("Fitting probes", len(seen.vectors), progress, cancel, partial=lambda: dict(probes)) as tell:
        for at, x in seen.vectors.items():
            (probes[at],) = fit_each(
                x, unseen.vectors[at], train.label(label), test.label(label), [Cs], **seen.left_out(at), seed=seed,
                progress=False, cancel=cancel, site=at[0], position=at[1], label=label, provenance=about,
            )  # fmt: skip
            tell(len(probes))
    warn_of_edges(probes.values())
    return probes
