"""A link: what it would bring and take, and prompt, companion, answers and edits of it as one step of the history."""

from dataclasses import replace
from typing import Annotated, Any, Literal, TypedDict

from pydantic import Field

from residscope.errors import ErrorBody, ResidscopeError
from residscope.fields.base import Spec
from residscope.fields.prompts import MOST_TEXT
from residscope.session.chat import SetChat, set_chat
from residscope.session.companion import SetCompanion, set_companion
from residscope.session.editing import MOST_EDITS, SetEdits, set_edits
from residscope.session.history import standing
from residscope.session.prompts import SetMetric, SetPrompt, SetTokens, set_metric, set_prompt, set_tokens
from residscope.session.settle import EXAMPLE, SHORT_EXAMPLE
from residscope.session.state import MOST_UNDO, Change, State
from residscope.views.view import Plain
from residscope.world.session_world import need_model
from residscope.world.stack import check
from residscope.world.values import Companion

Part = Annotated[str, Plain(Literal["prompt", "companion", "answers", "edits"])]


class OpenLink(Spec):
    """hash: of the model that the link was made with, on which alone its token ids and its conversation count."""

    hash: str = Field(max_length=200)
    prompt: str = Field(max_length=MOST_TEXT)
    bos: bool | None = None
    ids: list[int] | None = Field(default=None, min_length=1, max_length=MOST_TEXT)
    chat: SetChat | None = None
    companion: SetCompanion | None = None
    metric: SetMetric | None = None
    edits: list[Any] = Field(default=[], max_length=MOST_EDITS)


class LeftOut(TypedDict):
    """A part of a link that cannot be had here, and why."""

    part: Part
    index: Annotated[int, "Of an edit, in the link."]
    error: ErrorBody


class OpenedLink(TypedDict):
    left_out: list[LeftOut]
    lost: Annotated[list[Part], "What somebody had set, of which the link leaves nothing."]


class ReadLink(OpenedLink):
    """A link before it is opened."""

    edits: Annotated[list[str], "In words, those that can be had here."]


def open_link(state: State, args: OpenLink) -> Change[OpenedLink]:
    """Raises what refuses the prompt: the rest is of that. Other parts that cannot be had are left out."""
    past = (*state.past, standing(state))[-MOST_UNDO:]
    new = _with_prompt(state, args)
    left_out: list[LeftOut] = []
    new = replace(new, companion=None, metric=None)
    try:
        new, _ = set_companion(new, args.companion or SetCompanion())
    except ResidscopeError as error:
        left_out.append({"part": "companion", "index": 0, "error": error.to_dict()})
    try:
        new, _ = set_metric(new, args.metric or SetMetric())
    except ResidscopeError as error:
        left_out.append({"part": "answers", "index": 0, "error": error.to_dict()})
    new, found = set_edits(new, SetEdits(edits=args.edits, skip_refused=True))
    left_out += [{"part": "edits", **refused} for refused in (found or {"refused": []})["refused"]]
    answer: OpenedLink = {"left_out": left_out, "lost": _lost(state, new)}
    if (new.prompt, new.companion, new.metric) == (state.prompt, state.companion, state.metric) and _bare(new) == _bare(
        state
    ):
        return state, answer  # it is what stands: nothing to undo, nobody to tell
    return replace(new, past=past, future=(), links=state.links + 1), answer


def read_link(state: State, args: OpenLink) -> ReadLink:
    """Raises what `open_link` does."""
    new, answer = open_link(state, args)
    assert new.prompt is not None
    world, n_pos = new.world(), len(new.prompt.tokens)
    labels = [check(spec, world, n_pos)[0] for spec in new.edits]
    return {**answer, "edits": labels}


def _with_prompt(state: State, args: OpenLink) -> State:
    loaded = need_model(state.model)
    same = args.hash == loaded.model.hash
    if args.chat is not None and same and loaded.template is not None:
        return set_chat(state, args.chat)[0]
    if args.ids is not None and same:
        return set_tokens(state, SetTokens(ids=args.ids))[0]
    return set_prompt(state, SetPrompt(text=args.prompt, bos=args.bos))[0]


def _lost(old: State, new: State) -> list[Part]:
    def beside(companion: Companion | None) -> tuple[int, ...]:
        return () if companion is None else companion.prompt.ids

    assert new.prompt is not None
    typed = old.prompt is not None and old.prompt.text not in (EXAMPLE, SHORT_EXAMPLE)
    chosen = old.metric is not None and old.metric.chosen
    goes: dict[Part, bool] = {
        "prompt": typed and old.prompt is not None and old.prompt.ids != new.prompt.ids,
        "companion": old.companion is not None and beside(old.companion) != beside(new.companion),
        "answers": chosen and old.metric != new.metric,
        "edits": bool(old.edits) and _bare(old) != _bare(new),
    }
    return [part for part, lost in goes.items() if lost]


def _bare(state: State) -> list[dict[str, Any]]:
    return [spec.model_dump(exclude={"id"}) for spec in state.edits]
