"""Intervening in the Residual Stream (2023), run again: everything measured, in one frozen value; `lrqp_page.py` shows it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from residscope.engine.model import Model
from residscope.methods._lib.activations import Recorded, recorded, recorded_halves
from residscope.methods._lib.answers import Flips, answer_diffs, flips
from residscope.methods.heads.head_roles import HeadRoles, head_roles
from residscope.methods.patching.mediation import Mediation, mediated
from residscope.methods.probes.downstream import Downstream, downstream
from residscope.methods.probes.flips_over_c import flip_rates, probes_over_C
from residscope.methods.probes.intervention import METHODS, QUANTILE, Intervention, intervene
from residscope.methods.probes.look import Look, project
from residscope.methods.probes.probe_fit import fit_each
from residscope.model.prompts import PromptSet
from residscope.probes.logistic import CS
from residscope.probes.probe import EDGE, Probe, warn_of_edges
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result
from residscope.tasks import gender, ioi

LRQP = {"LRQP": METHODS["LRQP"]}
ROW = "row"


@dataclass(frozen=True)
class Size:
    """How much is run. prompts: half of them held out. few: of those, at the coarse layers, in the table and downstream. beyond:
    of those, edited by probes of many Cs."""

    prompts: int = 640
    few: int = 96
    step: int = 3
    around: int = 2
    methods: int = len(METHODS)
    patched: int = 16
    second: int = 120
    beyond: int = 48
    Cs: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)

    @classmethod
    def quick(cls) -> "Size":
        return cls(prompts=40, few=8, step=9, around=0, methods=2, patched=2, second=16, beyond=8, Cs=(1e-3, 1.0))


@dataclass(frozen=True, eq=False)
class Study:
    """What was measured. lrqp: one intervention a layer, the coarse ones on fewer prompts. beside: the same with the alpha that
    does not depend on C, and at resid_pre around the best layer, by site and method. best: the layer that flips most. over_c:
    flip rates by method, site and C. right: of how many prompts, how many are answered right, with prefixes and without."""

    look: Look
    lrqp: Mapping[int, Intervention]
    beside: Mapping[tuple[str, str], Mapping[int, Flips]]
    best: int
    over_c: Result
    methods: tuple[Intervention, ...]
    roles: HeadRoles
    downstream: Downstream
    mediation: Mediation | None
    second: tuple[Intervention, ...]
    right: Mapping[str, tuple[int, int]]
    provenance: Mapping[str, Any] = field(default_factory=dict)


def lrqp_study(
    model: Model, *, size: Size | None = None, seed: int = 0, progress: Progress = None, cancel: Cancel = None
) -> Study:
    """All of the seed's figures and its open question, on IOI prompts with prefixes; gendered pronouns as a second distribution.

    Layers are searched coarsely, then finely around the layer that flips most answers. That layer is chosen on the same held-out
    prompts that its flip rate is then quoted of, among a handful.

    Raises:
        TooFewWords: the tokenizer splits the names. TaskError, SiteError, ProbeError, Cancelled.
    """
    size, began = size or Size(), time.monotonic()
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    data = ioi(model, size.prompts, seed=seed, **watch)
    data = replace(data, labels={**data.labels, ROW: tuple(range(len(data)))})
    train, test = data.split(0.5, seed=seed, by="order")
    few = test.subset(_balanced(test, size.few))
    site = "resid_mid" if "resid_mid" in model.sites.names else "resid_pre"
    names = [str(s) for name in dict.fromkeys(["resid_pre", site]) for s in model.sites.expand(name)]
    names = [name for name in names if int(name.rpartition(".")[2]) < model.n_layers]
    captured = recorded(model, data, names, ["S2"], **watch)
    projections = project(captured, data, label="order", seed=seed, provenance=model.provenance, **watch)
    halves = [half.label(ROW) for half in (train, test)]
    seen, unseen = (_rows(captured, [int(str(row)) for row in rows]) for rows in halves)
    about = {"model": model.hash, "model name": model.name, "data": data.name, "seed": seed}

    fitted: dict[tuple[str, int], Probe] = {}

    def probes(name: str, layers: Sequence[int]) -> list[Probe]:
        with stage(f"Fitting probes at {name}", len(layers), progress, cancel) as tell:
            for done, layer in enumerate(layers):
                at = (f"{name}.{layer}", "S2")
                if (name, layer) not in fitted:
                    (fitted[name, layer],) = fit_each(
                        seen.vectors[at], unseen.vectors[at], train.label("order"), test.label("order"), [CS],
                        **seen.left_out(at), seed=seed, progress=False, cancel=cancel, site=at[0], position="S2",
                        label="order", provenance=about,
                    )  # fmt: skip
                tell(done + 1)
        return [fitted[name, layer] for layer in layers]

    coarse = list(range(0, model.n_layers, size.step))
    start = probes(site, coarse)
    lrqp = _by_layer(intervene(model, few, start, LRQP, seed=seed, **watch))
    free = _flips(model, few, start, [QUANTILE], **watch)[QUANTILE]
    near = max(
        lrqp,
        key=lambda layer: -lrqp[layer].flips().mean_shift if lrqp[layer].flips("random direction").rate < 0.1 else -1e9,
    )
    fine = [layer for layer in range(near - size.around, near + size.around + 1) if 0 <= layer < model.n_layers]
    read = probes(site, fine)
    lrqp |= _by_layer(intervene(model, test, read, LRQP, seed=seed, **watch))
    free |= _flips(model, test, read, [QUANTILE], **watch)[QUANTILE]
    best = max(fine, key=lambda layer: lrqp[layer].flips().rate)
    probe = read[fine.index(best)]
    beside = {(site, QUANTILE): dict(sorted(free.items()))}
    around = sorted({*fine, *range(best - 1, best + 3)} & {*range(model.n_layers)}) if size.around else fine
    if site != "resid_pre":
        before = _flips(model, few, probes("resid_pre", around), ["LRQP", QUANTILE], **watch)
        beside |= {("resid_pre", method): by_layer for method, by_layer in before.items()}
    places = [
        f"{name}.{layer}"
        for layer in around
        if best - 1 <= layer <= best + 2
        for name in dict.fromkeys(["resid_pre", site])
    ]
    labelled: dict[str, Any] = {"label": "order", "seed": seed}
    over_c = flip_rates(
        model,
        few.subset(_balanced(few, size.beyond)),
        [
            probes_over_C(seen, unseen, train, test, size.Cs, site=at, position="S2", **labelled, about=about, **watch)
            for at in places
        ],
        **watch,
    )
    chosen = [one for one in read if abs(int(one.site.rpartition(".")[2]) - best) <= 1]
    makers = dict(list(METHODS.items())[: size.methods])
    methods = intervene(model, few, chosen, makers, seed=seed, **watch)

    roles = head_roles(model, train.subset(_balanced(train, 2 * size.few)), prompts=size.patched, **watch)
    arms = {
        name: [] if to is None else [METHODS["LRQP"](probe, to)]
        for name, to in {"clean": None, "control": "true", "counterfactual": "other"}.items()
    }
    movers = {name: heads for name, heads in roles.groups.items() if heads and name != "S-inhibition heads"}
    some = train.subset(_balanced(train, 2 * size.few))
    below = downstream(
        model, some, few, arms, label="order", readers=roles.s_inhibition, movers=movers, seed=seed, **watch
    )
    groups = {name: heads for name, heads in roles.groups.items() if heads and name != "S-inhibition heads"}
    if len(groups) > 1:
        groups["all of these"] = tuple(dict.fromkeys(head for heads in groups.values() for head in heads))
    mediation = mediated(model, few, arms["counterfactual"], groups, seed=seed, **watch) if groups else None
    second = _second(model, size, seed, **watch)
    without_prefixes = ioi(model, len(few), seed=seed, prefixes=False, **watch)
    right = {
        "with prefixes": _right(lrqp[best].arms["clean"].diff),
        "without": _right(answer_diffs(model, without_prefixes, **watch)[0]),
    }
    about = {
        **model.provenance,
        "paper": "Intervening in the Residual Stream (2023)",
        "prompts": len(data),
        "held out": len(test),
        "few": len(few),
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "threads": torch.get_num_threads(),
        "C": {one.site: one.C for one in fitted.values()},
        EDGE: {one.site: one.provenance[EDGE] for one in fitted.values() if EDGE in one.provenance},
    }
    warn_of_edges(fitted.values())
    layers = dict(sorted(lrqp.items()))
    return Study(projections, layers, beside, best, over_c, methods, roles, below, mediation, second, right, about)


def _flips(
    model: Model, data: PromptSet, probes: Sequence[Probe], methods: Sequence[str], **watch: Any
) -> dict[str, dict[int, Flips]]:
    """How many answers flip once the order is set to the other one, by method and layer."""
    cells = [[METHODS[method](probe, "other")] for method in methods for probe in probes]
    clean, *edited = answer_diffs(model, data, [[], *cells], **watch)
    layers = [int(probe.site.rpartition(".")[2]) for probe in probes]
    each = iter(edited)
    return {method: {layer: flips(clean, next(each)) for layer in layers} for method in methods}


def _rows(captured: Recorded, rows: Sequence[int]) -> Recorded:
    """Some of the prompts."""
    return Recorded(
        *({key: x[list(rows)] for key, x in part.items()} for part in (captured.vectors, captured.kept, captured.first))
    )


def layer_of(intervention: Intervention) -> int:
    return int(intervention.site.rpartition(".")[2])


def _by_layer(interventions: Sequence[Intervention]) -> dict[int, Intervention]:
    return {layer_of(intervention): intervention for intervention in interventions}


def site_of(study: Study) -> str:
    """The site's name without its layer."""
    return study.lrqp[study.best].site.rpartition(".")[0]


