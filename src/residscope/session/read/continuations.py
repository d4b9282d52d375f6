"""Continuations as the JSON of docs/wire.md."""

from typing import Annotated, Any, TypedDict

from residscope.json_values import finite
from residscope.methods._lib.draws import Continuation, Draw
from residscope.methods.reading.continuations import Continuations
from residscope.session.wire import Tok


class ChosenToken(Tok):
    """A token that one model chose; log-probabilities in nats, before temperature and cuts."""

    log_prob: float | None
    other: Annotated[
        float | None, "The other model's, of the same token after the same tokens; null until it has read it."
    ]


class ChosenTokens(TypedDict):
    tokens: list[ChosenToken]
    text: Annotated[str, "It goes on where the prompt's text ends."]
    stopped: Annotated[bool, "By its stop, and not for its length."]


class SeedDraw(TypedDict):
    """What one seed gave, without the edits and with them; `edited`: null where there were none."""

    seed: int
    same: Annotated[int | None, "How many tokens from the start are the same in both."]
    said: str
    baseline: ChosenTokens
    edited: ChosenTokens | None


class ContinuationParts(TypedDict):
    prompt: Annotated[list[int], "The ids of the prompt that they continue."]
    draws: list[SeedDraw]


class ContinuationsFound(ContinuationParts):
    """What has come so far. `edits`: as they were asked for; `code`: the Python that gives the same."""

    job: str | None
    item: str | None
    revision: int
    done: bool
    edits: list[dict[str, Any]] | str | None
    code: str


def describe_continuations(found: Continuations) -> ContinuationParts:
    return {"prompt": [*found.prompt], "draws": [_draw(draw) for draw in found.draws]}


def _draw(draw: Draw) -> SeedDraw:
    return {
        "seed": draw.seed,
        "same": draw.same,
        "said": draw.said,
        "baseline": _tokens(draw.baseline),
        "edited": None if draw.edited is None else _tokens(draw.edited),
    }


def _tokens(run: Continuation) -> ChosenTokens:
    rows = zip(run.ids, run.tokens, run.log_probs, run.other, strict=True)
    return {
        "tokens": [
            {"id": id, "text": text, "log_prob": finite(own), "other": finite(other)} for id, text, own, other in rows
        ],
        "text": run.text,
        "stopped": run.stopped,
    }
