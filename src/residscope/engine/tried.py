"""What looking finds of a configuration: a tiny random copy of it is built, looked at, and judged by its certificate."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from residscope.engine.certificate import Certificate, measure, require
from residscope.engine.look.family import look
from residscope.engine.look.judge import settled
from residscope.engine.model import Model
from residscope.errors import ResidscopeError
from residscope.model import tiny
from residscope.model.families import Family
from residscope.model.sites import KINDS


@dataclass(frozen=True)
class Tried:
    """One tiny copy. sites: those of every layer or some; absent: why, by site name (`q`) or site (`q.3`); whole: later positions
    run together with those before them. worst: the certificate's largest error. refused: why nothing is served, else None."""

    model_type: str
    variant: str
    seconds: float
    sizes: str = ""
    family: Family | None = None
    sites: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    worst: float = 0.0
    worst_check: str = ""
    refused: str | None = None

    @property
    def whole(self) -> bool:
        return self.family is not None and self.family.whole

    def reasons(self) -> dict[str, list[str]]:
        """What is absent, by its reason."""
        found: dict[str, list[str]] = {}
        for site, why in sorted(self.absent.items(), key=lambda item: _order(item[0])):
            found.setdefault(why, []).append(site)
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "model_type": self.model_type, "variant": self.variant, "seconds": round(self.seconds, 2),
            "served": self.refused is None, "refused": self.refused, "sites": list(self.sites), "absent": dict(self.absent),
            "whole": self.whole,
            "fed": self.family is not None and self.family.fed, "worst": self.worst, "worst_check": self.worst_check,
        }  # fmt: skip

    def __str__(self) -> str:
        head = f"{self.model_type}, {self.variant}: a tiny random copy, {self.seconds:.1f} s"
        if self.refused is not None:
            return f"{head}\nrefused  {self.refused}"
        lines = [f"{head} ({self.sizes})", f"certificate passed: worst {self.worst:.1e} in {self.worst_check}"]
        lines += [f"served   {' '.join(self.sites)}"]
        lines += [f"absent   {', '.join(sites)}: {why}" for why, sites in self.reasons().items()]
        if self.whole:
            lines.append(
                "windows  later positions run together with those before them: a window of positions costs whole runs"
            )
        return "\n".join(lines)


def tried(
    config: Any, variant: str = "default", *, seed: int = 0, dtype: torch.dtype = torch.float32, trust: bool = False
) -> Tried:
    """What looking finds of this configuration, already of tiny sizes (`model.tiny.shrink`). Never raises an error of ours."""
    began = time.perf_counter()
    kind = str(getattr(config, "model_type", "") or type(config).__name__)
    try:
        model, certificate = found(tiny.build(config, seed=seed, dtype=dtype, trust_remote_code=trust), kind)
    except ResidscopeError as error:
        return Tried(kind, variant, time.perf_counter() - began, refused=str(error))
    return tried_of(model, certificate, variant, time.perf_counter() - began)


def tried_of(model: Model, certificate: Certificate, variant: str, seconds: float) -> Tried:
    """What a model that was found shows."""
    s, table = model.layout.sizes, model.sites
    sizes = f"{s.n_layers} layers, {s.n_heads} heads ({s.n_kv_heads} KV), d_model {s.d_model}"
    return Tried(
        model.name, variant, seconds, sizes, model.family, tuple(table.names), dict(table.absent),
        certificate.worst, certificate.worst_check,
    )  # fmt: skip


def found(hf: Any, name: str) -> tuple[Model, Certificate]:
    """A model described by looking alone, whether or not its type has a file, and its certificate. Nothing is kept.

    Raises:
        UnknownFamily, CertificateFailed: it is not served.
    """
    model = Model(hf, name=name, family=look(hf))
    model.certificate = require(model, settled(model, measure(model), measure))
    return model, model.certificate


def _order(site: str) -> tuple[int, int]:
    name, _, layer = site.partition(".")
    return [*KINDS].index(name), int(layer or -1)
