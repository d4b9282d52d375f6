"""What is to be trained: the kind of a dictionary, its places, its size and how many features are to be active."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from residscope.errors import BadTraining

KINDS = ("batchtopk", "topk", "jumprelu", "gated", "relu", "matryoshka")
CONTROLLED = ("gated", "relu")  # an L1 penalty that is turned until k are active
LONG = 30_000  # steps from which on the rate is that of the literature
PREFIXES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # Matryoshka's, as shares of all features


@dataclass(frozen=True)
class Plan:
    """One dictionary to be trained.

    kind: of `KINDS`. site, written: where it reads and where what it is to give stands (the same for an SAE). features: F.
    k: how many are to be active at a token on average (exactly k at each for topk). prefixes: how many features each Matryoshka
    prefix has, the last of them all. skip: a transcoder's linear map from what it reads. lr: Adam's; `usual_rate` unless said.

    Raises BadTraining: no such kind, or numbers that do not fit each other.
    """

    kind: str
    site: str
    written: str
    features: int
    k: int
    prefixes: tuple[int, ...] = ()
    skip: bool = False
    lr: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadTraining("no such kind of dictionary", received=repr(self.kind), allowed=", ".join(KINDS))
        if not 1 <= self.k < self.features:
            raise BadTraining(
                "so many features cannot be active",
                received=f"k={self.k} of {self.features}",
                allowed="1 to features - 1",
            )
        if self.skip and self.site == self.written:
            raise BadTraining(
                "a skip would pass an autoencoder's input to its output", received=f"skip=True at {self.site}",
                allowed="a transcoder, read at one site and written at another",
            )  # fmt: skip
        if self.kind == "matryoshka" and not self.prefixes:
            sizes = sorted({max(1, round(share * self.features)) for share in PREFIXES})
            object.__setattr__(self, "prefixes", tuple(sizes))
        ends = self.prefixes
        if ends and (
            self.kind != "matryoshka" or ends[-1] != self.features or sorted({*ends}) != [*ends] or ends[0] < 1
        ):
            raise BadTraining(
                "these are no prefixes of the features", received=f"{self.kind}, {ends} of {self.features}",
                allowed="for matryoshka alone: numbers that grow, the last of them all features",
            )  # fmt: skip

    @property
    def transcoder(self) -> bool:
        return self.site != self.written

    @property
    def named(self) -> str:
        """What tells it from the others of a training: `batchtopk 2304 resid_post.8`."""
        return f"{self.kind} {self.features} {self.site}" + (f" to {self.written}" if self.transcoder else "")

    def facts(self) -> dict[str, Any]:
        """For a provenance and a checkpoint."""
        return {
            "kind": self.kind, "site": self.site, "written": self.written, "features": self.features, "k": self.k,
            "prefixes": [*self.prefixes], "skip": self.skip, "lr": self.lr, "seed": self.seed,
        }  # fmt: skip

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Plan":
        return cls(**{**facts, "prefixes": tuple(facts["prefixes"])})


def usual_rate(features: int, steps: int) -> float:
    """Adam's rate at its highest: 2e-4 / sqrt(F / 2^14), Gao et al. (2024), and up to four times that where steps are few.

        2e-4 / sqrt(F / 2^14) * min(4, max(1, sqrt(30,000 / steps)))

    >>> usual_rate(2**14, 100_000), usual_rate(2**14, 500)
    (0.0002, 0.0008)
    """
    return 2e-4 / (features / 2**14) ** 0.5 * min(4.0, max(1.0, (LONG / steps) ** 0.5))
