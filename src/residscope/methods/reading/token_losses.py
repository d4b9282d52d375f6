"""How well each token of a text was expected: its loss, its rank, and what was expected instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import Edit
from residscope.errors import PromptError, UnknownPosition
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, Table, TokenStrip, View

PART = 256  # positions unembedded at once


@dataclass(frozen=True, eq=False, repr=False)
class TokenLosses(Report):
    """The loss of every token but the first, which nothing predicts: n - 1 values for n tokens, told where the token stands.

    losses[pos], pos from 1: -log P(token at pos | the tokens before), in nats, read from the logits at pos - 1. rank: how many
    tokens were likelier. expected, chance: the likeliest, and how likely. without: the losses of the unedited run, where there
    are edits; empty otherwise.
    """

    kind: ClassVar[str] = "report:token_losses"
    main: ClassVar[str] = "losses"
    prompt: tuple[str, ...]
    losses: Result
    rank: Int[Tensor, " pos"]
    expected: tuple[str, ...]
    chance: Float[Tensor, " pos"]
    without: Float[Tensor, " plain"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The loss that language models are trained on: the mean over tokens, in nats."""
        return float(self.losses.values.mean())

    def in_context_score(self, early: int = 50, late: int = 500, *, around: int = 10) -> float:
        """mean loss about token `late` - mean loss about token `early`, in nats; below 0 where the model uses its context.

        Each mean is over `around` tokens on either side, for one text's losses are uneven; Olsson et al. 2022 (2209.11895),
        section on the in-context learning score, take the tokens alone (around=0) and a mean over many texts. Raises
        UnknownPosition.
        """
        n = len(self.prompt)
        spans = [range(middle - around, middle + around + 1) for middle in (early, late)]
        if around < 0 or not all(span[0] >= 1 and span[-1] < n for span in spans):
            raise UnknownPosition(
                "the text does not reach so far", received=f"tokens {early} and {late}, {around} on either side",
                allowed=f"1 to {n - 1}",
            )  # fmt: skip
        means = [float(self.losses.values[span[0] - 1 : span[-1]].double().mean()) for span in spans]
        return means[1] - means[0]

    def view(self) -> View:
        """The losses on the text, how far edits moved them, and a table of every token."""
        shown: list[View] = [
            self._strip(self.losses.values, f"Loss of each token, {self.mean:.3f} nats at the mean", "sequential")
        ]
        if len(self.without):
            change = self.losses.values - self.without
            shown.append(
                self._strip(change, f"What the edits add, {float(change.mean()):+.3f} at the mean", "diverging")
            )
        rows = [
            [place + 1, repr(self.prompt[place + 1]), loss, int(rank), repr(expected), float(chance)]
            for place, (loss, rank, expected, chance) in enumerate(
                zip(self.losses.values.tolist(), self.rank, self.expected, self.chance, strict=True)
            )
        ]
        columns = ["position", "token", "loss, nats", "rank", "expected", "probability"]
        return Grid(
            [*shown, Table(columns, rows, title="Token by token")], columns=1, title="How well each token was expected"
        )

    def _strip(self, values: Tensor, title: str, scale: Any) -> TokenStrip:
        """On the text; of the first token nothing is known."""
        return TokenStrip(
            list(self.prompt), [None, *values.tolist()], title=title, unit="nats", scale=scale,
            note="read from the logits one position before; nothing predicts the first token",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"TokenLosses({len(self.prompt)} tokens, {self.mean:.4f} nats at the mean)"


@method("token-losses", title="Loss of each token", group="reading")
def token_losses(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    *,
    edit: Annotated[Sequence[Edit], fields.edits()] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> TokenLosses:
    """How well each token of a text was expected, and what was expected instead; under edits beside the run without them.

        loss(t) = -log softmax(logits(t - 1))[token(t)]        t = 1 ... n - 1

    Logits are read 256 positions at a time and not kept.

    Raises:
        PromptError: several prompts, or fewer than two tokens. EditError, Cancelled.
    """
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise PromptError("losses are of one prompt's tokens", received=f"{len(batch)} prompts", fix="ask for each")
    if batch.lengths[0] < 2:
        raise PromptError("the first token is predicted by nothing", received="one token", allowed="two or more")
    ids = batch.ids[0]
    runs = [(), tuple(edit)] if edit else [()]
    read: list[list[Tensor]] = []
    parts = -(-batch.lengths[0] // PART)
    with stage("Reading losses", len(runs) * parts, progress, cancel) as tell:
        for number, stack in enumerate(runs):
            found: list[tuple[Tensor, ...]] = []
            for part in model.run(batch, edits=stack).logits_in_parts(PART):
                found.append(_read(part[0], ids[len(found) * PART + 1 :]))
                tell(number * parts + len(found))
            read.append([torch.cat([one[i] for one in found]).cpu() for i in range(4)])
    loss, rank, best, chance = read[-1]
    about = {**model.provenance, "method": "token_losses"}
    coords = {"pos": tuple(range(1, batch.lengths[0]))}
    result = Result(loss, ("pos",), coords, name="loss of each token", unit="nats", provenance=about)
    tokens = tuple(model.token_texts(ids.tolist()))
    without = read[0][0] if edit else torch.zeros(0)
    return TokenLosses(tokens, result, rank, tuple(model.token_texts(best.tolist())), chance, without, about)


def _read(logits: Float[Tensor, "part vocab"], following: Int[Tensor, " rest"]) -> tuple[Tensor, ...]:
    """Of positions that something follows: its loss and rank, and the likeliest with its probability."""
    told = logits.float().log_softmax(-1)[: len(following)]
    own = told.gather(-1, following[: len(told), None].to(told.device))
    best = told.max(-1)
    return -own[:, 0], (told > own).sum(-1), best.indices, best.values.exp()
