"""Metrics: readouts of the logits to one number a prompt."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.recording import Recording
from residscope.errors import PromptError, WrongModel


class _OfLogits:
    sites: ClassVar[tuple[str, ...]] = ("logits",)


def _at(recording: Recording, pos: int) -> Float[Tensor, "batch d_vocab"]:
    """The logits at a position of each row; -1 is each row's own end."""
    logits = recording.logits
    index = torch.tensor([recording.index(pos, row) for row in range(len(recording.lengths))], device=logits.device)
    return logits[torch.arange(len(index), device=logits.device), index]


@dataclass(frozen=True)
class LogitDiff(_OfLogits):
    """logit(positive) - logit(negative), in logits; averaged over tokens where several are given."""

    positive: tuple[str | int, ...]
    negative: tuple[str | int, ...]
    pos: int = -1

    def __call__(self, recording: Recording) -> Float[Tensor, "batch"]:
        logits = _at(recording, self.pos)
        ids = [[recording.model.token_id(t) for t in tokens] for tokens in (self.positive, self.negative)]
        return logits[:, ids[0]].mean(1) - logits[:, ids[1]].mean(1)


@dataclass(frozen=True)
class LogProb(_OfLogits):
    """log p(token), in nats."""

    token: str | int
    pos: int = -1

    def __call__(self, recording: Recording) -> Float[Tensor, "batch"]:
        logits = _at(recording, self.pos)
        return logits.log_softmax(-1)[:, recording.model.token_id(self.token)]


@dataclass(frozen=True)
class Loss(_OfLogits):
    """Mean cross-entropy of each row's own next tokens, in nats. Needs rows of two tokens or more."""

    def __call__(self, recording: Recording) -> Float[Tensor, "batch"]:
        if min(recording.lengths) < 2 or recording.offset:
            raise PromptError(
                "loss needs whole prompts of at least two tokens", received=f"lengths {recording.lengths}"
            )
        logp = recording.logits[:, :-1].log_softmax(-1)
        per_token = -logp.gather(-1, recording.tokens[:, 1:, None])[..., 0]
        real = recording.batch.real[:, 1:]
        return (per_token * real).sum(1) / real.sum(1)


@dataclass(frozen=True)
class KL(_OfLogits):
    """KL(reference || this run) of the next-token distribution, in nats."""

    reference: Recording
    pos: int = -1

    def __call__(self, recording: Recording) -> Float[Tensor, "batch"]:
        if self.reference.model.hf is not recording.model.hf:
            raise WrongModel("the reference is of another model", received=self.reference.model.name)
        p = _at(self.reference, self.pos).log_softmax(-1)
        q = _at(recording, self.pos).log_softmax(-1)
        return (p.exp() * (p - q)).sum(-1)


def logit_diff(
    positive: str | int | tuple[str | int, ...], negative: str | int | tuple[str | int, ...], *, pos: int = -1
) -> LogitDiff:
    """`rs.logit_diff(" Mary", " John")(rec)`: Float[Tensor, "batch"], in logits."""
    return LogitDiff(
        positive if isinstance(positive, tuple) else (positive,),
        negative if isinstance(negative, tuple) else (negative,),
        pos,
    )


def log_prob(token: str | int, *, pos: int = -1) -> LogProb:
    """log p(token) at a position, in nats."""
    return LogProb(token, pos)


def loss() -> Loss:
    """Mean next-token cross-entropy per row, in nats."""
    return Loss()


def kl(reference: Recording, *, pos: int = -1) -> KL:
    """KL divergence from a reference run's next-token distribution, in nats."""
    return KL(reference, pos)
