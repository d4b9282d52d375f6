"""Saliency: how far the metric moves with each token's embedding, by its gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import NoGradient, PromptError
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, TokenStrip, View

EMBED = Site("embed")


@dataclass(frozen=True, eq=False, repr=False)
class Saliency(Report):
    """The metric's gradient in each token's embedding.

    norm[pos]: its length, the most that the metric changes per unit by which the embedding moves. times_input[pos]: its product
    with the embedding, what taking the embedding to zero costs the metric to first order.
    """

    kind: ClassVar[str] = "report:saliency"
    main: ClassVar[str] = "times_input"
    prompt: tuple[str, ...]
    norm: Result
    times_input: Result
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """Both on the text."""
        return Grid(
            [
                TokenStrip(
                    list(self.prompt), self.norm.values, title="Length of the gradient", unit=self.norm.unit,
                    scale="sequential",
                ),
                TokenStrip(
                    list(self.prompt), self.times_input.values, title="Gradient × input", unit=self.times_input.unit,
                    note=f"Not exact: {self.times_input.exact}.",
                ),
            ],
            columns=1,
            title="Saliency",
        )  # fmt: skip

    def __repr__(self) -> str:
        at = int(self.norm.values.argmax())
        return f"Saliency({len(self.prompt)} tokens; the longest gradient at {at}, {self.prompt[at]!r})"


def _refuse(model: Model, **_: Any) -> None:
    model.require_exact_weights("gradients")


def _price(model: Model, *, prompt: Prompt, **_: Any) -> float:
    """Tokens through the whole model: a forward with its backward."""
    return 4.0 * sum(model.batch(prompt).lengths)


@method("saliency", title="Saliency of each token", group="attribution", tokens=_price, refuse=_refuse)
def saliency(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    metric: Annotated[Readout, fields.metric()],
    *,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    progress: Progress = None,
    cancel: Cancel = None,
) -> Saliency:
    """The metric's gradient g in the embedding x of each input token, as its length and times the embedding.

        norm(pos) = |g_pos|        times_input(pos) = x_pos . g_pos

    x is the token's embedding as it is added to the stream (`embed`), without that of its position. A gradient is of small
    changes; how much of the metric a token accounts for, `rs.integrated_gradients` tells, and sums to it.

        rs.saliency(model, "The Eiffel Tower is in", rs.logit(" Paris")).norm

    Raises:
        PromptError: several prompts. NoGradient: the metric has none. QuantisedModel, Cancelled.

    Simonyan et al. 2013 (1312.6034); gradient x input: Shrikumar et al. 2016 (1605.01713); Li et al. 2016 (1506.01066) on text.
    """
    _refuse(model)
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise PromptError("saliency is of one prompt", received=f"{len(batch)} prompts", fix="ask for each")
    with stage("Taking gradients", 2, progress, cancel) as tell:
        plan = sweep(model, prompt, [()], metric, tied(background, prompt))
        tell(1)
        found = plan.gradients([EMBED])
        tell(2)
    x, g = (part[EMBED][0].double().cpu() for part in (found.values, found.slopes))
    if bool(g.isnan().any()):
        raise NoGradient("the metric has no gradient here", received=type(metric).__name__)
    tokens, unit = model.token_texts(batch.ids[0].tolist()), unit_of(metric)
    about = {**model.provenance, "method": "saliency", "metric": label_of(metric, model)}

    def result(values: Float[Tensor, " pos"], name: str, unit: str, exact: bool | str = True) -> Result:
        coords = {"pos": tuple(range(len(values))), "token": tuple(tokens)}
        said: dict[str, Any] = {"name": f"{name} of the {label_of(metric, model)}", "unit": unit, "provenance": about}
        return Result(values, ("pos",), coords, {"token": "pos"}, exact=exact, **said)

    words = "the effect of taking the embedding to zero, to first order by one gradient"
    return Saliency(
        tuple(tokens),
        result(torch.linalg.vector_norm(g, dim=-1), "length of the gradient", f"{unit} per unit of the embedding"),
        result((x * g).sum(-1), "gradient x input", unit, words),
        about,
    )
