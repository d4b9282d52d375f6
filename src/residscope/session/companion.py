"""The companion: the prompt beside the live one, which it is compared with and patched from."""

from dataclasses import replace
from typing import Any

from pydantic import Field

from residscope.errors import ModelNotFound, NotFound
from residscope.fields.base import Spec
from residscope.fields.prompts import MOST_TEXT
from residscope.session.state import Change, State
from residscope.world.fitted import names_in
from residscope.world.session_world import need_model
from residscope.world.values import Companion


class SetCompanion(Spec):
    """The prompt to compare with and to patch from; None: none."""

    text: str | None = Field(default=None, max_length=MOST_TEXT)
    bos: bool | None = None


def set_companion(state: State, args: SetCompanion) -> Change[None]:
    if args.text is None:
        return replace(state, companion=None), None
    if state.prompt is None:
        raise ModelNotFound("there is no prompt to stand beside yet", fix="set a prompt first")
    companion = Companion.of(need_model(state.model).prompt(args.text, bos=args.bos), state.prompt)
    return replace(state, companion=companion), None


def swap_companion(state: State, args: Any) -> Change[None]:
    """The companion becomes the prompt, and the prompt its companion."""
    if state.companion is None or state.prompt is None:
        raise NotFound("there is no companion to change places with", fix="write one first")
    prompt, companion = state.companion.prompt, state.prompt
    prompt = replace(prompt, names=names_in(prompt.ids, state.probes.values()))
    selection = (state.selection[0], len(prompt.tokens) - 1)
    beside = Companion.of(companion, prompt)
    return replace(state, prompt=prompt, companion=beside, compared=None, selection=selection), None
