"""Metrics: readouts of the logits to one number a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from residscope.engine.recording import Recording
from residscope.errors import PromptError, WrongModel
from residscope.model.prompts import Batch

Tokens = str | int | tuple[str | int, ...]
Ids = tuple[int, ...] | None


class _AtOnePosition:
    """A metric of the logits at one position of each row; -1 is the row's own end."""

    sites: ClassVar[tuple[str, ...]] = ("logits",)
    unit: ClassVar[str] = "nats"
    linear: ClassVar[bool] = False  # whether it is a sum of weights times logits, and so of the stream's parts
    pos: int

    @property
    def label(self) -> str:
        """What it is called, tokens as they were given."""
        return self.labelled()

    def labelled(self, model: Any = None) -> str:
        """What it is called, tokens as the model has them: "logit difference ' Mary' − ' John'"."""
        return self._words(model) + ("" if self.pos == -1 else f" at position {self.pos}")

    def _words(self, model: Any) -> str:
        raise NotImplementedError

    def columns(self, model: Any, batch: Batch) -> Ids:
        """The token ids it reads; None: all of them."""
        return None

    def of(self, logits: Float[Tensor, "batch column"], ids: Ids, model: Any, batch: Batch) -> Float[Tensor, "batch"]:
        raise NotImplementedError

    def __call__(self, recording: Recording) -> Float[Tensor, "batch"]:
        ids = self.columns(recording.model, recording.batch)
        return self.of(recording.logits_at(self.pos, ids), ids, recording.model, recording.batch)


@dataclass(frozen=True)
class LogitDiff(_AtOnePosition):
    """logit(positive) - logit(negative), in logits; averaged over tokens where several are given.

    Without tokens: each prompt's own answers, the right one against the wrong one.
    """

    unit: ClassVar[str] = "logits"
    linear: ClassVar[bool] = True
    positive: tuple[str | int, ...] | None = None
    negative: tuple[str | int, ...] | None = None
    pos: int = -1

    def _words(self, model: Any) -> str:
        if self.positive is None or self.negative is None:
            return "logit difference right − wrong answer"
        return f"logit difference {_shown(self.positive, model)} − {_shown(self.negative, model)}"

    def columns(self, model: Any, batch: Batch) -> Ids:
        return tuple(sorted({i for row in self._answers(model, batch) for tokens in row for i in tokens}))

    def of(self, logits: Float[Tensor, "batch column"], ids: Ids, model: Any, batch: Batch) -> Float[Tensor, "batch"]:
        where = None if ids is None else {token: column for column, token in enumerate(ids)}

        def mean(row: int, tokens: Sequence[int]) -> Tensor:
            return logits[row, [t if where is None else where[t] for t in tokens]].mean()

        answers = self._answers(model, batch)
        if self.positive is not None:
            first, second = ([t if where is None else where[t] for t in tokens] for tokens in answers[0])
            return logits[:, first].mean(1) - logits[:, second].mean(1)
        return torch.stack([mean(i, right) - mean(i, wrong) for i, (right, wrong) in enumerate(answers)])

    def _answers(self, model: Any, batch: Batch) -> list[tuple[list[int], list[int]]]:
        """The ids of the tokens for and against, row by row."""
        if self.positive is not None and self.negative is not None:
            one = [model.token_id(t) for t in self.positive], [model.token_id(t) for t in self.negative]
            return [one] * len(batch)
        if batch.answers is None:
            raise PromptError(
                "the logit difference is of the prompts' own answers, and these have none",
                allowed="a PromptSet with answers",
                fix='say the tokens: rs.logit_diff(" Mary", " John")',
                on_page="choose the two answers under the prompt",
            )
        return [([model.token_id(right)], [model.token_id(wrong)]) for right, wrong in batch.answers]


@dataclass(frozen=True)
class Logit(_AtOnePosition):
    """A token's logit, as the model emits it; the mean of several."""

    unit: ClassVar[str] = "logits"
    linear: ClassVar[bool] = True
    token: tuple[str | int, ...]
    pos: int = -1

    def _words(self, model: Any) -> str:
        return f"logit of {_shown(self.token, model)}"

    def columns(self, model: Any, batch: Batch) -> Ids:
        return tuple(dict.fromkeys(model.token_id(token) for token in self.token))

    def of(self, logits: Float[Tensor, "batch column"], ids: Ids, model: Any, batch: Batch) -> Float[Tensor, "batch"]:
        own = [model.token_id(token) for token in self.token]
        return logits[:, own if ids is None else [ids.index(token) for token in own]].mean(1)


@dataclass(frozen=True)
class LogProb(_AtOnePosition):
    """log p(token), in nats."""

    token: str | int
    pos: int = -1

    def _words(self, model: Any) -> str:
        return f"log-probability of {_shown((self.token,), model)}"

    def of(self, logits: Float[Tensor, "batch column"], ids: Ids, model: Any, batch: Batch) -> Float[Tensor, "batch"]:
        return logits.log_softmax(-1)[:, model.token_id(self.token)]


