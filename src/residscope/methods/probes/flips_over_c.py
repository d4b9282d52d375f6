"""How far an edit's flip rate is the doing of the probe's C: the same prompts, edited by probes of one site and many Cs."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import BadSweep
from residscope.methods._lib.activations import Recorded, recorded_halves
from residscope.methods._lib.answers import answer_diffs, flips
from residscope.methods.probes.intervention import METHODS, QUANTILE, Maker
from residscope.methods.probes.probe_fit import fit_each, halves
from residscope.model.prompts import PromptSet
from residscope.probes.probe import Probe
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result

CS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
BOTH: Mapping[str, Maker] = {name: METHODS[name] for name in ("LRQP", QUANTILE)}


@method("flips-over-c", title="Flips over C", group="probes")
def flips_over_C(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    sites: Annotated[Sequence[str], fields.site(several=True, usual="resid_mid")],
    position: Annotated[str, fields.name(of="position")],
    label: Annotated[str, fields.name(of="label")],
    Cs: Sequence[float] = CS,
    methods: Mapping[str, Maker] = BOTH,
    held_out: PromptSet | float = 0.5,
    seed: Annotated[int, fields.seed()] = 0,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """The share of held-out prompts answered right whose answer flips once the label is set to the other value, by the C of
    the probe: on classes that separate, C sets the length of the weights, and with it what a fixed alpha asks for.

    A `Result` over method, site and C, with Wilson's 95 % intervals. methods: the seed's alpha and `quantile=0.5`, unless said.

        rs.flips_over_C(model, rs.tasks.ioi(model), sites=["resid_pre.20"], position="S2", label="order").select(method="LRQP")

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel, UnknownPosition, SiteError, SingularCovariance, Unreachable,
        Cancelled.
    """
    if not sites:
        raise BadSweep("there is no site to fit probes at", received=repr(sites), allowed="one or more")
    train, test = halves(data, label=label, held_out=held_out, seed=seed)
    seen, unseen = recorded_halves(model, train, test, sites, [position], progress=progress, cancel=cancel)
    about = {"model": model.hash, "model name": model.name, "data": data.name, "seed": seed}
    probes: list[tuple[Probe, ...]] = []
    shared: dict[str, Any] = {"position": position, "label": label, "seed": seed, "about": about}
    with stage("Fitting probes", len(sites), progress, cancel) as tell:
        for site in sites:
            probes.append(
                probes_over_C(seen, unseen, train, test, Cs, site=site, **shared, progress=False, cancel=cancel)
            )
            tell(len(probes))
    about = {**about, "train": len(train)}
    return flip_rates(model, test, probes, methods, batch=batch, progress=progress, cancel=cancel, about=about)


def probes_over_C(
    seen: Recorded,
    unseen: Recorded,
    train: PromptSet,
    test: PromptSet,
    Cs: Sequence[float],
    *,
    site: str,
    position: str,
    label: str,
    seed: int,
    about: Mapping[str, Any],
    progress: Progress = None,
    cancel: Cancel = None,
) -> tuple[Probe, ...]:
    """One probe for each C, all of the same cloud."""
    at = (site, position)
    return fit_each(
        seen.vectors[at], unseen.vectors[at], train.label(label), test.label(label), [(C,) for C in Cs],
        **seen.left_out(at), seed=seed, progress=progress, cancel=cancel, site=site, position=position, label=label,
        provenance=about,
    )  # fmt: skip


def flip_rates(
    model: Model,
    test: PromptSet,
    probes: Sequence[Sequence[Probe]],
    methods: Mapping[str, Maker] = BOTH,
    *,
    batch: int = 32,
    progress: Progress = None,
    cancel: Cancel = None,
    about: Mapping[str, Any] | None = None,
) -> Result:
    """The flip rate of every method, site and C on prompts that no probe has seen: `probes` by site and C."""
    cells = [[make(probe, "other")] for make in methods.values() for row in probes for probe in row]
    clean, *edited = answer_diffs(model, test, [[], *cells], batch=batch, progress=progress, cancel=cancel)
    each = [flips(clean, diff) for diff in edited]
    Cs = tuple(probe.C for probe in probes[0])
    coords: dict[str, Any] = {"method": tuple(methods), "site": tuple(row[0].site for row in probes), "C": Cs}
    shape = tuple(map(len, coords.values()))
    rate, low, high = (
        torch.tensor(column, dtype=torch.float64).reshape(shape)
        for column in zip(*((one.rate, *one.interval) for one in each), strict=True)
    )
    provenance = {
        **model.provenance,
        **(about or {}),
        "method": "flips_over_C",
        "held out": len(test),
        "right": each[0].right,
    }
    return Result(
        rate, tuple(coords), coords, name="flip rate", unit="share", low=low, high=high, provenance=provenance
    )
