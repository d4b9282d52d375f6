"""A metric: what is read of the logits, one number a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field as Bounds

from residscope.fields.base import Field, Spec, World, Writer

TokenText = Annotated[str, Bounds(min_length=1, max_length=400)]


class LiveMetric(Spec):
    """The metric on the page."""

    kind: Literal["live"]


class LogitDiffMetric(Spec):
    kind: Literal["logit_diff"]
    positive: TokenText
    negative: TokenText


class AnswersMetric(Spec):
    """The logit difference of each prompt's own answers."""

    kind: Literal["answers"]


class LogProbMetric(Spec):
    kind: Literal["log_prob"]
    token: TokenText


class LossMetric(Spec):
    kind: Literal["loss"]


AnyMetric = LiveMetric | LogitDiffMetric | AnswersMetric | LogProbMetric | LossMetric
MetricRef = Annotated[AnyMetric, Bounds(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class MetricField(Field):
    """A readout of the logits: a logit difference, a log-probability, the loss."""

    kind: ClassVar[str] = "metric"
    early: ClassVar[bool] = True

    def type(self) -> Any:
        return MetricRef

    def resolve(self, value: Any, world: World) -> Any:
        return world.metric(value)

    def code(self, value: Any, writer: Writer) -> str:
        return writer.metric(value)

    def read(self, words: Sequence[str]) -> Any:
        if len(words) > 2:
            raise ValueError("one or two words")
        if len(words) == 2:
            return {"kind": "logit_diff", "positive": words[0], "negative": words[1]}
        if words[0] in ("loss", "answers"):
            return {"kind": words[0]}
        return {"kind": "log_prob", "token": words[0]}

    @property
    def words(self) -> int:
        return -1

    @property
    def example(self) -> str:
        return '" Mary" " John"|answers|loss|TOKEN'
