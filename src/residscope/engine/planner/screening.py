"""Screening: a sweep estimated cheaply, then made exact where it matters, and audited where it does not."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.engine.model import Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner.audit import CONFIDENCE, draw, how_many, most_over, strata
from residscope.engine.planner.evidence import WAYS, Ask, CellEvidence
from residscope.engine.planner.sweep import Sweep
from residscope.errors import BadSweep, Cancelled
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress
from residscope.results import Result

_STEP = 0.8  # how far below the threshold evidence must prove to be right, and again if it does not
_FEWEST = 8  # by as many cells as this at least


def screened(
    plan: Sweep,
    gap: float | Tensor,
    *,
    by: str = "bfloat16",
    chains: Sequence[Sequence[int]] = (),
    donor: Prompt | None = None,
    over: float = 0.05,
    audit: float = 0.05,
    miss: float = 0.05,
    seed: int = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """A sweep whose cells over a share of the gap are exact, the rest estimated; with a bound on how many of those are over it.

    gap: the difference (clean - corrupted) that effects are shares of, one number or one a prompt. by: how cells are estimated,

        "bfloat16"    a run of each on a copy of the model in bfloat16, and its first-order estimate
        "neighbours"  every fourth cell of each chain exactly, first-order estimates of the others
        "gradient"    first-order estimates, sum over sites of grad . (edited value - value), three passes for each end

    chains: cells in an order along which effects change little, such as the stream's layers at one position; in bfloat16 every
    third of each is then run. A cell between two takes its value from them, and is an estimate only if its own first-order
    estimate is small too. donor: the prompts whose values the cells take, token for token: estimates are then made at both
    ends. over: the share. A cell stays an estimate only if all of its evidence is under the threshold, times a slack; those
    nearest below it are run as well, and further ones until all of the last are under it.

    Of the estimates so many are then drawn, by `seed`, that with 95 % confidence at most a share `miss` of them are over the
    threshold (at least a share `audit`). If one of those drawn is, the audit has failed, and every cell is run.

    The column `known` says of each cell whether it is "exact" or "estimate"; `exact` and the provenance's "audit" say how many
    of the estimates may be over the threshold. "cost" has the passes and seconds of each stage.

    Raises:
        BadSweep: an unknown way, chains or a donor that do not fit, shares that are none, a gap of zero, a readout of several
        numbers. SweepCancelled, WeightsChanged: as `Sweep.run`; `partial` has the exact cells alone.
    """
    source = None if donor is None else plan.model.batch(donor)
    threshold = _checked(plan, gap, by, chains, source, over, audit, miss)
    began = time.monotonic()
    base, same = plan.unchanged()
    if base.ndim != 1:
        raise BadSweep("screening is of one number a prompt", received=f"shape {tuple(base.shape)}", fix="plan.run()")
    base, active = base.cpu(), ~same.all(1)
    state: _Screen | None = None
    try:
        evidence = WAYS[by](Ask(plan, base, active, chains, source, progress, cancel))
        state = _Screen(plan, base, threshold, evidence, active, progress, cancel)
        state.cost["screen"] = {"passes": evidence.passes, "seconds": round(time.monotonic() - began, 3)}
        level = state.settle()
        audited = state.audit(level, least=audit, miss=miss, seed=seed)
    except Cancelled as stop:
        stop.partial = _partial(plan, base.expand(len(active), -1), ~active) if state is None else state.partial()
        raise
    left = state.left()
    share = f"{100 * over:.4g} % of the gap"
    about = {
        "method": f"sweep, screened by {by}",
        **plan.model.provenance,
        "seconds": round(time.monotonic() - began, 3),
        "evidence": evidence.basis,
        "exact over": float(over),
        "gap": torch.as_tensor(gap).tolist(),
        "exact cells": len(plan.cells) - len(left),
        "estimates": len(left),
        "audit": audited,
        "cost": state.cost,
        "seed": seed,
    }
    words = _label(by, len(plan.cells), len(left), audited, share, evidence.basis)
    known = tuple("exact" if exact else "estimate" for exact in state.known.tolist())
    coords, along = {"edits": plan.labels, "known": known}, {"edits": "cell", "known": "cell"}
    return Result(
        state.values, ("cell", "prompt"), coords, along, name=label_of(plan.readout, plan.model), exact=words, provenance=about,
        unit=unit_of(plan.readout),
    )  # fmt: skip


def _label(by: str, cells: int, estimates: int, audited: dict[str, Any], share: str, evidence: str) -> str:
    """What the label says."""
    if audited["failed"]:
        drawn = f"{audited['missed']} of {audited['cells']} drawn were over {share}"
        return f"every cell is exact: they were estimated by {by}, but the audit failed ({drawn}), so all were run"
    if not estimates:
        return f"every cell is exact: all that was estimated by {by} has been run"
    return (
        f"{estimates} of {cells} cells estimated by {by}, the others exact; at most {audited['at most over']} of the "
        f"{estimates} are over {share} ({CONFIDENCE:.0%} confidence: of {audited['cells']} more, drawn and run, none is); "
        f"an estimate's evidence: {evidence}"
    )


def _partial(plan: Sweep, values: Float[Tensor, "cell prompt"], known: Bool[Tensor, "cell"]) -> Result:
    """The exact cells of a screen that was stopped; NaN elsewhere."""
    words = tuple("exact" if exact else "not run" for exact in known.tolist())
    coords, along = {"edits": plan.labels, "known": words}, {"edits": "cell", "known": "cell"}
    about = {"method": "sweep, screened, stopped", **plan.model.provenance, "exact cells": int(known.sum())}
    exact = torch.where(known[:, None], values, torch.nan)
    return Result(exact, ("cell", "prompt"), coords, along, name=type(plan.readout).__name__, provenance=about)


@dataclass
class _Screen:
    """The cells on their way: which are known exactly, and which of those are over the threshold."""

    plan: Sweep
    base: Float[Tensor, "prompt"]
    threshold: Float[Tensor, "..."]
    evidence: CellEvidence
    active: Bool[Tensor, "cell"]
    progress: Progress
    cancel: Cancel
    rounds: int = 0
    cost: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values: Tensor = self.base + self.evidence.effect.to(self.base)
        self.known: Tensor = ~self.active
        self.known[[*self.evidence.exact]] = True
        self.values[~self.active] = self.base
        share = (self.evidence.largest / self.threshold).amax(1)
        self.share: Tensor = torch.where(share.isnan(), torch.inf, share)  # what is no number is no evidence

    def left(self) -> list[int]:
        """The cells that are estimates."""
        return (~self.known).nonzero()[:, 0].tolist()

    def run(self, cells: Sequence[int], stage: str) -> Bool[Tensor, "cell"]:
        """Make these exact; whether each is over the threshold, for any prompt."""
        if not cells:
            return torch.zeros(0, dtype=torch.bool)
        began = time.monotonic()
        exact = self.plan.of([self.plan.cells[i] for i in cells])
        self.rounds += 1
        what = f"Round {self.rounds}: {stage}"
        try:
            values = exact.run(self.progress, self.cancel, what=what).values.to(self.values)
        except Cancelled as stop:
            if stop.partial is not None:
                done = ~stop.partial.values.isnan().any(1)
                rows = [cell for cell, finished in zip(cells, done.tolist(), strict=True) if finished]
                self.values[rows], self.known[rows] = stop.partial.values[done].to(self.values), True
            raise
        self.values[cells], self.known[cells] = values, True
        spent = self.cost.setdefault(stage, {"passes": 0, "seconds": 0.0})
        spent["passes"] += exact.passes
        spent["seconds"] = round(spent["seconds"] + time.monotonic() - began, 3)
        return ~((values - self.base).abs() < self.threshold).all(1)  # what is no number is not under it

    def partial(self) -> Result:
        """What is exact by now."""
        return _partial(self.plan, self.values, self.known)

    def settle(self) -> float:
        """Run what may be over the threshold, and cells next below until all of the last are under it; down to which share."""
        level, fewest = 1.0, _FEWEST
        wanted = [i for i in self.left() if self.share[i] >= level]
        while True:
            level *= _STEP
            rest = sorted({*self.left()} - {*wanted}, key=lambda i: -float(self.share[i]))
            below = rest[: max(fewest, sum(1 for i in rest if self.share[i] >= level))]
            over = self.run([*wanted, *below], "exact cells")
            if not over[len(wanted) :].any():
                return level
            wanted, fewest = [], 2 * fewest

    def audit(self, level: float, *, least: float, miss: float, seed: int) -> dict[str, Any]:
        """Draw of the estimates and run them; all, where one is over the threshold."""
        left = self.left()
        parts = strata(left, self.share, level / 2, self.evidence.between)
        sizes = [len(cells) for cells in parts.values()]
        counts = how_many([near for near, _ in parts], sizes, least=least, miss=miss)
        drawn = draw(parts, counts, seed)
        estimates = self.values[drawn]
        over = self.run(drawn, "audit")
        error = float((self.values[drawn] - estimates).abs().max()) if drawn else 0.0
        failed = bool(over.any())
        if failed:
            self.run(self.left(), "after the audit failed")
        return {
            "cells": len(drawn),
            "of": len(left),
            "missed": int(over.sum()),
            "failed": failed,
            "largest error": error,
            "at most over": 0 if failed else most_over(sizes, counts),
            "confidence": CONFIDENCE,
        }


def _checked(
    plan: Sweep, gap: float | Tensor, by: str, chains: Sequence[Sequence[int]], donor: Batch | None, *shares: float
) -> Float[Tensor, "..."]:
    """The threshold, one number or one a prompt. Raises BadSweep."""
    if by not in WAYS:
        raise BadSweep("no such way of screening", received=repr(by), allowed=", ".join(WAYS))
    if chains and sorted(i for chain in chains for i in chain) != [*range(len(plan.cells))]:
        raise BadSweep(
            "chains must hold every cell once", received=f"{sum(map(len, chains))} of {len(plan.cells)} cells"
        )
    if donor is not None and donor.lengths != plan.batch.lengths:
        raise BadSweep(
            "the donor's prompts do not correspond token by token",
            received=f"lengths {donor.lengths[:8]}",
            allowed=f"those of the sweep's prompts, {plan.batch.lengths[:8]}",
        )
    for name, share in zip(("over", "audit", "miss"), shares, strict=True):
        if not 0 <= share <= 1 and not (name == "over" and share > 0):
            raise BadSweep("not a share", received=f"{name}={share}", allowed="0 to 1")
    threshold = shares[0] * torch.as_tensor(gap).abs().cpu().double()
    if not bool((threshold > 0).all() and threshold.isfinite().all()):
        raise BadSweep(
            "effects are shares of the gap, which is no number but zero",
            received=f"gap={gap}, over={shares[0]}",
            allowed="numbers other than zero",
            fix="choose other prompts",
        )
    return threshold
