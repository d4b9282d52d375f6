"""The seed's claims, one card each: what was measured, the criterion, and whether it held."""

from collections.abc import Mapping, Sequence
from typing import Any

from residscope.methods._lib.intervals import wilson
from residscope.methods.heads.head_roles import LOOKED
from residscope.methods.probes.downstream import Downstream
from residscope.methods.probes.intervention import QUANTILE, Intervention
from residscope.probes.probe import EDGE
from residscope.reproduce.lrqp.study import Study, site_of
from residscope.views import Card


def cards(study: Study) -> list[Card]:
    """A claim of the seed each, with the number measured, the criterion, and whether it held."""
    until_flips = [_prefixes(study), *_shown(study), *_read(study), *_flipped(study)]
    return [*until_flips, *_believed(study), *_moved(study), *_mediated(study), _elsewhere(study)]


def _card(claim: str, fields: Mapping[str, Any], held: bool | None, criterion: str) -> Card:
    verdict = None if held is None else "passed" if held else "failed"
    return Card(claim, {name: _rounded(value) for name, value in fields.items()}, verdict=verdict, note=criterion)  # type: ignore[arg-type]


def _rounded(value: Any) -> Any:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _percent(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"{k / max(n, 1):.1%} of {n} ({low:.1%} to {high:.1%})"


def _prefixes(study: Study) -> Card:
    (a, n), (b, m) = study.right["with prefixes"], study.right["without"]
    return _card(
        "Prefix sentences do not hurt the task",
        {"answered right with prefixes": _percent(a, n), "without": _percent(b, m)},
        a / n >= b / m - 0.05,
        "held if no more than 5 points are lost",
    )


def _shown(study: Study) -> list[Card]:
    mid = [p for p in study.look.projections if p.site.startswith(site_of(study))]
    score = {int(p.site.rpartition(".")[2]): p.silhouette for p in mid}
    top = max(score, key=lambda layer: score[layer])
    clear = [layer for layer, s in score.items() if s >= 0.5]
    last = max(score)
    return [
        _card(
            "In some middle layers ABBA and BABA are the primary thing at S2: the first two singular vectors part them",
            {"largest silhouette": score[top], "at layer": top, "layers with 0.5 or more": _ranges(clear)},
            score[top] >= 0.5,
            "held if some layer has a silhouette of 0.5 or more; the projection never saw the label",
        ),
        _card(
            "... not before, and no longer in late layers",
            {"silhouette at layer 0": score[0], "at the last": score[last], "the seed, GPT-2 small": "L5.mid to L8"},
            score[0] < 0.2 and score[last] < 0.2 and score[top] >= 0.5,
            "held if both are under 0.2",
        ),
    ]


def _read(study: Study) -> list[Card]:
    mid = {int(p.site.rpartition(".")[2]): p.probe for p in study.look.projections if p.site.startswith(site_of(study))}
    good = [layer for layer, probe in mid.items() if probe.accuracy >= 0.99]
    after = {layer: probe.accuracy for layer, probe in mid.items() if layer >= 1}
    least = min(after, key=lambda layer: after[layer])
    worst = max(abs(probe.control - 0.5) for probe in mid.values())
    return [
        _card(
            "Logistic regression reads the order all but perfectly in the middle layers",
            {
                "99 % or more at layers": _ranges(good),
                "shuffled labels, furthest from 50 %": worst,
                "the seed, GPT-2 small": "layers 5 to 8",
            },
            bool(good),
            "held if some layer's held-out accuracy is 99 % or more",
        ),
        _card(
            "It reads it reliably in pretty much all layers after the first attention layer",
            {"least accuracy after layer 0": after[least], "at layer": least, "mean": sum(after.values()) / len(after)},
            after[least] >= 0.9,
            "held if every layer from 1 on has 90 % or more",
        ),
    ]


def _flipped(study: Study) -> list[Card]:
    best = study.lrqp[study.best]
    other, true, chance = (best.flips(arm) for arm in ("counterfactual", "control", "random direction"))
    free = study.beside[site_of(study), QUANTILE][study.best]
    strong = [
        layer
        for layer, intervention in study.lrqp.items()
        if intervention.flips().interval[0] > 0.25 and intervention.flips("random direction").rate < 0.1
    ]
    return [
        _card(
            "Setting the order to the other one by LRQP (usually) flips the answer",
            {
                "layer": best.site,
                "flips": _percent(other.flipped, other.right),
                "mean shift, logits": other.mean_shift,
                "random direction of equal cost": _percent(chance.flipped, chance.right),
                "the probe's C": _C_in_words(best),
                "flips with quantile 0.5 instead, which no C decides": _percent(free.flipped, free.right),
            },
            other.interval[0] > 0.5 and chance.interval[1] < 0.1,
            "held if the interval lies over 50 %, and the random direction's under 10 %; with the seed's alpha, e^10 and more",
        ),
        _card(
            "The control, set to the true order, hugs y = x",
            {
                "mean absolute shift, logits": true.mean_absolute_shift,
                "of the counterfactual's": true.mean_absolute_shift / max(other.mean_absolute_shift, 1e-9),
                "flips": _percent(true.flipped, true.right),
            },
            true.mean_absolute_shift < 0.1 * other.mean_absolute_shift,
            "held if under a tenth of the counterfactual's shift",
        ),
        _card(
            "Where it can be read, rewriting it changes the answer",
            {"over a quarter flip at layers": _ranges(strong), "of those run": ", ".join(map(str, study.lrqp))},
            None,
            "the seed intervened in L6.mid and L7.pre, and says nothing of the others: no verdict",
        ),
        *_like_with_like(study),
        _over_C(study),
    ]


def _like_with_like(study: Study) -> list[Card]:
    """The stream before and after the block whose heads read the order off S2."""
    before = study.beside.get(("resid_pre", "LRQP"))
    if before is None or not study.roles.s_inhibition:
        return []
    reader = study.roles.s_inhibition[0]
    fields: dict[str, Any] = {"the reader": f"{reader[0]}.{reader[1]}, which reads resid_pre.{reader[0]}"}
    for name in ("resid_pre", site_of(study)):
        for method in ("LRQP", QUANTILE):
            seeds = (name, method) == (site_of(study), "LRQP")
            by_layer = {at: its.flips() for at, its in study.lrqp.items()} if seeds else study.beside[name, method]
            rates = (f"{layer}: {by_layer[layer].rate:.1%}" for layer in sorted(by_layer) if layer in before)
            fields[f"{method} at {name}"] = ", ".join(rates)
    return [
        _card(
            "Compared like with like: the stream before each block, and after its attention",
            fields,
            None,
            f"resid_mid.{reader[0]} is past the read of block {reader[0]}, resid_pre.{reader[0]} is not; no verdict",
        )
    ]


def _over_C(study: Study) -> Card:
    rates, Cs = study.over_c, study.over_c.coords["C"]
    fields: dict[str, Any] = {
        f"{method} at {site}": ", ".join(
            f"{rate:.0%}" for rate in rates.select(method=method, site=site).values.tolist()
        )
        for site in rates.coords["site"]
        for method in rates.coords["method"]
    }
    return _card(
        f"How much of the flip rate is the probe's C: {', '.join(f'{C:g}' for C in Cs)}",
        fields,
        None,
        f"{rates.provenance['right']} held-out prompts answered right; the orders separate, so no data chooses C; no verdict",
    )


def _C_in_words(intervention: Intervention) -> str:
    edge = intervention.provenance["probe"].get(EDGE)
    return f"{intervention.provenance['C']:g}" + ("" if edge is None else f", the {edge} end of the grid")


def _believed(study: Study) -> list[Card]:
    reports = study.downstream.reports
    if not study.roles.s_inhibition:
        return [_card("The S-inhibition heads report the injected belief", {"heads found": 0}, False, "none was found")]
    share = {
        str(head): [float(reports.values[i, j]) for j in range(3)] for i, head in enumerate(reports.coords["head"])
    }
    fields: dict[str, Any] = {
        f"{head}: injected belief reported": f"{1 - other:.1%} (its own: clean {clean:.1%}, control {true:.1%})"
        for head, (clean, true, other) in share.items()
    }
    held = all(1 - other >= 0.9 and true >= 0.9 for _, true, other in share.values())
    return [
        _card(
            "The S-inhibition heads almost always report the injected belief",
            fields,
            held,
            "held if each does for 90 % or more, and its own under the control",
        )
    ]


def _moved(study: Study) -> list[Card]:
    moved = []
    for group in study.downstream.attention:
        attention = _attention(study.downstream, group)
        (io, s1, s2), (io_, s1_, s2_) = attention["control"], attention["counterfactual"]
        fields = {
            "control: END to IO, S1, S2": f"{io:.2f}, {s1:.2f}, {s2:.2f}",
            "counterfactual": f"{io_:.2f}, {s1_:.2f}, {s2_:.2f}",
            "heads": _heads(study, group),
        }
        claimed = group in ("name movers", "negative name movers")
        held = (io == max(io, s1, s2) and s1_ == max(io_, s1_, s2_)) if claimed else None
        words = (
            f"The {group} look mostly at IO, and at S1 once the order is set to the other one"
            if claimed
            else f"The {group}: the seed {'finds no clear pattern' if 'backup' in group else 'does not know them'}"
        )
        moved.append(
            _card(
                words,
                fields,
                held,
                "means; held if IO gets most of the three under the control, and S1 under the counterfactual"
                if claimed
                else "no verdict",
            )
        )
    return moved


def _mediated(study: Study) -> list[Card]:
    m = study.mediation
    if m is None:
        return []
    names = [str(name) for name in m.through.coords["held"]]
    assert m.through.low is not None
    assert m.through.high is not None
    fields: dict[str, Any] = {
        f"through {name}": f"{v:.0%} ({low:.0%} to {high:.0%}); flips {m.flips(name).rate:.1%}"
        for name, v, low, high in zip(
            names, m.through.values.tolist(), m.through.low.tolist(), m.through.high.tolist(), strict=True
        )
    }
    fields = {"flips, nothing held": f"{m.flips().rate:.1%}"} | fields
    first = names[0] == "name movers"
    return [
        _card(
            "Open question: the effect is implemented primarily via the name movers' attention",
            fields,
            first and float(m.through.low[0]) > 0.5,
            "held if over half of the mean shift goes when their patterns are held at the clean run's",
        )
    ]


def _elsewhere(study: Study) -> Card:
    top = max(study.second, key=lambda intervention: intervention.flips().rate)
    other, chance = top.flips(), top.flips("random direction")
    return _card(
        "Open question: the method works for other variables (gendered pronouns, at the name)",
        {
            "layer": top.site,
            "flips": _percent(other.flipped, other.right),
            "control: mean absolute shift": top.flips("control").mean_absolute_shift,
            "random direction": _percent(chance.flipped, chance.right),
        },
        other.interval[0] > 0.5 and chance.interval[1] < 0.1,
        "held as for the order",
    )


def _ranges(layers: Sequence[int]) -> str:
    """3, 5, 6, 7 as `3, 5-7`."""
    ranges: list[list[int]] = []
    for layer in sorted(layers):
        if ranges and layer == ranges[-1][1] + 1:
            ranges[-1][1] = layer
        else:
            ranges.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges) or "none"


def _heads(study: Study, group: str) -> str:
    return ", ".join(f"{a}.{b}" for a, b in study.roles.groups[group])


def _attention(downstream: Downstream, group: str) -> dict[str, list[float]]:
    means = downstream.means(group).mean("head")
    return {
        str(arm): [float(means.values[i, j]) for j in range(len(LOOKED))] for i, arm in enumerate(means.coords["arm"])
    }
