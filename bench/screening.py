"""Screening on twenty pairs of prompts: which cells over 5 % of the gap it leaves as estimates, and what its label says of them.

Pairs that differ at one word, sentences of one form, counts, unrelated texts and random tokens; every layer and head, or
position, of six sites. Recall is the share of the cells over the threshold that are exact.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

import residscope as rs
from bench.harness import Row, _seconds
from bench.patching import ALIGNED, UNRELATED, told
from residscope.metrics import LogitDiff

SITES = ("z", "attn_out", "mlp_out", "resid_pre", "pattern", "mlp_post")
WAYS = ("bfloat16", "neighbours", "gradient")
OVER = 0.05
TEXTS = (
    ("When John and Mary went to the store, John gave a bottle of milk to",
     "When John and Mary went to the store, Mary gave a bottle of milk to", " Mary", " John"),
    ("Then, Tom and James had a long argument, and afterwards Tom said to",
     "Then, Tom and James had a long argument, and afterwards James said to", " James", " Tom"),
    ("After Alice and Paul went to the park, Paul handed the ball to",
     "After Alice and Paul went to the park, Alice handed the ball to", " Alice", " Paul"),
    ("Friends Anna and Peter found a coin at the school. Anna gave it to",
     "Friends Anna and Peter found a coin at the school. Peter gave it to", " Peter", " Anna"),
    ("The capital of France is the city of", "The capital of Italy is the city of", " Paris", " Rome"),
    ("The capital city of Japan is called", "The capital city of China is called", " Tokyo", " Beijing"),
    ("The keys to the old cabinet", "The key to the old cabinet", " are", " is"),
    ("The boys near the tall tree", "The boy near the tall tree", " are", " is"),
    ("The author of the books", "The authors of the books", " is", " are"),
    ("John said that he lost his coat because", "Mary said that she lost her coat because", " he", " she"),
    ("The war lasted from the year 1743 to the year 17", "The war lasted from the year 1718 to the year 17", "9", "1"),
    ("The opposite of hot is the word", "The opposite of big is the word", " cold", " small"),
    ("The doctor said that his patient was ill, so", "The doctor said that her patient was ill, so", " he", " she"),
    ("One two three four five", "Five four three two one", " six", " zero"),
    ("I put the apple on the table. On the table there is the",
     "I put the letter on the table. On the table there is the", " apple", " letter"),
    ("She likes cats but hates dogs. Her favourite animal is the",
     "She likes dogs but hates cats. Her favourite animal is the", " cat", " dog"),
)  # fmt: skip


@dataclass(frozen=True)
class Pair:
    clean: list[int]
    corrupted: list[int]
    metric: LogitDiff


def pairs(model: rs.Model) -> list[Pair]:
    found = [
        Pair(model.tokens(clean)[0].tolist(), model.tokens(corrupted)[0].tolist(), rs.logit_diff(right, wrong))
        for clean, corrupted, right, wrong in TEXTS
    ]
    names = rs.logit_diff(" Mary", " John")
    for length in (12, 16):
        ids = torch.randint(100, 40_000, (2, length), generator=torch.Generator().manual_seed(length))
        found.append(Pair(*ids.tolist(), names))
    return found + [Pair(*(told(model, text, 32) for text in texts), names) for texts in (ALIGNED, UNRELATED)]


@dataclass
class Tally:
    """Over the pairs: cells over the threshold and how many of them are exact, estimates, the bound, audits, seconds."""

    cells: int = 0
    large: int = 0
    missed: int = 0
    exact: int = 0
    bound: int = 0
    covered: int = 0
    failed: int = 0
    ours: float = 0.0
    theirs: float = 0.0

    def add(self, whole: rs.Result, found: rs.Result, ours: float, theirs: float) -> None:
        clean, corrupted = (whole.provenance[end][0] for end in ("clean", "corrupted"))
        large = (whole.values - corrupted).abs().flatten() >= OVER * abs(clean - corrupted)
        known = torch.tensor([k == "exact" for k in found.provenance["known"]])
        audit, missed = found.provenance["audit"], int((large & ~known).sum())
        self.cells, self.large, self.exact = (
            self.cells + len(known),
            self.large + int(large.sum()),
            self.exact + int(known.sum()),
        )
        self.missed, self.bound = self.missed + missed, self.bound + audit["at most over"]
        self.covered, self.failed = self.covered + (missed <= audit["at most over"]), self.failed + audit["failed"]
        self.ours, self.theirs = self.ours + ours, self.theirs + theirs

    def row(self, by: str, site: str, pairs: int) -> Row:
        recall = 1 - self.missed / self.large if self.large else math.nan
        note = (
            f"recall {recall:.4f}: {self.missed} of the {self.large} cells over {OVER:.0%} of the gap are estimates, within the "
            f"label's bound ({self.bound} of {self.cells - self.exact} estimates) in {self.covered} of {pairs} pairs; "
            f"{self.exact} of {self.cells} cells exact; {self.failed} audits failed"
        )
        ratio = self.ours / self.theirs
        return Row(
            f"{site} screened by {by}, {pairs} pairs, beside the exact sweep",
            self.ours,
            self.theirs,
            ratio,
            ratio,
            ratio,
            None,
            pairs,
            note,
        )


def rows(*, quick: bool = False) -> Iterator[Row]:
    model = rs.load("smollm2-135m")
    every = pairs(model)[:: 7 if quick else 1]
    for site in SITES:
        tallies = {by: Tally() for by in WAYS}
        for pair in every:

            def sweep(screen: str | None, pair: Pair = pair, site: str = site) -> rs.Result:
                return rs.activation_patching(
                    model, [pair.clean], [pair.corrupted], pair.metric, site=site, screen=screen, progress=False
                )

            results: dict[str | None, rs.Result] = {}
            seconds = {
                by: _seconds(lambda by=by: results.update({by: sweep(by)}))  # noqa: B023
                for by in (None, *WAYS)
            }
            for by in WAYS:
                tallies[by].add(results[None], results[by], seconds[by], seconds[None])
        for by in WAYS:
            yield tallies[by].row(by, site, len(every))