@dataclass(frozen=True, eq=False)
class Loss:
    """Mean cross-entropy of each row's next tokens, in nats: its own, or those of `tokens`. Needs rows of two tokens or more.

    tokens: of each prompt, where runs of other prompts are scored by them too (`on`).
    """

    sites: ClassVar[tuple[str, ...]] = ("logits",)
    label: ClassVar[str] = "loss"
    unit: ClassVar[str] = "nats"
    tokens: Int[Tensor, "prompt pos"] | None = None

    def on(self, batch: Batch) -> "Loss":
        """The loss of these prompts' tokens, whatever runs."""
        return Loss(batch.ids)

    def __call__(self, recording: Recording) -> Float[Tensor, "batch"]:
        if min(recording.lengths) < 2 or recording.offset:
            raise PromptError(
                "loss needs whole prompts of at least two tokens", received=f"lengths {recording.lengths}"
            )
        tokens, real = recording.tokens, recording.batch.real[:, 1:]
        if self.tokens is not None:
            tokens = _mine(self.tokens, recording.batch, "the loss is of the tokens of another number of prompts")
        tokens = tokens[:, 1 : recording.tokens.shape[1]]
        parts, first = [], 0
        for logits in recording.logits_in_parts():
            targets = tokens[:, first : first + logits.shape[1]]
            logp = logits[:, : targets.shape[1]].log_softmax(-1)
            parts.append(-logp.gather(-1, targets[..., None])[..., 0])
            first += logits.shape[1]
        return (torch.cat(parts, 1) * real).sum(1) / real.sum(1)


def _mine(whole: Shaped[Tensor, "prompt ..."], batch: Batch, failed: str) -> Shaped[Tensor, "batch ..."]:
    """The rows of a tensor with one for every prompt that the batch's rows stand for. Raises PromptError where they are not."""
    rows = range(len(batch)) if batch.rows is None else batch.rows
    if max(rows) >= len(whole) or (batch.rows is None and len(whole) != len(batch)):
        raise PromptError(
            failed, received=f"{len(whole)} for {max(rows) + 1} prompts", allowed="one for each prompt of the run"
        )
    return whole[list(rows)]


@dataclass(frozen=True)
class KL(_AtOnePosition):
    """KL(reference || this run) of the next-token distribution, in nats: a reference of one prompt, or one for each."""

    reference: Recording
    pos: int = -1

    def _words(self, model: Any) -> str:
        return "KL from the reference run"

    def of(self, logits: Float[Tensor, "batch column"], ids: Ids, model: Any, batch: Batch) -> Float[Tensor, "batch"]:
        if self.reference.model.hf is not model.hf:
            raise WrongModel("the reference is of another model", received=self.reference.model.name)
        reference = self.reference.logits_at(self.pos)
        if len(reference) > 1:
            reference = _mine(reference, batch, "the reference is a run of another number of prompts")
        p, q = reference.log_softmax(-1), logits.log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)


def logit_diff(positive: Tokens | None = None, negative: Tokens | None = None, *, pos: int = -1) -> LogitDiff:
    """`rs.logit_diff(" Mary", " John")(rec)`: Float[Tensor, "batch"], in logits.

    Without tokens, the answers that the prompts of a PromptSet came with. Raises PromptError where only one is given.
    """
    if (positive is None) != (negative is None):
        raise PromptError("a logit difference is between two answers", received=f"{positive!r} and {negative!r}")
    return LogitDiff(_several(positive), _several(negative), pos)


def _several(tokens: Tokens | None) -> tuple[str | int, ...] | None:
    return tokens if tokens is None or isinstance(tokens, tuple) else (tokens,)


def _shown(tokens: Sequence[str | int], model: Any) -> str:
    """Tokens as they are written in a label: their mean, where they are several."""
    if model is not None:
        tokens = model.token_texts([model.token_id(token) for token in tokens])
    texts = [repr(token) if isinstance(token, str) else f"token {token}" for token in tokens]
    return texts[0] if len(texts) == 1 else f"mean of ({', '.join(texts)})"


def logit(token: Tokens, *, pos: int = -1) -> Logit:
    """A token's logit at a position, in logits; the mean of several tokens'."""
    return Logit(token if isinstance(token, tuple) else (token,), pos)


def log_prob(token: str | int, *, pos: int = -1) -> LogProb:
    """log p(token) at a position, in nats."""
    return LogProb(token, pos)


def loss() -> Loss:
    """Mean next-token cross-entropy per row, in nats."""
    return Loss()


def kl(reference: Recording, *, pos: int = -1) -> KL:
    """KL divergence from a reference run's next-token distribution, in nats: a run of one prompt, or of as many as are scored.

    Raises PromptError where the reference is of another number of prompts.
    """
    return KL(reference, pos)
