"""A verdict for each claim about a graph, with the numbers and the interval that it stands on."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.methods._lib.badges import LEVEL, MATCHED, RISING, Badge
from residscope.methods._lib.blind import spearman
from residscope.methods._lib.intervals import bootstrap, by_rank, middle, wilson

if TYPE_CHECKING:
    from residscope.graph.validation.report import Control, Validation

HALF = 0.5  # of the probability, of the gap, of the prompts: what a claim needs
LEAST_GAP = 0.1  # nats between the whole run and none of the features, under which nothing can be sufficient
NOTHING = "There is no effect here beyond the controls', so nothing to tell of it."
Numbers = dict[str, float | str | None]
STANDS_ON = {
    "Necessary": ("share of the probability lost", "controls lose, low", "controls lose, high"),
    "Sufficient": ("faithfulness", "controls, low", "controls, high"),
    "Beyond controls": ("p, the largest", "share of draws, low", "share of draws, high"),
    "Dose-dependent": ("rank correlation", "", ""),
    "Specific": ("texts that change half as much", "low", "high"),
    "Stable": ("prompts that lose half", "low", "high"),
}
"""The number that each verdict stands on, and its interval, by their names among a claim's numbers."""


def of(v: "Validation") -> tuple[Badge, ...]:
    """All six, in the order in which they are asked."""
    return (necessary(v), sufficient(v), beyond_controls(v), dose_dependent(v), specific(v), stable(v))


def necessary(v: "Validation") -> Badge:
    """Without the nodes the target loses half of its probability or more, and more than without 95 % of its controls."""
    claim, control = "Necessary", _fair(v)
    told = [
        f"Without the nodes {v.target!r} goes from {v.whole.probability:.1%} to {v.without.probability:.1%}:",
        f"{_signed(-v.lost)} of it.",
    ]
    numbers: Numbers = {"share of the probability lost": v.lost, "log p lost, nats": _drop(v), "KL, nats": v.without.kl}
    if control is None:
        return Badge(claim, None, " ".join([*told, _incomparable(v)]), numbers)
    p = by_rank(_drop(v), _drops(v, control))
    low, high = map(float, middle(-torch.expm1(-_drops(v, control))))
    numbers |= {"p": p, "controls lose, low": low, "controls lose, high": high}
    told.append(
        f"Without {control.about} it changes by {_signed(-high)} to {_signed(-low)} (95 % of draws; p {p:.3f})."
    )
    return Badge(claim, v.lost >= HALF and p <= LEVEL, " ".join(told), numbers)


def sufficient(v: "Validation") -> Badge:
    """The nodes alone bring the target half of the way from no feature to the whole run or more, and further than controls."""
    claim, control, gap = "Sufficient", v.control("active"), v.whole.log_prob - v.none.log_prob
    told = [
        f"With these alone, of all features of their dictionaries, {v.target!r} has {v.only.probability:.1%};",
        f"with none, {v.none.probability:.1%}; in the whole run, {v.whole.probability:.1%}.",
    ]
    numbers: Numbers = {"faithfulness": v.faithfulness, "completeness (of the rest)": v.completeness, "gap, nats": gap}
    if gap < LEAST_GAP:
        told.append("All features together hardly raise it, so none are enough.")
        return Badge(claim, False, " ".join(told), numbers)
    told.append(f"That is {v.faithfulness:.0%} of the way; the rest without them, {v.completeness:.0%}.")
    if control is None or control.kept is None:
        return Badge(claim, None, " ".join([*told, _incomparable(v)]), numbers)
    p = by_rank(v.only.log_prob, control.kept)
    low, high = map(float, middle((control.kept - v.none.log_prob) / gap))
    numbers |= {"p": p, "controls, low": low, "controls, high": high}
    told.append(f"{_capital(control.about)} alone: {low:.0%} to {high:.0%} (95 % of draws; p {p:.3f}).")
    return Badge(claim, v.faithfulness >= HALF and p <= LEVEL, " ".join(told), numbers)


def beyond_controls(v: "Validation") -> Badge:
    """Taking the nodes out lowers the target more than 95 % of the draws of every kind of control that compares."""
    numbers: Numbers = {}
    told, tests = [], []
    for control in v.controls:
        drops = _drops(v, control)
        as_much, n, p = int((drops >= _drop(v)).sum()), len(drops), by_rank(_drop(v), drops)
        low, high = wilson(as_much, n)
        least, most = bootstrap(_drop(v) - drops)
        more = f"more than {control.about}, nats"
        numbers |= {f"p, {control.about}": p, more: float((_drop(v) - drops).mean())}
        numbers |= {f"{more}: low": float(least), f"{more}: high": float(most)}
        sentence = (
            f"{as_much} of {n} draws of {control.about} lower it as much ({low:.0%} to {high:.0%} of all; p {p:.3f})"
        )
        if _compares(control):
            tests.append((p, low, high))
        else:
            sentence += f", which is no test: they write {control.matched:.0%} of what the nodes do"
        told.append(f"{_capital(sentence)}.")
    told += [f"No {ABOUT[name]}: {why}." for name, why in v.missing.items() if name in ABOUT]
    if not tests:
        return Badge("Beyond controls", None, " ".join(told), numbers)
    worst = max(tests)
    numbers |= dict(zip(STANDS_ON["Beyond controls"], worst, strict=True))
    return Badge("Beyond controls", _drop(v) > 0 and worst[0] <= LEVEL, " ".join(told), numbers)