def _second(model: Model, size: Size, seed: int, **watch: Any) -> tuple[Intervention, ...]:
    """The same pipeline on gendered pronouns, at four depths."""
    train, test = gender(model, size.second, seed=seed, **watch).split(0.5, seed=seed, by="gender")
    layers = sorted(
        {1, model.n_layers // 5, 2 * model.n_layers // 5, 3 * model.n_layers // 5} & {*range(model.n_layers)}
    )
    sites = [f"resid_pre.{layer}" for layer in layers]
    seen, unseen = recorded_halves(model, train, test, sites, ["NAME"], **watch)
    probes: list[Probe] = []
    for at in seen.vectors:
        probes += fit_each(
            seen.vectors[at], unseen.vectors[at], train.label("gender"), test.label("gender"), [CS], **seen.left_out(at),
            seed=seed, **watch, site=at[0], position="NAME", label="gender", provenance={"model": model.hash, "data": test.name},
        )  # fmt: skip
    warn_of_edges(probes)
    return intervene(model, test, probes, LRQP, seed=seed, **watch)


def _balanced(data: PromptSet, n: int) -> list[int]:
    """At most n prompts, both orders alike, in the order given."""
    rows: dict[object, list[int]] = {}
    for i, order in enumerate(data.label("order")):
        rows.setdefault(order, []).append(i)
    return sorted(i for own in rows.values() for i in own[: max(2, n // 2)])


def _right(diff: torch.Tensor) -> tuple[int, int]:
    return int((diff > 0).sum()), len(diff)
