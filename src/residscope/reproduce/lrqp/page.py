"""The page of `lrqp_study`: every figure of the seed, and a verdict for each of its claims."""

from collections.abc import Sequence
from dataclasses import replace
from math import log10

from residscope.methods._lib.answers import Flips
from residscope.methods.probes.intervention import QUANTILE, Intervention, compare
from residscope.reproduce.lrqp.claims import cards
from residscope.reproduce.lrqp.study import Study, layer_of, site_of
from residscope.views import Curve, Grid, HeatMap, Line, Reference, Table, Text, View

SHOWN = 160  # points in each of the small multiples


def page(study: Study) -> list[View]:
    """Everything, in the order of the seed."""
    best = study.lrqp[study.best]
    views: list[View] = [_about(study), Grid(cards(study), columns=2, title="The seed's claims, one by one")]
    views += [_readable(study), _multiples(study), _layers(study), _over_c(study)]
    views += [
        Grid(
            [best.histogram(), best.scatter()],
            columns=2,
            title=f"LRQP at {best.site}: the seed's histogram and scatter",
        )
    ]
    views += [*_methods(study.methods), study.roles.view()]
    if study.roles.s_inhibition:
        views += [study.downstream.beliefs()]
    views += [study.downstream.looks(group) for group in study.downstream.attention]
    if study.mediation is not None:
        views += [
            Grid([study.mediation.curve(), study.mediation.histogram()], columns=2, title="The seed's open question")
        ]
    return [*views, _second(study), _provenance(study)]


def _about(study: Study) -> Text:
    p = study.provenance
    return Text(
        "Intervening in the Residual Stream, run again",
        [
            f"{p['model']}: {p['prompts']} IOI prompts with prefix sentences, ABBA and BABA alike; {p['held out']} of them held "
            f"out, {p['few']} of these at the coarse layers, in the table of methods and downstream. Seed {p['seed']}; "
            f"{p['seconds']:.0f} s on {p['threads']} thread(s).",
            "The seed's numbers are of GPT-2 small. A claim that fails here failed on this model: it says nothing of that one.",
        ],
    )


def _readable(study: Study) -> View:
    def lines(name: str) -> tuple[list[int], Line, Line]:
        own = [p for p in study.look.projections if p.site.startswith(name + ".")]
        probes = [p.probe for p in own]
        ys = [x.accuracy for x in probes]
        drawn = Line(f"probe, {name}", ys, low=[x.interval[0] for x in probes], high=[x.interval[1] for x in probes])
        return (
            [int(p.site.rpartition(".")[2]) for p in own],
            drawn,
            Line(f"silhouette, {name}", [p.silhouette for p in own]),
        )

    names = list(dict.fromkeys(p.site.rpartition(".")[0] for p in study.look.projections))
    parts = [lines(name) for name in names]
    shuffled = [p.probe.control for p in study.look.projections if p.site.startswith(names[-1] + ".")]
    control = Line("probe, shuffled labels", shuffled, dashed=True)
    x = parts[0][0]
    return Grid(
        [
            Curve(
                x,
                [*(p[1] for p in parts), control],
                title="Held-out accuracy of the order at S2",
                x_title="layer",
                y_title="accuracy",
            ),
            Curve(
                x,
                [p[2] for p in parts],
                title="Silhouette of the order on the first two singular vectors",
                x_title="layer",
                y_title="silhouette",
            ),
        ],
        columns=2,
        title="Where ABBA and BABA can be seen, and read",
    )


def _multiples(study: Study) -> View:
    mid = [p for p in study.look.projections if p.site.startswith(site_of(study) + ".")]
    thinned = [replace(p, shown=p.shown[:SHOWN].float(), groups=p.groups[:SHOWN]) for p in mid]
    return Grid(
        [p.view() for p in thinned],
        columns=4,
        title=f"The first two singular vectors at S2, layer by layer ({len(thinned[0].groups)} prompts shown)",
    )


