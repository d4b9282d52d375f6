"""The prompt, as text or as token ids, and the answers that its logits are measured by."""

from dataclasses import replace

from pydantic import Field

from residscope.declare import shorten
from residscope.errors import MalformedJSON
from residscope.fields.base import Spec
from residscope.fields.prompts import MOST_TEXT
from residscope.session.state import Change, State
from residscope.world.fitted import names_in
from residscope.world.session_world import need_model
from residscope.world.values import Metric, Prompt


class SetPrompt(Spec):
    text: str = Field(max_length=MOST_TEXT)
    bos: bool | None = None


class SetTokens(Spec):
    """The prompt by its token ids, kept as they are."""

    ids: list[int] = Field(min_length=1, max_length=MOST_TEXT)


class SetMetric(Spec):
    positive: str | None = None
    negative: str | None = None


def set_prompt(state: State, args: SetPrompt) -> Change[None]:
    return with_prompt(state, need_model(state.model).prompt(args.text, bos=args.bos)), None


def set_tokens(state: State, args: SetTokens) -> Change[None]:
    return with_prompt(state, need_model(state.model).prompt_of(args.ids)), None


def with_prompt(state: State, prompt: Prompt) -> State:
    """The state on another prompt, its last token selected."""
    prompt = replace(prompt, names=names_in(prompt.ids, state.probes.values()))
    layer = state.selection[0] if state.prompt else need_model(state.model).model.n_layers - 1
    return replace(state, prompt=prompt, compared=None, comparing=False, selection=(layer, len(prompt.tokens) - 1))


def set_metric(state: State, args: SetMetric) -> Change[None]:
    if args.positive is None and args.negative is None:
        return replace(state, metric=None), None
    if args.positive is None or args.negative is None:
        raise MalformedJSON("a metric needs both tokens, or neither", received=shorten(args.model_dump()))
    loaded = need_model(state.model)
    return replace(state, metric=Metric(loaded.token(args.positive), loaded.token(args.negative), chosen=True)), None
