"""The certificate: the numbers that say whether this model, on this device and in this dtype, is what its family file says.

Errors are |got - expected| / |expected| per position. The first position is judged apart: its norm can be a thousand times
the rest's. A passed certificate is kept by everything it depends on, so a second load pays nothing.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residscope.engine import effect_checks, longer_checks  # noqa: F401  (their checks join the identities in CHECKS)
from residscope.engine.checks import CHECKS, Bench, Pair
from residscope.engine.finite import require_finite_run, require_finite_weights
from residscope.engine.structure import Structure
from residscope.engine.turns import lock_of
from residscope.errors import CertificateFailed, NotFinite
from residscope.files import read_sealed, write_sealed
from residscope.versions import untried

if TYPE_CHECKING:
    from residscope.engine.model import Model

# relative, per position. Stock RMSNorms compute in fp32 whatever the model's dtype; bf16 keeps 8 bits, and every layer's
# rounding stands between the two sides of some checks
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_AT_ONCE = 2**16  # numbers compared at once: the logits are the largest tensors of a load, and float64 doubles them


@dataclass(frozen=True)
class Checked:
    """One check: its worst error over the positions after the first, and the first position's own.

    blamed: what of which layers is wrong where it failed ("heads", 3), as far as the check can tell.
    """

    name: str
    about: str
    error: float
    first: float
    tolerance: float
    failed: str | None = None
    blamed: tuple[tuple[str, int] | None, ...] = ()

    @property
    def passed(self) -> bool:
        return self.failed is None and max(self.error, self.first) <= self.tolerance


@dataclass(frozen=True)
class Certificate:
    """Every check's error. Printing it shows them all, and which libraries are newer than any that was run (`untried`)."""

    checks: tuple[Checked, ...]
    tolerance: float
    seconds: float
    cached: bool = False
    untried: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> float:
        return max(max(check.error, check.first) for check in self.checks)

    @property
    def worst_check(self) -> str:
        return max(self.checks, key=lambda check: max(check.error, check.first)).name

    def failures(self) -> str:
        """The failed checks in words; empty when all passed."""
        failed = [
            f"{c.name} ({c.failed or f'error {max(c.error, c.first):.1e}'}; {c.about})"
            for c in self.checks
            if not c.passed
        ]
        return "; ".join(failed)

    def __repr__(self) -> str:
        head = f"certificate {'passed' if self.passed else 'FAILED'}: worst {self.worst:.1e} of {self.tolerance:.0e}"
        head += ", from an earlier load" if self.cached else f", {self.seconds:.1f} s"
        rows = [
            f"  {'ok  ' if c.passed else 'FAIL'} {c.name:24}{c.error:8.1e}  first position {c.first:8.1e}  {c.about}"
            for c in self.checks
        ]
        return "\n".join([head, *(f"  untried: {words}" for words in self.untried), *rows])


def certify(model: "Model", *, progress: Callable[[str, int, int], None] | None = None) -> Certificate:
    """Check a model, or answer from a passed certificate kept for the same weights, code, device, dtype and versions."""
    structure = Structure(model.hf)
    known = bool(model.hash) and not structure.attached()  # what somebody's hook does has no hash
    path = _folder() / f"{_key(model, structure)}.json"
    if known and (cached := _read(path)) is not None:
        return cached
    certificate = measure(model, progress=progress)
    if certificate.passed and known:
        _write(path, certificate)
    return certificate


def recertify(model: "Model") -> Certificate:
    """Take a model as it is now, whatever was done to its weights, hooks or settings, and check it again.

    Its `hash` is then that of the weights as they are. Raises ModelError: it fails a check, or is of no kind that is served.
    """
    with lock_of(model.hf):
        model.follow()
        model.hash = model.fingerprint() if model.hash else ""
        model.certificate = require(model, certify(model))
    return model.certificate


def require(model: "Model", certificate: Certificate) -> Certificate:
    """The certificate, refused with CertificateFailed where it did not pass: in words of what the user can change."""
    if certificate.passed:
        return certificate
    attached = Structure(model.hf).attached()
    told = f"what was found of this {model.family.name} model by looking is not what it does"
    fix = (
        told
        if model.family.found
        else f"the family file residscope/model/families/{model.family.name}.py does not describe this model"
    )
    if model.quantised is not None:
        fix = (
            f"its weights are quantised by {model.quantised}: a method that rounds activations too gives other numbers for "
            "runs that are one in exact arithmetic, so no edit is exact; take one of weights alone, or the model in full"
        )
    if attached:
        more = f" and {len(attached) - 3} more" if len(attached) > 3 else ""
        fix = f"take off {', '.join(attached[:3])}{more}, or say the change as edits of a run"
    raise CertificateFailed(
        f"{model.name} does not pass its certificate: {certificate.failures()}",
        received=f"{certificate.worst:.1e} in {certificate.worst_check}",
        allowed=f"{certificate.tolerance:.0e} relative",
        fix=fix,
    )


