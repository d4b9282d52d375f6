"""What a session leaves on the disk, so that it goes on where it was when the server is started again."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from residscope.declare import EditSpec
from residscope.errors import ResidscopeError
from residscope.incoming import content, parsed
from residscope.session.beside import LOADING, Second
from residscope.session.state import State
from residscope.shelf.whole import set_aside, write_whole
from residscope.world.loaded import Loaded
from residscope.world.stack import parse_edits
from residscope.world.values import Chat, Companion, Metric, Prompt, Tok

VERSION = 1
WORDS = "The session's memory"


@dataclass(frozen=True)
class Memory:
    """Model, prompt, answers and edits of one session: a JSON file that is replaced whole, never written in place."""

    path: Path

    def read(self) -> tuple[Mapping[str, Any] | None, str | None]:
        """What was left, if anything; and a notice where it could not be read."""
        try:
            kept = parsed(content(self.path))
            if not isinstance(kept, dict) or kept.get("version") != VERSION or not isinstance(kept.get("model"), str):
                raise ValueError(f"not a session of version {VERSION}")
        except FileNotFoundError:
            return None, None
        except (OSError, ValueError) as error:
            return None, set_aside(self.path, WORDS, error)
        return kept, None

    def write(self, kept: Mapping[str, Any], *, durable: bool = True) -> None:
        """durable: as `replace_whole` has it. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, json.dumps(kept, ensure_ascii=False).encode(), durable=durable)


def left_by(state: State) -> dict[str, Any] | None:
    """What a state leaves behind: JSON. None while there is nothing to come back to. (A model that no name gives has its own.)"""
    if state.model is None or state.prompt is None:
        return None
    metric = state.metric if state.metric is not None and state.metric.chosen else None
    return {
        "version": VERSION,
        "model": state.model.source or state.model.model.name,
        "named": state.model.source is not None,
        "hash": state.model.model.hash,
        "prompt": _told(state.prompt),
        "chat": state.prompt.chat and {"messages": state.prompt.chat.turns, "answer": state.prompt.chat.answer},
        "companion": state.companion and _told(state.companion.prompt),
        "other": state.second.name or None,
        "metric": metric and [{"id": tok.id, "text": tok.text} for tok in (metric.positive, metric.negative)],
        "edits": (edits := [spec.model_dump(mode="json") for spec in state.edits]),
        "dictionaries": {id: state.model.dictionaries[id].hash for id in named_in(edits, state.model)},
    }


def named_in(edits: Any, loaded: Loaded) -> list[str]:
    """The dictionaries of a model that edits, as JSON, name by id."""
    asked: set[str] = set()

    def look(part: Any) -> None:
        if isinstance(part, Mapping):
            if part.get("kind") == "pca":
                asked.add(f"pca@{part.get('site')}")
            asked.add(str(part.get("dictionary")))
        for inner in part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ():
            look(inner)

    look(edits)
    return [id for id in loaded.dictionaries if id in asked]


def recall(state: State, kept: Mapping[str, Any]) -> State:
    """The state of a model just loaded, with what was left with it: a notice says what is back and what is not.

    Undoing takes the edits off. Nothing is taken from a file of another model.
    """
    loaded = state.model
    if loaded is None or (loaded.source or loaded.model.name) != kept["model"]:
        return state
    lost: list[str] = []
    with _or_lost("the prompt", lost):
        prompt = _prompt(loaded, kept["prompt"], kept)
        state = replace(state, prompt=prompt, selection=(state.selection[0], len(prompt.tokens) - 1))
    if (chat := kept.get("chat")) is not None and state.prompt is not None:
        with _or_lost("the conversation's roles", lost):
            turns = tuple((str(role), str(content)) for role, content in chat["messages"])
            again = loaded.conversation(Chat(turns, bool(chat["answer"])))
            state = replace(state, prompt=again if again.ids == state.prompt.ids else state.prompt)
    if (other := kept.get("companion")) is not None and state.prompt is not None:
        with _or_lost("the companion", lost):
            companion = Companion.of(_prompt(loaded, other, kept), state.prompt)
            state = replace(state, companion=companion)
    if isinstance(name := kept.get("other"), str) and name:
        state = replace(state, second=Second(name, LOADING, f"Loading {name}"))
    if kept.get("metric") is not None:
        with _or_lost("the answers", lost):
            positive, negative = (_token(loaded, tok, kept) for tok in kept["metric"])
            state = replace(state, metric=Metric(positive, negative, chosen=True))
    specs: tuple[EditSpec, ...] = ()
    left = kept.get("edits") or []
    if not isinstance(left, list):
        lost.append("the edits (they are no list)")
        left = []
    for place, raw in enumerate(left, 1):
        with _or_lost(f"edit {place}", lost):
            specs = parse_edits([*specs, raw])
    state = state.with_edits(specs)
    count = f"{len(specs)} edit{'s' * (len(specs) != 1)}"
    back = f"the prompt and {count} (undo takes them off)" if specs else "the prompt"
    said = f"Residscope was started again. Back from before: {back}."
    if kept.get("hash") != loaded.model.hash:
        said += " The model's weights are others than before, so numbers may differ."
    then = told if isinstance(told := kept.get("dictionaries"), Mapping) else {}
    edits = [spec.model_dump(mode="json") for spec in specs]
    others = [id for id in named_in(edits, loaded) if then.get(id) != loaded.dictionaries[id].hash]
    if others:
        said += f" {', '.join(others)}: not known to be what it was then, so directions of it may be others."
    if lost:
        said += f" Not back: {'; '.join(lost)}."
    return replace(state, notices=(*state.notices, said))


@contextlib.contextmanager
def _or_lost(what: str, lost: list[str]) -> Iterator[None]:
    """One part of what was left: where it cannot be had, it is named with the reason, and the rest goes on."""
    try:
        yield
    except ResidscopeError as error:
        lost.append(f"{what} ({error.failed})")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        lost.append(f"{what} (it is damaged: {error})")


def _told(prompt: Prompt) -> dict[str, Any]:
    ids = {"ids": [*prompt.ids]} if prompt.by_ids else {}
    return {"text": prompt.text, "bos": prompt.bos, **ids}


def _prompt(loaded: Loaded, told: Mapping[str, Any], kept: Mapping[str, Any]) -> Prompt:
    """A prompt as it was: by its tokens, where its text is not enough and the model is the same."""
    if told.get("ids") and kept.get("hash") == loaded.model.hash:
        return loaded.prompt_of([int(id) for id in told["ids"]])
    return loaded.prompt(told["text"], bos=told["bos"])


def _token(loaded: Loaded, kept: Mapping[str, Any], left: Mapping[str, Any]) -> Tok:
    """A token as it was: by its id while the model is the same, else by its text."""
    if left.get("hash") == loaded.model.hash:
        return Tok(loaded.model.token_id(int(kept["id"])), str(kept["text"]))
    return loaded.token(str(kept["text"]))
