"""A conversation as the prompt: the model's own template is applied to it, and the prompt is what comes out."""

from typing import Annotated

from pydantic import Field

from residscope.fields.base import Spec
from residscope.fields.prompts import MOST_TEXT
from residscope.session.prompts import with_prompt
from residscope.session.state import Change, State
from residscope.world.session_world import need_model
from residscope.world.values import Chat

MOST_TURNS = 500


class Turn(Spec):
    role: str = Field(min_length=1, max_length=100)
    content: str = Field(max_length=MOST_TEXT)


class SetChat(Spec):
    """answer: opens the assistant's turn."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MOST_TURNS)]
    answer: bool = True


def set_chat(state: State, args: SetChat) -> Change[None]:
    chat = Chat(tuple((turn.role, turn.content) for turn in args.messages), args.answer)
    return with_prompt(state, need_model(state.model).conversation(chat)), None
