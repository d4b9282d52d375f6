"""Two claims about a direction that are often taken for one: that it correlates with the text, and that the model uses it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from residscope.reports import Report
from residscope.views import Card

if TYPE_CHECKING:
    from residscope.methods.evidence.dose_response import DoseResponse
    from residscope.methods.evidence.null_directions import NullDirections
    from residscope.methods.evidence.removal_cost import RemovalCost
    from residscope.methods.evidence.stability import Stability

LEVEL = 0.05
STABLE = 0.8
MATCHED = 0.5  # of its variance: what random directions must carry for their removal to compare
RISING = 0.9  # rank correlation of dose and effect


@dataclass(frozen=True, eq=False)
class Badge(Report):
    """A claim, whether it was shown, the sentence that says why or why not, and the numbers. shown: None until known.

    preliminary: what it is of, where more of it is to come and may change it; empty where it stands.
    """

    kind: ClassVar[str] = "report:badge"
    claim: str
    shown: bool | None
    sentence: str
    numbers: Mapping[str, float | str | None] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    preliminary: str = ""

    @property
    def said(self) -> str:
        if self.shown is None:
            return "not known yet"
        return f"{'' if self.shown else 'not '}shown{' so far' if self.preliminary else ''}"

    def view(self) -> Card:
        title, fields = f"{self.claim}: {self.said}", dict(self.numbers)
        if self.shown is None:
            return Card(title, fields, note=self.sentence)
        return Card(title, fields, verdict="passed" if self.shown else "failed", note=self.sentence)


def preliminary(badge: Badge, of: str) -> Badge:
    """The badge of a part of what is to come, which says so: in its verdict, and in front of its sentence."""
    return replace(badge, sentence=f"Preliminary, from {of}. {badge.sentence}", preliminary=of)


def after(badge: Badge, first: bool | None) -> Badge:
    """The badge of the whole, which says where a first look gave another verdict."""
    if None in (badge.shown, first) or badge.shown == first:
        return badge
    return replace(
        badge, sentence=f"{badge.sentence} The first look, at less of it, said {'shown' if first else 'not shown'}."
    )


def correlates(null: "NullDirections | None", stability: "Stability | None", *, fitted: bool) -> Badge:
    """Token or position explains more of its coordinate than of 95 % of random directions', and, of a fit, it is stable.

    Against both kinds of random directions; the level is shared between the two questions (Bonferroni): p <= 0.025 for one.
    """
    claim = "Correlates with the text"
    if null is None:
        return Badge(claim, None, "No text has been read yet.")
    eta = {m: float(null.observed.select(measure=m).values) for m in ("token identity", "position")}
    p = {m: null.beaten(m) for m in eta}
    best = min(eta, key=lambda m: p[m])
    beyond = 2 * p[best] <= LEVEL
    numbers: dict[str, float | str | None] = {
        "token η²": eta["token identity"], "p, token": p["token identity"],
        "position η²": eta["position"], "p, position": p["position"],
    }  # fmt: skip
    usual, always = (float(null.null.select(measure=m).values.median()) for m in (best, "token identity"))
    what = {"token identity": "Which token it is", "position": "The position in the text"}[best]
    if beyond:
        sentence = f"{what} explains {eta[best]:.0%} of its coordinate; of most random directions', {usual:.0%}."
    elif always > 0.95:
        sentence = f"Here which token it is explains nearly all of any direction's coordinate ({always:.0%}), of this one's too; "
        sentence += f"position explains {eta['position']:.0%} (p {p['position']:.2f})."
    else:
        sentence = (
            f"Neither token ({eta['token identity']:.0%}) nor position ({eta['position']:.0%}) explains more of its coordinate "
            f"than of random directions' (p {p['token identity']:.2f} and {p['position']:.2f})."
        )
    if not fitted:
        return Badge(claim, beyond, sentence, numbers)
    if stability is None:
        return Badge(
            claim,
            None if beyond else False,
            f"{sentence} Whether another half of the text gives it is not known.",
            numbers,
        )
    numbers["|cos| in halves"] = stability.typical
    stable = stability.typical >= STABLE
    again = "find it again" if stable else "do not find it again"
    sentence += (
        f" Fits on halves of the text {again} (|cos| {stability.typical:.2f}{'' if stable else f', {STABLE} needed'})."
    )
    return Badge(claim, beyond and stable, sentence, numbers)


def used(dose: "DoseResponse | None", removal: "RemovalCost | None", *, why: Mapping[str, str] | None = None) -> Badge:
    """Removing it changes predictions more than 95 % of random directions do, or steering moves its own tokens more, rising.

    The level is shared between the two questions (Bonferroni): p <= 0.025 for one. Removal counts where the random directions
    carry at least half of its variance. `why`: what could not be done.
    """
    claim = "Is used by the model"
    why = why or {}
    numbers: dict[str, float | str | None] = {}
    sentences, shown = [], False
    if removal is not None:
        kl, others = float(removal.cost.select(measure="KL").values), removal.random.select(measure="KL").values
        as_much = int((others >= kl).sum())
        numbers |= {
            "KL without it": kl,
            "loss without it": float(removal.cost.select(measure="loss").values),
            "p, removal": removal.p["KL"],
        }
        numbers["variance of random ones"] = removal.matched
        shown |= 2 * removal.p["KL"] <= LEVEL and removal.matched >= MATCHED
        sentences.append(f"Without it predictions change by {kl:.2g} nats a token;")
        if removal.matched >= MATCHED:
            sentences.append(f"{_count(as_much, len(others))} of equal variance matter as much.")
        else:
            sentences.append(
                f"no test, since nothing else varies as much (random directions: {removal.matched:.0%} of its variance)."
            )
    if dose is not None and dose.slope is not None and dose.p is not None and dose.rises is not None:
        assert dose.random_own is not None
        n = dose.random_own.sizes["draw"]
        as_much = round(dose.p * (n + 1)) - 1
        numbers |= {"own tokens, logits per sd": dose.slope, "p, steering": dose.p, "rises with dose": dose.rises}
        shown |= 2 * dose.p <= LEVEL and dose.rises >= RISING
        rising = "rising with the dose" if dose.rises >= RISING else "not rising steadily with the dose"
        sentences.append(
            f"Steering moves its own tokens by {dose.slope:.2g} logits per standard deviation, {rising}; "
            f"{_count(as_much, n)} move theirs as much."
        )
    sentences += [
        f"{word} could not be tried: {why[stage]}"
        for stage, word in (("removal", "Removal"), ("dose", "Steering"))
        if stage in why
    ]
    waiting = any(x is None and stage not in why for stage, x in (("removal", removal), ("dose", dose)))
    if not numbers:
        return Badge(claim, None, " ".join(sentences) or "The model has not been edited along it yet.")
    return Badge(claim, None if waiting and not shown else shown, " ".join(sentences), numbers)


def _count(n: int, of: int) -> str:
    return f"none of {of} random directions" if n == 0 else f"{n} of {of} random directions"