def _layers(study: Study) -> View:
    layers = list(study.lrqp)

    free = study.beside[site_of(study), QUANTILE]

    def line(name: str, rates: Sequence[Flips], dashed: bool = False) -> Line:
        ends = [[r.interval[side] for r in rates] for side in (0, 1)]
        return Line(name, [r.rate for r in rates], low=ends[0], high=ends[1], dashed=dashed)

    def arm(name: str) -> list[Flips]:
        return [study.lrqp[at].flips(name) for at in layers]

    shifts = {
        arm: [study.lrqp[at].flips(arm).mean_absolute_shift for at in layers]
        for arm in ("counterfactual", "control", "random direction")
    }
    rows = [
        [
            at,
            intervention.provenance["C"],
            len(intervention.arms["clean"].diff),
            *(round(intervention.numbers()[name], 3) for name in intervention.numbers()),
        ]
        for at, intervention in study.lrqp.items()
    ]
    beside = [
        [f"{site}.{at}", method, flips.right] + [round(x, 3) for x in (flips.rate, *flips.interval, flips.mean_shift)]
        for (site, method), by_layer in study.beside.items()
        for at, flips in by_layer.items()
    ]
    return Grid(
        [
            Grid(
                [
                    Curve(
                        layers,
                        [
                            line("set to the other order", arm("counterfactual")),
                            line("the same, alpha by quantile 0.5", [free[at] for at in layers]),
                            line("set to the true one", arm("control")),
                            line("random direction", arm("random direction"), True),
                        ],
                        title="Share of right answers that flip",
                        x_title="layer",
                        y_title="share",
                        references=[Reference(study.best, "best")],
                    ),
                    Curve(
                        layers,
                        [Line(arm, ys, dashed=arm == "random direction") for arm, ys in shifts.items()],
                        title="Mean absolute shift of the logit difference",
                        x_title="layer",
                        unit="logits",
                    ),
                ]
            ),
            Table(
                ["layer", "C", "prompts", *next(iter(study.lrqp.values())).numbers()],
                rows,
                title="The same as numbers",
                note="KL in nats; answer mass: log(P(right) + P(wrong)); off-cloud: median percentile, 50 for real points",
            ),
            Table(
                ["site", "method", "answered right", "flip rate", "low", "high", "mean shift"],
                beside,
                title="With an alpha that does not depend on C, and in the stream before each block",
                note="set to the other order; 95 % intervals; shifts in logits",
            ),
        ],
        columns=1,
        title=f"LRQP at {site_of(study)}, layer by layer",
    )


def _over_c(study: Study) -> View:
    """Flip rate over C, the seed's alpha and the quantile apart."""
    rates = study.over_c
    Cs = [float(C) for C in rates.coords["C"]]

    def line(method: str, site: str) -> Line:
        here = rates.select(method=method, site=site)
        low, high = (None if end is None else end.tolist() for end in (here.low, here.high))
        return Line(site, here.values.tolist(), low=low, high=high, dashed=site.startswith("resid_pre"))

    return Grid(
        [
            Curve(
                [log10(C) for C in Cs],
                [line(str(method), str(site)) for site in rates.coords["site"]],
                title=f"{method}: share of right answers that flip",
                x_title="log10 of the probe's C",
                y_title="share",
            )
            for method in rates.coords["method"]
        ],
        columns=2,
        title=f"What the probe's C does to it ({rates.provenance['right']} held-out prompts answered right)",
    )


def _methods(interventions: Sequence[Intervention]) -> list[View]:
    tables = compare(interventions)
    sites, names = tables["flip rate"].coords["site"], tables["flip rate"].coords["method"]
    rate = tables["flip rate"]
    rows = [
        [str(site), str(name), *(round(float(table.values[i, j]), 3) for table in tables.values())]
        for i, site in enumerate(sites)
        for j, name in enumerate(names)
    ]
    return [
        Grid(
            [
                HeatMap(
                    rate.values,
                    sites,
                    names,
                    title="Flip rate, method by layer",
                    scale="sequential",
                    limit=1.0,
                    low=rate.low,
                    high=rate.high,
                ),
                Table(
                    ["site", "method", *tables],
                    rows,
                    title="Methods side by side",
                    note=f"{len(interventions[0].arms['clean'].diff)} held-out prompts",
                ),
            ],
            columns=1,
        )
    ]


def _second(study: Study) -> View:
    layers = [layer_of(intervention) for intervention in study.second]
    lines = [
        Line(
            arm,
            [intervention.flips(arm).rate for intervention in study.second],
            low=[intervention.flips(arm).interval[0] for intervention in study.second],
            high=[intervention.flips(arm).interval[1] for intervention in study.second],
            dashed=arm == "random direction",
        )
        for arm in ("counterfactual", "control", "random direction")
    ]
    top = max(study.second, key=lambda intervention: intervention.flips().rate)
    return Grid(
        [
            Curve(
                layers,
                lines,
                title="Share of pronouns that flip, gender set at the name",
                x_title="layer (resid_pre)",
                y_title="share",
            ),
            top.histogram(),
        ],
        columns=2,
        title="A second distribution: gendered pronouns",
    )


def _provenance(study: Study) -> Table:
    rows = [
        [name, value if isinstance(value, int | float | str) else str(value)]
        for name, value in study.provenance.items()
    ]
    return Table(["what", "value"], rows, title="Provenance")
