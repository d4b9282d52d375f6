"""A probe: a linear classifier of the stream, with what is known of how well it reads and of the cloud it was fitted on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope.directions import Direction
from residscope.errors import DamagedFile, GridEdge, SiteError, UnseenLabel, WrongWidth
from residscope.files import read_tensors, write_tensors
from residscope.items import nbytes_of, save_item
from residscope.json_values import FORMS, form
from residscope.model.sites import Site
from residscope.progress import warn
from residscope.same_values import same
from residscope.views import Card, Grid, Table

KIND = "probe"
LISTS = ("classes", "interval", "counts")
EDGE = "C at an end of the grid"


@dataclass(frozen=True, eq=False, repr=False)
class Probe:
    """Multinomial logistic regression at a site and a named position, in raw space.

        P(class k | x) = softmax_k(weights_k . x + bias_k)

    C: the inverse strength of its L2 penalty on standardised inputs, cross-validated; on separable data the length of the
    weights is C's doing. accuracy: on held-out prompts, with Wilson's 95 % interval. control: held-out accuracy of probes
    fitted the same way, each with a C of its own, to shuffled labels. All else is estimated from the same training prompts,
    those whose token is neither first nor an attention sink: counts, mean, class_means, covariance (total) and within (classes),
    both shrunk as Ledoit and Wolf (2004) do; log_odds[k, l, q]: the q-th percentile of log P(k)/P(l) over prompts of class k.
    `provenance` says how many were left out, which C were tried, and whether C stands at an end of them. `fit_probe` makes it.
    """

    kind: ClassVar[str] = KIND
    classes: tuple[str, ...]
    weights: Float[Tensor, "classes d"]
    bias: Float[Tensor, "classes"]
    site: str
    position: str
    label: str
    head: int | None
    C: float
    accuracy: float
    interval: tuple[float, float]
    control: float
    counts: tuple[int, ...]
    held_out: int
    mean: Float[Tensor, "d"]
    class_means: Float[Tensor, "classes d"]
    covariance: Float[Tensor, "d d"]
    within: Float[Tensor, "d d"]
    log_odds: Float[Tensor, "classes classes percentiles"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selectivity(self) -> float:
        """Accuracy above that of the shuffled-label control (Hewitt and Liang, 2019)."""
        return self.accuracy - self.control

    def log_prob(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch classes"]:
        """log P(class | x), in nats, in float64. Raises WrongWidth."""
        if x.shape[-1] != self.weights.shape[1]:
            raise WrongWidth(
                f"the probe reads {self.site}", received=f"{x.shape[-1]}", allowed=f"{self.weights.shape[1]}"
            )
        weights, bias = self.weights.to(x.device), self.bias.to(x.device)
        return (x.double() @ weights.T + bias).log_softmax(-1)

    def predict(self, x: Float[Tensor, "batch d"]) -> tuple[str, ...]:
        """The likeliest class of each vector."""
        return tuple(self.classes[k] for k in self.log_prob(x).argmax(-1).tolist())

    def indices(self, labels: Sequence[object]) -> Int[Tensor, "batch"]:
        """Labels as indices of `classes`. Raises UnseenLabel."""
        unknown = [label for label in labels if str(label) not in self.classes]
        if unknown:
            raise UnseenLabel(
                f"the probe of {self.label} does not know this class",
                received=repr(unknown[0]),
                allowed=", ".join(self.classes),
            )
        return torch.tensor([self.classes.index(str(label)) for label in labels])

    def direction(self, a: str, b: str) -> Direction:
        """The normal between two classes: its coordinate is log P(a)/P(b) in nats; along `write`, covariance times the normal, a
        point changes its log-odds at the least Mahalanobis cost. Raises UnseenLabel."""
        i, j = self.indices([a, b]).tolist()
        normal = self.weights[i] - self.weights[j]
        spread = float(normal @ self.covariance @ normal) ** 0.5
        return Direction(
            read=normal,
            write=self.covariance @ normal,
            site=self.site,
            offset=-float(self.bias[i] - self.bias[j]),
            scale=spread or None,
            name=f"{self.label}: {a} - {b}",
            space="centred",
            provenance={"probe": self.label, "position": self.position, "C": self.C, **self.provenance},
        )

    @property
    def nbytes(self) -> int:
        """Memory held by its tensors, in bytes."""
        return nbytes_of(self)

    def view(self) -> Grid:
        """How well it reads, beside its control; and of each class its training prompts and how far its own lie on its side."""
        low, high = self.interval
        place = self.site if self.head is None else f"{self.site} head {self.head}"
        card = Card(
            f"{self.label} at {place}, {self.position}",
            {
                "held-out accuracy": f"{self.accuracy:.1%}", "95 % interval": f"{low:.1%} to {high:.1%}",
                "shuffled labels": f"{self.control:.1%}", "selectivity": f"{self.selectivity:.1%}",
                "held-out prompts": self.held_out, "C": self.C,
            },
        )  # fmt: skip
        middle = self.log_odds.shape[-1] // 2
        rows: list[list[Any]] = []
        for k, name in enumerate(self.classes):
            odds = [float(self.log_odds[k, j, middle]) for j in range(len(self.classes)) if j != k]
            nearest = min(odds, default=None)
            rows.append([name, self.counts[k], float(self.weights[k].norm()), float(self.bias[k]), nearest])
        columns = ["class", "training prompts", "|weights|", "bias", "log-odds of its own, median (nats)"]
        return Grid(
            [card, Table(columns, rows, title="Classes", note="log-odds: against the nearest other class")], columns=2
        )

    def save(self, path: str | Path) -> None:
        """One safetensors file that `Probe.load` reads; a page for `x.html`, a figure for `x.png`, `.svg`, `.pdf`.

        Raises WrongEnding, FileNotThere, NotPlain (its provenance).
        """
        save_item(self, path, self._write)

    def _write(self, path: Path) -> None:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: value for name, value in parts.items() if isinstance(value, Tensor)}
        about = {name: value for name, value in parts.items() if name not in tensors}
        lists = {name: [*about[name]] for name in LISTS}
        write_tensors(path, KIND, tensors, about | lists | {"provenance": dict(self.provenance)})

    @classmethod
    def load(cls, path: str | Path) -> "Probe":
        """What `save` wrote. Raises FileNotThere, DamagedFile."""
        tensors, about = read_tensors(path, KIND)
        try:
            _check(tensors, about)
            return cls(**(tensors | about | {name: tuple(about[name]) for name in LISTS}))
        except (TypeError, ValueError, LookupError, AttributeError, SiteError) as error:
            raise DamagedFile(f"{Path(path).name} holds no probe", received=str(error)) from error

    def __eq__(self, other: object) -> bool:
        return same(self, other) if isinstance(other, Probe) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.site, self.position, self.label, self.classes))

    def _repr_html_(self) -> str:
        return self.view()._repr_html_()

    def __repr__(self) -> str:
        where = self.site if self.head is None else f"{self.site} head {self.head}"
        read = f"{self.accuracy:.1%} ({self.interval[0]:.1%} to {self.interval[1]:.1%}) of {self.held_out}"
        return f"Probe({self.label} at {where}, {self.position}: {read}, shuffled {self.control:.1%}, C {self.C:g})"


def _check(tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    """Refuse, by its name, what a file says of a probe and no probe has."""
    classes, d = about["classes"], tensors["weights"].shape[-1]
    c = len(classes)
    shapes = {
        "weights": (c, d), "bias": (c,), "mean": (d,), "class_means": (c, d), "covariance": (d, d), "within": (d, d),
        "log_odds": (c, c, tensors["log_odds"].shape[-1]),
    }  # fmt: skip
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape or not tensors[name].is_floating_point():
            raise ValueError(f"{name} is {tensors[name].dtype} {tuple(tensors[name].shape)}, not {shape}")
    Site.parse(about["site"])
    number, whole, text = (int, float), (int,), (str,)
    checked: dict[str, list[tuple[Any, tuple[type, ...]]]] = {
        "classes": [(x, text) for x in classes], "interval": [(x, number) for x in about["interval"]],
        "counts": [(x, whole) for x in about["counts"]], "held_out": [(about["held_out"], whole)],
        "head": [(about["head"], (int, type(None)))], "provenance": [(about["provenance"], (dict,))],
    }  # fmt: skip
    checked |= {name: [(about[name], text)] for name in ("site", "position", "label")}
    checked |= {name: [(about[name], number)] for name in ("C", "accuracy", "control")}
    for name, parts in checked.items():
        if not all(isinstance(x, kind) and not isinstance(x, bool) for x, kind in parts):
            raise TypeError(f"{name} is {about[name]!r}"[:200])
    if not isinstance(classes, list) or len(about["interval"]) != 2 or len(about["counts"]) != c:
        raise ValueError(f"{c} classes, {len(about['counts'])} counts, an interval of {len(about['interval'])} ends")


def _check_read(probe: Probe) -> None:
    parts = {f.name: getattr(probe, f.name) for f in fields(probe)}
    tensors = {name: x for name, x in parts.items() if isinstance(x, Tensor)}
    _check(tensors, parts | {name: [*parts[name]] for name in LISTS})


FORMS["$probe"] = form(Probe, _check_read)


def warn_of_edges(probes: Iterable[Probe]) -> None:
    """One `GridEdge` warning for all probes whose C ends at an end of the widened grid."""
    for edge, beyond in (("upper", "larger"), ("lower", "smaller")):
        at = [probe for probe in probes if probe.provenance.get(EDGE) == edge]
        if at:
            where = "; ".join(f"{probe.site}, {probe.position}" for probe in at[:4])
            where += f" and {len(at) - 4} more" if len(at) > 4 else ""
            meaning = {
                "upper": "where classes separate, the length of the weights, and with it every log-odds and what a fixed alpha "
                "asks for, is the grid's doing. To fix: rs.lrqp(probe, quantile=0.5) hardly depends on it",
                "lower": "the label is hardly read at all",
            }[edge]
            warn(
                f"the probe of {at[0].label} at {where}: cross-validation would have C {beyond} than {at[0].C:g}, where the grid "
                f"ends: {meaning}.",
                GridEdge,
                stacklevel=3,
            )
