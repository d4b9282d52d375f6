"""The logit lens over a run that is held: some positions at a time, so that the picture of a long prompt fills in."""

import json
from typing import Literal, TypedDict

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import UnknownPosition
from residscope.methods._lib.tuned import TunedLens
from residscope.methods.reading.logit_lens import lens_cells
from residscope.session.compute import NEXT, Held, TensorFile

MOST = 128  # positions read at once


class LensTensors(TypedDict):
    """As `rs.logit_lens` has them: the k likeliest next tokens and their probabilities; entropy and KL from the run's own next
    token, in nats; rank and probability of the followed token."""

    top: Int64[Tensor, "row pos k"]
    probability: Float32[Tensor, "row pos k"]
    entropy: Float32[Tensor, "row pos"]
    kl: Float32[Tensor, "row pos"]
    rank: Int64[Tensor, "row pos"]
    chance: Float32[Tensor, "row pos"]


class LensFile(TensorFile[LensTensors, Literal["texts", "first"]]):
    """texts: of the tokens in `top`, by id. first: the position of the first column."""


def lens_file(
    held: Held, model: Model, *, first: int, count: int, token: str | None, through: TunedLens | None = None
) -> LensFile:
    """Rows as the stream's: the embedding, then what each layer leaves; positions first to first + count.

    through: a tuned lens, whose translators then stand before the final norm; the run's own next token stays its own.

    Raises UnknownPosition, UnknownToken, WrongModel.
    """
    if through is not None:
        through.check(model)
    length = held.rows.shape[1]
    if not 0 <= first < length:
        raise UnknownPosition(
            f"the prompt has {length} tokens", received=f"position {first}", allowed=f"0 to {length - 1}"
        )
    end = min(first + count, length)
    followed = None if token is None else model.token_id(token)
    rows = held.rows[:, first:end]
    own = _own(held, model, first, end)
    if through is not None:
        rows = torch.stack([through.translated(row, layer) for layer, row in enumerate(rows)])
    top, probability, entropy, kl, rank, chance = lens_cells(model, rows, own, followed, NEXT)
    ids = sorted({*top.flatten().tolist()})
    tensors: LensTensors = {
        "top": top.long(),
        "probability": probability.float(),
        "entropy": entropy.float(),
        "kl": kl.float(),
        "rank": rank.long(),
        "chance": chance.float(),
    }
    texts = dict(zip(map(str, ids), model.token_texts(ids), strict=True))
    return LensFile.of(tensors, {"texts": json.dumps(texts), "first": json.dumps(first)})


def _own(held: Held, model: Model, first: int, end: int) -> Float[Tensor, "pos vocab"]:
    """The run's logits at some positions; where no edit acts after the blocks they are those of its last row."""
    if held.end is None:
        return model.lens(held.rows[-1, first:end])
    return torch.stack([held.end.logits_at(pos)[0] for pos in range(first, end)])
