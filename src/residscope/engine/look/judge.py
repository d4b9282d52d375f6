"""The judge of what was found: the certificate, check by check. What fails is absent with its reason, or the model refused."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from residscope.engine.certificate import Certificate, certify, require
from residscope.engine.look.family import HEAD_SITES, MIXER_SITES, NEURON_SITES, look
from residscope.engine.look.kept import keep, of_another, recall
from residscope.engine.structure import Structure
from residscope.model.families import Family

if TYPE_CHECKING:
    from residscope.engine.model import Model

Judge = Callable[..., Certificate]
LATER = "later positions"
# what goes with what a check blames; the stream itself and what the branches add cannot go
_WITH = {
    "heads": (*HEAD_SITES, "q_scale", "k_scale"),
    "z": ("z", "result"),
    "attn_in": ("attn_in", "attn_scale", *HEAD_SITES, "q_scale", "k_scale"),
    "mlp_in": ("mlp_in", "mlp_scale", *NEURON_SITES, "router"),
    "neurons": NEURON_SITES,
    "router": ("router",),
    **{
        name: (name,) for name in ("attn_scale", "mlp_scale", "attn_post_scale", "mlp_post_scale", "q_scale", "k_scale")
    },
}
assert set(_WITH["heads"]) < set(MIXER_SITES)


def judged(
    model: "Model", *, progress: Callable[[str, int, int], None] | None = None, by: Judge | None = None
) -> Certificate:
    """The certificate of a model; of one whose family was found, after what fails has been taken from what is served.

    by: what measures the certificate, `certify` unless said. A description that was found on another model and fails is looked
    for once more; not where somebody's hooks or forwards are on the model, which are what fails then.

    Raises CertificateFailed: a family from a file, or one of which what fails cannot be left out.
    """
    certificate = _certificate(model, progress, by)
    if not model.family.found:
        return require(model, certificate)
    looked, kept = model.family, recall(model.hf, model.hash)
    doubtful = not certificate.passed and (looked == kept or of_another(model.hf))
    if doubtful and not Structure(model.hf).attached() and (again := look(model.hf)) != looked:
        model.described_as(looked := again)
        certificate = _certificate(model, progress, by)
    certificate = settled(model, certificate, lambda model: _certificate(model, progress, by))
    require(model, certificate)
    if looked != kept:
        keep(model.hf, looked)
    if model.family != looked and model.hash and by is None:  # followed, its hash is that of the weights it had
        keep(model.hf, model.family, model.hash)
    return certificate


def settled(model: "Model", certificate: Certificate, measured: Callable[["Model"], Certificate]) -> Certificate:
    """The certificate after what fails has been taken from what the model's description serves; it may still fail."""
    for _ in range(5):
        fewer = None if certificate.passed else without(model.family, certificate, Structure(model.hf).attached())
        if fewer is None:
            break
        model.described_as(fewer)
        certificate = measured(model)
    return certificate


def _certificate(model: "Model", progress: Callable[[str, int, int], None] | None, by: Judge | None) -> Certificate:
    return (by or certify)(model, progress=progress)


def without(family: Family, certificate: Certificate, attached: Sequence[str] = ()) -> Family | None:
    """The family without what the failed checks blame; None where one blames what cannot be left out. attached: what somebody
    put on the model, in words."""
    failed = [check for check in certificate.checks if not check.passed]
    if not family.whole and any(check.name == LATER for check in failed):
        return replace(family, whole=True)  # others may fail for the cache alone
    absent = dict(family.absent)
    for check in failed:
        for blamed in check.blamed or (None,):
            if blamed is None or blamed[0] not in _WITH:
                return None
            what, layer = blamed
            found = check.failed or f"error {max(check.error, check.first):.0e}"
            why = f"what was found of its {what} fails a check: {check.name} ({found})"
            why += f"; {attached[0]} may be why" if attached else ""
            absent |= {f"{name}.{layer}": why for name in _WITH[what] if name not in absent}
    return None if absent == family.absent else replace(family, absent=absent)
