"""Draw cases, go through doors, and bring a failure down to the fewest edits that still fail."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from attack import page
from attack.cases import Case, draw, world
from attack.doors import DOORS as TENSOR_DOORS
from attack.doors import Door, Unfit, expected
from attack.meaning import Refused
from residscope.errors import ResidscopeError

DOORS: dict[str, Door] = {**TENSOR_DOORS, "session": page.session}
DRAWN = {"session": page.draw}  # where the door takes fewer kinds, or other data


@dataclass(frozen=True)
class Failure:
    """A door that gives another number than the reference, or an error that nothing documents."""

    door: str
    case: Case
    what: str
    error: float

    def __str__(self) -> str:
        return f"{self.door}: {self.what}\n{self.case}"


@dataclass
class Hunt:
    """What was tried, and what was found."""

    seed: str
    tried: Counter[tuple[str, str]] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    unfit: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0

    def go(self, number: int, doors: int | None) -> None:
        """The case of one number, through some of the doors (None: all)."""
        seed = f"{self.seed}-{number}"
        names = sorted(DOORS) if doors is None else Random(seed).sample(sorted(DOORS), doors)
        cases = {drawn: drawn(seed) for drawn in {DRAWN.get(name, draw) for name in names}}
        for case in cases.values():
            self.kinds.update(spec["kind"] for spec in case.stack)
            self.sites.update(spec["site"].partition(".")[0] for spec in case.stack if spec["kind"] != "overlay")
        for name in names:
            case = cases[DRAWN.get(name, draw)]
            self.tried[case.family, name] += 1
            failure = self.through(name, case)
            if failure is not None:
                self.failures.append(smallest(failure))

    def through(self, door: str, case: Case) -> Failure | None:
        failure, worst, unfit = attempt(door, case)
        if unfit and failure is None:
            self.unfit[f"{door}: {unfit}"] += 1
        elif failure is None:
            self.worst[door] = max(self.worst[door], worst)
        return failure


def attempt(door: str, case: Case) -> tuple[Failure | None, float, str | None]:
    """A failure, the worst error where there is none, and why the case does not fit the door."""
    worst = 0.0
    try:
        for seen in DOORS[door](case, Random(f"{case.seed} {door}")):
            if seen.wrong:
                what = f"{seen.what} is off by {seen.error:.2g}"
                if seen.expected.numel() <= 8:
                    what += f": expected {seen.expected.tolist()}, got {seen.got.tolist()}"
                return Failure(door, case, what, seen.error), 0.0, None
            worst = max(worst, seen.error)
    except Unfit as error:
        return None, 0.0, str(error)
    except Refused as error:
        return _accepted(door, case, str(error)), 0.0, f"refused, as documented: {error}"
    except ResidscopeError as error:
        if _refused(case):
            return None, 0.0, "refused by both"
        return (
            Failure(door, case, f"refused: {type(error).__name__}: {' '.join(str(error).split())}", float("inf")),
            0.0,
            None,
        )
    except Exception as error:  # whatever comes is what is looked for
        return Failure(door, case, f"raised {type(error).__name__}: {error}", float("inf")), 0.0, None
    return None, worst, None


def _refused(case: Case) -> bool:
    """Whether the reference refuses the case too, which some doors ask only after the library."""
    try:
        expected(case)
    except Refused:
        return True
    except Unfit:
        return False
    return False


def _accepted(door: str, case: Case, reason: str) -> Failure | None:
    """A failure where the library takes what the documentation says it refuses."""
    try:
        world(case.family).model.run([list(row) for row in case.rows], ["logits"], edits=case.edits())
    except ResidscopeError:
        return None
    return Failure(door, case, f"taken, though to be refused: {reason}", float("inf"))


def smallest(failure: Failure) -> Failure:
    """The failure with edits, then prompts, left out while the same door still fails, in the same way."""
    smaller = True
    while smaller:
        smaller = False
        for case in _less(failure.case):
            found, _, _ = attempt(failure.door, case)
            if found is not None and _way(found) == _way(failure):
                failure, smaller = found, True
                break
    return failure


def _way(failure: Failure) -> Any:
    return failure.what.split(":")[:2] if failure.what.startswith(("refused", "raised", "taken")) else "off"


def _less(case: Case) -> list[Case]:
    fewer = [case.without(i) for i in range(len(case.stack))]
    if len(case.rows) > 1:
        fewer += [_without_row(case, row) for row in range(len(case.rows))]
    return [one for one in fewer if one.stack]


def _without_row(case: Case, row: int) -> Case:
    rows = case.rows[:row] + case.rows[row + 1 :]
    stack = []
    for spec in case.stack:
        spec = dict(spec)
        for word in ("source", "align"):
            several = spec.get(word)
            if isinstance(several, tuple) and len(several) == len(case.rows):
                spec[word] = several[:row] + several[row + 1 :]
        to = spec.get("to")
        if hasattr(to, "shape") and to.ndim > 2 and to.shape[0] == len(case.rows) > 1:
            spec["to"] = to[[i for i in range(len(case.rows)) if i != row]]
        stack.append(spec)
    return replace(case, rows=rows, stack=tuple(stack))


def hunt(
    seed: str,
    *,
    seconds: float,
    doors: int | None = 3,
    tell: Callable[[str], None] = lambda text: None,
    most: int = 1 << 30,
    cases: int = 1 << 30,
) -> Hunt:
    """Draw until the time is over, or so many cases are drawn or failures found."""
    found, began, number = Hunt(seed), time.monotonic(), 0
    while time.monotonic() - began < seconds and number < cases and len(found.failures) < most:
        before = len(found.failures)
        found.go(number, doors)
        for failure in found.failures[before:]:
            tell(f"[{seed}-{number}] {failure}\n")
        number += 1
    found.seconds = time.monotonic() - began
    return found
