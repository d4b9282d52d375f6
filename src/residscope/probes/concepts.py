"""The other ways to set what a probe reads, as edits with LRQP's interface: mean difference, LEACE, projection, constant dose.

All are affine, x -> x - W^T R (x - mean) + shift, and differ in what they erase (R, W) and what they add.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare import edit
from residscope.errors import BadEdit, OneClass, SingularCovariance
from residscope.probes.concept_edit import NEUTRAL, OTHER, ConceptEdit, To, check_site, of
from residscope.probes.probe import Probe


@dataclass(frozen=True, eq=False, repr=False)
class SetConcept(ConceptEdit):
    """x - W^T R (x - mean) + shift[target], less shift[true class] where it is `relative`; "neutral" adds nothing.

    Where the true class is not known, the probe's own reading (`weights`, `bias`) stands for it.
    """

    method: str = ""
    read: Float[Tensor, "m d"] = field(default_factory=lambda: torch.empty(0, 0))
    write: Float[Tensor, "m d"] = field(default_factory=lambda: torch.empty(0, 0))
    mean: Float[Tensor, "d"] = field(default_factory=lambda: torch.empty(0))
    shift: Float[Tensor, "classes d"] = field(default_factory=lambda: torch.empty(0, 0))
    weights: Float[Tensor, "classes d"] = field(default_factory=lambda: torch.empty(0, 0))
    bias: Float[Tensor, "classes"] = field(default_factory=lambda: torch.empty(0))
    relative: bool = False
    kind: ClassVar[str] = "set_concept"

    def __post_init__(self) -> None:
        super().__post_init__()
        erased, classes = ("m", "d"), ("classes", "d")
        self._check_parts(read=erased, write=erased, mean=("d",), shift=classes, weights=classes, bias=("classes",))

    def moved(self, x: Tensor, target: Tensor, true: Tensor | None) -> Tensor:
        self._check_width(x, len(self.mean))
        x = x.double()
        read, write, mean, shift = (part.to(x) for part in (self.read, self.write, self.mean, self.shift))
        scores = x @ self.weights.to(x).T + self.bias.to(x)
        known = scores.argmax(1) if true is None else true
        others = scores.scatter(1, known[:, None], -torch.inf).argmax(1)
        wanted = torch.where(target == OTHER, others, target)
        added = torch.where((wanted == NEUTRAL)[:, None], 0, shift[wanted.clamp_min(0)])
        if self.relative:
            added = added - shift[known]
        return x - ((x - mean) @ read.T) @ write + added

    @property
    def method_name(self) -> str:
        return self.method


@edit(title="Set what a probe reads, by other ways", glyph="⇥", says="to {to}")
def set_concept(
    probe: Annotated[Probe, fields.probe()],
    to: Annotated[To, fields.name(of="class")] = "other",
    *,
    method: Annotated[
        str, fields.choice("mean_difference", "project_out", "constant_dose", "leace")
    ] = "mean_difference",
    dose: Annotated[float | None, fields.number(over=0, strength=True, when=("method", ("constant_dose",)))] = None,
    site: Annotated[str | None, fields.site()] = None,
    pos: Annotated[int | Sequence[int] | None, fields.positions(named=True, live=True, title="positions")] = None,
) -> SetConcept:
    """The edit of this method: `mean_difference`, `leace`, `project_out` or `constant_dose`, which alone takes a dose.

    site: the probe's own; another is refused.
    """
    methods = {"mean_difference": mean_difference, "project_out": project_out, "leace": leace}
    check_site(probe, site)
    if method == "constant_dose":
        return constant_dose(probe, to, dose=dose, pos=pos)
    if method not in methods:
        raise BadEdit("no such method", received=repr(method), allowed=", ".join([*methods, "constant_dose"]))
    if dose is not None:
        raise BadEdit(f"{method} has no dose", received=f"dose={dose}", allowed="with constant_dose")
    return methods[method](probe, to, pos=pos)


def mean_difference(probe: Probe, to: To = "other", *, pos: int | Sequence[int] | None = None) -> SetConcept:
    """x + mean of the wanted class - mean of the prompt's own class; "neutral" takes its own class's part off."""
    none = probe.mean.new_empty(0, len(probe.mean))
    return _concept(probe, to, pos, "mean_difference", none, none, probe.class_means - probe.mean, relative=True)


def leace(probe: Probe, to: To = "neutral", *, pos: int | Sequence[int] | None = None) -> SetConcept:
    """LEACE: the least change after which no linear probe reads the label at all (Belrose et al., 2023, arXiv:2306.03819).

        x - W^+ P W (x - mean),   W = (Sigma^(1/2))^+,   P the projection onto the columns of W Sigma_xz

    with Sigma the shrunk total covariance and Sigma_xz from the class means. A class for `to` gives back that class's mean within
    what was erased.
    """
    centred = probe.class_means - probe.mean
    shares = torch.tensor(probe.counts, dtype=torch.float64)
    read, write = leace_eraser(probe.covariance, centred * (shares / shares.sum())[:, None])
    return _concept(probe, to, pos, "leace", read, write, (centred @ read.T) @ write)


def project_out(probe: Probe, to: To = "neutral", *, pos: int | Sequence[int] | None = None) -> SetConcept:
    """Orthogonal projection off the probe's normals; a class for `to` sets these coordinates to that class's mean."""
    normals = probe.weights - probe.weights.mean(0)
    _, sizes, basis = torch.linalg.svd(normals, full_matrices=False)
    basis = basis[sizes > 1e-10 * sizes[0]] if sizes[0] > 0 else basis[:0]
    if not len(basis):
        raise OneClass("the probe reads nothing: its normals are zero", received=repr(probe))
    return _concept(probe, to, pos, "project_out", basis, basis, ((probe.class_means - probe.mean) @ basis.T) @ basis)


def constant_dose(
    probe: Probe, to: To = "other", *, dose: float | None = None, pos: int | Sequence[int] | None = None
) -> SetConcept:
    """The same step for every prompt, along the unit normal of the wanted class against the rest: steering.

    dose: the step's length in the stream's own units; unless said, the distance between the class's mean and the others'
    along it. Unlike LRQP it moves prompts that already read as wanted just as far.
    """
    n = len(probe.classes)
    normals = probe.weights - (probe.weights.sum(0) - probe.weights) / (n - 1)
    sizes = normals.norm(dim=1, keepdim=True)
    if not (sizes > 0).all():
        raise OneClass("the probe reads nothing: its normals are zero", received=repr(probe))
    units = normals / sizes
    if dose is None:
        others = (probe.class_means.sum(0) - probe.class_means) / (n - 1)
        steps = ((probe.class_means - others) * units).sum(1)
    elif isinstance(dose, bool) or not 0 < dose < float("inf"):
        raise BadEdit("the dose is a length", received=f"dose={dose!r}", allowed="a number over 0")
    else:
        steps = torch.full((n,), float(dose), dtype=torch.float64)
    none = probe.mean.new_empty(0, len(probe.mean))
    return _concept(probe, to, pos, "constant_dose", none, none, units * steps[:, None])


def leace_eraser(
    covariance: Float[Tensor, "d d"], cross: Float[Tensor, "classes d"]
) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
    """R and W of LEACE's erasure x - W^T R (x - mean), from Sigma_xx and Sigma_zx; m is the rank of the concept."""
    values, vectors = torch.linalg.eigh(covariance.double())
    varied = values > values.max().clamp_min(0) * 1e-12
    if not varied.any():
        raise SingularCovariance("the activations do not vary", received="a covariance of zero", allowed="any other")
    root = values[varied].sqrt()
    whitened = (cross.double() @ vectors[:, varied]) / root
    _, sizes, basis = torch.linalg.svd(whitened, full_matrices=False)
    basis = basis[sizes > 1e-10 * sizes.max().clamp_min(1e-300)]
    read, write = (basis / root) @ vectors[:, varied].T, (basis * root) @ vectors[:, varied].T
    left = float((cross.double() - (cross.double() @ read.T) @ write).norm())
    if left > 1e-6 * float(cross.double().norm()):
        raise SingularCovariance(
            "the classes differ where the activations do not vary, so no erasure within their span takes the label out",
            received=f"{left / float(cross.double().norm()):.2g} of the cross-covariance is left",
            allowed="up to 1e-6",
            fix="shrink the covariance, or make it of the activations that the means are of",
        )
    return read, write


def _concept(
    probe: Probe,
    to: To,
    pos: int | Sequence[int] | None,
    method: str,
    read: Tensor,
    write: Tensor,
    shift: Tensor,
    relative: bool = False,
) -> SetConcept:
    return SetConcept(
        **of(probe, to, pos), method=method, read=read, write=write, mean=probe.mean, shift=shift,
        weights=probe.weights, bias=probe.bias, relative=relative,
    )  # fmt: skip