def dose_dependent(v: "Validation") -> Badge:
    """From none of the nodes to all of them, in steps, the target rises: a rank correlation of 0.9 or more."""
    claim = "Dose-dependent"
    order = torch.tensor(v.scales, dtype=torch.float64).argsort()
    order = order[[0 <= v.scales[i] <= 1 for i in order.tolist()]]
    if len(order) < 3:
        return Badge(claim, None, f"{len(order)} doses from 0 to 1 are too few.")
    scales, dose = torch.tensor(v.scales, dtype=torch.float64)[order], v.dose.double()[order]
    rank = float(spearman(scales.numpy(), dose.numpy()))
    rises = 0.0 if rank != rank else rank  # all alike
    steps = bool((dose.diff() >= 0).all())
    numbers: Numbers = {
        "rank correlation": rises,
        "rises at every step": str(steps),
        "range, nats": float(dose.max() - dose.min()),
    }
    told = [
        f"From ×{float(scales[0]):g} to ×{float(scales[-1]):g} its log-probability goes from {float(dose[0]):.2f} to",
        f"{float(dose[-1]):.2f} nats, {'rising at every step' if steps else 'not upwards at every step'}",
        f"(rank correlation {rises:.2f}).",
    ]
    if not effect(v):
        return Badge(claim, False, " ".join([*told, NOTHING]), numbers)
    return Badge(claim, rises >= RISING, " ".join(told), numbers)


def specific(v: "Validation") -> Badge:
    """At most 5 % of unrelated texts (upper end of the 95 % interval) change half as much as the prompt does, by KL."""
    claim, other = "Specific", v.elsewhere
    if other is None:
        return Badge(claim, None, f"Other texts: {v.missing.get('elsewhere', 'they are still to come')}.")
    n, as_much = len(other.kl), int((other.kl >= v.without.kl / 2).sum())
    low, high = wilson(as_much, n)
    median, most = float(other.kl.median()), float(torch.quantile(other.kl.double(), 0.95))
    active = float((other.active > 0).double().mean())
    numbers: Numbers = {
        "KL here, nats": v.without.kl, "KL elsewhere, median": median, "KL elsewhere, 95 %": most,
        "texts that change half as much": as_much / n, "low": low, "high": high, "texts with one of the features": active,
    }  # fmt: skip
    told = [
        f"In {n} unrelated texts the next token changes by {median:.2g} nats (median; 95 %: {most:.2g}), here by",
        f"{v.without.kl:.2g}. {as_much} of {n} change half as much ({low:.1%} to {high:.1%} of all);",
        f"one of the features is active in {active:.0%}.",
    ]
    if not effect(v):
        return Badge(claim, False, " ".join([*told, NOTHING]), numbers)
    if as_much == 0 and high > LEVEL:
        return Badge(claim, None, " ".join([*told, "These are too few texts to tell."]), numbers)
    return Badge(claim, high <= LEVEL, " ".join(told), numbers)


def stable(v: "Validation") -> Badge:
    """In half or more (lower end of the interval) of other prompts their own next token loses half of its probability."""
    claim, n = "Stable", len(v.contexts)
    if not n:
        return Badge(claim, None, "No other prompts that fit its meaning were tried.")
    lost = torch.tensor([context.lost for context in v.contexts], dtype=torch.float64)
    as_much = int((lost >= HALF).sum())
    low, high = wilson(as_much, n)
    least, most = map(float, bootstrap(lost))
    numbers: Numbers = {
        "prompts": n, "prompts that lose half": as_much / n, "low": low, "high": high, "share lost, mean": float(lost.mean()),
        "share lost, low": least, "share lost, high": most,
    }  # fmt: skip
    told = [
        f"In {as_much} of {n} other prompts their own next token loses half of its probability or more",
        f"({low:.0%} to {high:.0%} of all such); on average it changes by {_signed(-float(lost.mean()))}",
        f"({_signed(-most)} to {_signed(-least)}).",
    ]
    if as_much == n and low < HALF:
        return Badge(claim, None, " ".join([*told, "These are too few prompts to tell."]), numbers)
    return Badge(claim, low >= HALF, " ".join(told), numbers)


ABOUT = {
    "active": "as many other active features",
    "index": "as many features by number",
    "directions": "random directions of that length",
}
"""The kinds of control, in words."""


def effect(v: "Validation") -> bool:
    """Whether the nodes lower the target beyond what controls do: what further claims are about."""
    control = _fair(v)
    return control is not None and _drop(v) > 0 and by_rank(_drop(v), _drops(v, control)) <= LEVEL


def _fair(v: "Validation") -> "Control | None":
    """What the effect is held against: features of like strength, where there are such; else directions of one length."""
    own = v.control("active")
    return own if own is not None and _compares(own) else v.control("directions")


def _compares(control: "Control") -> bool:
    """Whether what it takes out is half of what the graph does or more."""
    return not control.matched < MATCHED


def _drop(v: "Validation") -> float:
    return v.whole.log_prob - v.without.log_prob


def _drops(v: "Validation", control: "Control") -> Float[Tensor, " draw"]:
    return v.whole.log_prob - control.log_prob.double()


def _incomparable(v: "Validation") -> str:
    return f"There is nothing to compare it with: {v.missing.get('active', 'no controls were drawn')}."


def _signed(change: float) -> str:
    return "0%" if round(change, 2) == 0 else f"{change:+.0%}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