def measure(model: "Model", *, progress: Callable[[str, int, int], None] | None = None) -> Certificate:
    """Run every check now. Raises NotFinite: weights, or what they make of a short prompt, are NaN or infinite."""
    began, tolerance = time.perf_counter(), TOLERANCE[model.dtype]
    checks: list[Checked] = []
    require_finite_weights(model.hf)
    try:
        bench = Bench(model)
        require_finite_run(bench.rec)
    except NotFinite:
        raise
    except Exception as error:  # a wrong family file may break anywhere; the first check is what it failed
        about, _ = CHECKS["no-op run"]
        checks = [Checked("no-op run", about, 0.0, 0.0, tolerance, failed=f"{type(error).__name__}: {error}")]
        return Certificate(tuple(checks), tolerance, time.perf_counter() - began, untried=untried())
    for done, (name, (about, pairs)) in enumerate(CHECKS.items()):
        if progress is not None:
            progress("certificate", done, len(CHECKS))
        rest, first, failed = 0.0, 0.0, None
        blamed: dict[tuple[str, int] | None, None] = {}
        bench.blamed = None
        try:
            for pair in pairs(bench):
                by_position = errors(pair)
                first = max(first, float(by_position[0]))
                rest = max(rest, *by_position[1:].tolist(), 0.0)
                if float(by_position.max()) > tolerance:
                    blamed[bench.blamed] = None
        except Exception as error:  # as above
            failed = f"{type(error).__name__}: {error}"
            blamed[bench.blamed] = None
        checks.append(Checked(name, about, rest, first, tolerance, failed, tuple(blamed)))
    return Certificate(tuple(checks), tolerance, time.perf_counter() - began, untried=untried())


def errors(pair: Pair) -> Tensor:
    """Relative error of each position, the worst row counting: `[batch pos ...]` twice to `[pos]`. NaN counts as infinite."""
    got, expected = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in pair)
    if got.shape[1] != expected.shape[1] or got.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(got.shape)} and {tuple(expected.shape)}")
    if got.ndim == 4 and got.shape[2] == got.shape[3] != expected.shape[1]:
        got, expected = got.transpose(1, 2), expected.transpose(1, 2)
    got, expected = got.flatten(2), expected.flatten(2)
    few = max(1, _AT_ONCE // max(1, expected.shape[0] * expected.shape[2]))
    shares = [_share(*part) for part in zip(torch.split(got, few, 1), torch.split(expected, few, 1), strict=True)]
    return torch.nan_to_num(torch.cat(shares, 1), nan=torch.inf).amax(0)


def _share(got: Tensor, expected: Tensor) -> Tensor:
    """|got - expected| / |expected|, `[batch pos]`; the sums are in float64."""
    difference = torch.linalg.vector_norm(got - expected, dim=-1, dtype=torch.float64)
    return difference / torch.linalg.vector_norm(expected, dim=-1, dtype=torch.float64).clamp_min(1e-12)


def _folder() -> Path:
    from residscope.model.catalog import cache_folder

    return cache_folder() / "certificates"


def _key(model: "Model", structure: Structure) -> str:
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else model.device.type
    placed = repr(getattr(model.hf, "hf_device_map", None))
    parts = [model.hash, structure.digest(), str(model.dtype), device, placed, repr(model.family), _sources()]
    parts += [f"{name} {version(name)}" for name in ("torch", "transformers")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@cache
def _sources() -> str:
    """A digest of the code that a certificate speaks for."""
    room = Path(__file__).parent
    model = room.parent / "model"
    files = sorted([*room.glob("*.py"), *model.glob("*.py"), model / "families" / "__init__.py"])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _read(path: Path) -> Certificate | None:
    try:
        saved = read_sealed(path)
        checks = tuple(Checked(**entry | {"blamed": ()}) for entry in saved["checks"])
        certificate = Certificate(checks, saved["tolerance"], saved["seconds"], cached=True, untried=untried())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return certificate if certificate.passed and {c.name for c in checks} == CHECKS.keys() else None


def _write(path: Path, certificate: Certificate) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, asdict(replace(certificate, cached=False)))
