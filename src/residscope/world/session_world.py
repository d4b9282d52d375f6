"""What plain values mean in a session: its model, its live prompt, and everything that has a name in it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from residscope import tasks
from residscope.corpus.drawn import draw_prompts
from residscope.corpus.text import BUILT_IN, WRITTEN, Source, is_built_in, typed
from residscope.declare import EditSpec
from residscope.directions import Dictionary, Direction, logit_diff, unembedding
from residscope.edits.sources import RunOf
from residscope.engine.model import Model
from residscope.engine.protocols import whole
from residscope.errors import CorpusError, ModelNotFound, NotFound, UnknownPosition, ZeroDirection
from residscope.fields.directions import AnyDirection, LogitDiffRef, MixRef, PcaRef, SavedRef, TokenRef
from residscope.fields.metrics import AnswersMetric, LiveMetric, LogitDiffMetric, LogProbMetric, LossMetric
from residscope.fields.prompts import (
    CompanionPrompt,
    DrawnPrompts,
    LivePrompt,
    NamedPrompts,
    ProbePrompts,
    TypedPrompts,
)
from residscope.fields.sources import CompanionSource, ItemSource, ModelSource, PromptSource, RunSource
from residscope.fields.tasks import FileData, TaskData
from residscope.fields.texts import HubText, TypedText
from residscope.metrics import log_prob, loss
from residscope.metrics import logit_diff as logit_difference
from residscope.model.prompts import PromptSet
from residscope.probes.probe_map import ProbeMap
from residscope.world.fitted import Fitted, find_map, find_probe
from residscope.world.limits import OWN, Limits
from residscope.world.loaded import Loaded
from residscope.world.mixing import resolve_mix, saved_direction
from residscope.world.stack import make, parse_edits

if TYPE_CHECKING:
    from residscope.shelf.items import ItemShelf
    from residscope.world.values import Metric, Prompt, Run


def need_model(loaded: Loaded | None) -> Loaded:
    if loaded is None:
        raise ModelNotFound("no model is loaded yet", fix="wait until it is, or choose one")
    return loaded


@dataclass(frozen=True, eq=False)
class SessionWorld:
    """The `World` of one state: `prompt` is the live one, or another that edits are to be made for."""

    loaded: Loaded
    prompt: "Prompt | None" = None
    shown: "Metric | None" = None
    directions: Mapping[str, Direction] = field(default_factory=dict)
    fitted: Mapping[str, Fitted] = field(default_factory=dict)
    runs: "tuple[Run, ...]" = ()
    stack: tuple[EditSpec, ...] = ()
    shelf: "ItemShelf | None" = None
    held: Mapping[str, Any] = field(default_factory=dict)
    companion: "Prompt | None" = None
    second: Loaded | None = None
    limits: Limits = OWN

    @property
    def model(self) -> Model:
        return self.loaded.model

    def on(self, prompt: "Prompt") -> "SessionWorld":
        """The same with another prompt."""
        return replace(self, prompt=prompt)

    def position(self, name: str) -> int:
        prompt = self._prompt()
        if name not in prompt.names:
            raise UnknownPosition(
                "the prompt has no position of that name",
                received=repr(name),
                allowed=", ".join(prompt.names) or "none: it was typed by hand; say the number",
            )
        return prompt.names[name]

    def prompts(self, ref: Any) -> Any:
        """Prompts as `model.run` takes them. Raises NotFound, TaskError, CorpusError, PromptError."""
        match ref:
            case LivePrompt():
                return [[*self._prompt().ids]]
            case CompanionPrompt():
                return [[*self.beside().ids]]
            case TypedPrompts(ids=ids) if ids is not None:
                return [[*self.loaded.prompt_of(one).ids] for one in ids]
            case TypedPrompts(texts=texts, bos=bos):
                return list(texts) if bos is None else [[*self.loaded.prompt(text, bos=bos).ids] for text in texts]
            case TaskData() | FileData():
                return make_prompts(self.model, ref)
            case DrawnPrompts():
                return draw_prompts(self.model, self.text(ref.text), ref.n, length=ref.length, seed=ref.seed)
            case NamedPrompts():
                return self.item(ref.name, "prompts")
            case ProbePrompts():
                return self.probe_map(ref.probe).part(ref.part)
            case _:
                raise TypeError(f"no prompts: {ref!r}")

    def source(self, ref: Any) -> Any:
        """Raises NotFound, and what the edits of a run refuse."""
        match ref:
            case PromptSource():
                prompt = self.prompt_of(ref)
                edits = self.on(prompt).edits(ref.edits)
                return RunOf(tuple(prompt.ids), edits) if edits else [[*prompt.ids]]
            case RunSource():
                run = self.run(ref.run)
                other = (lambda: self.other(run.of)) if run.of else None
                return RunOf(tuple(run.prompt.ids), tuple(self.on(run.prompt).made(run.active)), other)
            case ModelSource():
                prompt = self.prompt_of(ref)
                return RunOf(tuple(prompt.ids), self.on(prompt).edits(ref.edits), lambda: self.other(ref.model))
            case ItemSource():
                return self.item(ref.name, "recording")
            case CompanionSource():
                return [[*self.beside().ids]]
            case _:
                raise TypeError(f"no source: {ref!r}")

    def prompt_of(self, ref: PromptSource | ModelSource) -> "Prompt":
        """A source's prompt, the live one where it says none. Raises PromptError, ModelNotFound."""
        if ref.ids is not None:
            return self.loaded.prompt_of(ref.ids)
        return self._prompt() if ref.text is None else self.loaded.prompt(ref.text, bos=ref.bos)

    def given(self, name: str) -> Any:
        """An edit that code gave. Raises NotFound."""
        if name not in self.held:
            raise NotFound(
                "the edit was made by code, and is no longer held", received=name, fix="set it again from code"
            )
        return whole(self.held[name])

    def run(self, id: str) -> "Run":
        found = next((run for run in self.runs if run.id == id), None)
        if found is None:
            known = f"{self.runs[0].id} to {self.runs[-1].id}" if self.runs else "none yet"
            raise NotFound("that run is no longer held, or never was", received=id[:64], allowed=f"runs {known}")
        return found

    def direction(self, ref: AnyDirection) -> Direction:
        """The direction a reference names.

        Raises:
            SiteError, DirectionError, WrongWidth, ZeroDirection, UnknownToken, NotFound.
        """
        match ref:
            case PcaRef() | MixRef():
                return resolve_mix(ref, self.loaded, self.directions)
            case LogitDiffRef():
                positive, negative = self.loaded.token(ref.positive), self.loaded.token(ref.negative)
                if positive.id == negative.id:
                    raise ZeroDirection(
                        "the difference of a token with itself has no direction", received=repr(ref.positive)
                    )
                return logit_diff(self.model, positive.id, negative.id)
            case TokenRef():
                return unembedding(self.model, self.loaded.token(ref.token).id)
            case SavedRef():
                if ref.name not in self.directions and self.shelf is not None and ref.name in self.shelf.items:
                    return self.item(ref.name, "direction")
                return saved_direction(ref.name, self.directions)

    def dictionary(self, id: str) -> Dictionary:
        """Raises NotFound."""
        if id not in self.loaded.dictionaries and self.shelf is not None and id in self.shelf.items:
            return self.item(id, "dictionary")
        return self.loaded.dictionary(id)

    def probe(self, name: str) -> Any:
        """Raises NotFound."""
        return find_probe(name, self.fitted).probe

    def probe_map(self, name: str) -> ProbeMap:
        """A probe with its prompts. Raises NotFound."""
        return find_map(name, self.fitted)[1]

    def text(self, ref: Any) -> Source:
        return source_of(ref)

    def place(self, source: str) -> str:
        """Raises OwnersAlone."""
        return self.limits.place(source)

    def endpoint(self, ref: Any) -> Any:
        """Raises OwnersAlone, NoEndpoint."""
        return self.limits.endpoint(ref)

    def other(self, name: str) -> Model:
        """A model to lay beside this one: the session's second, or one that is loaded for it. Raises ModelError, OtherModel."""
        if self.second is not None and self.second.source == name:
            return self.second.model
        from residscope.world.others import other_model

        return other_model(name, self.model)

    def metric(self, ref: Any) -> Any:
        """Raises NotFound where there is no live metric, UnknownToken."""
        match ref:
            case LiveMetric():
                if self.shown is None:
                    raise NotFound("no metric is chosen yet", fix="name the two answers")
                return logit_difference(self.shown.positive.id, self.shown.negative.id)
            case LogitDiffMetric():
                return logit_difference(self.loaded.token(ref.positive).id, self.loaded.token(ref.negative).id)
            case LogProbMetric():
                return log_prob(self.loaded.token(ref.token).id)
            case AnswersMetric():
                return logit_difference()
            case LossMetric():
                return loss()
            case _:
                raise TypeError(f"no metric: {ref!r}")

    def made(self, specs: Iterable[EditSpec]) -> list[Any]:
        """The engine's edits for the live prompt. Raises what `stack.make` does."""
        n_pos = None if self.prompt is None else len(self.prompt.tokens)
        return [make(spec, self, n_pos) for spec in specs]

    def edits(self, ref: Any) -> tuple[Any, ...]:
        if ref == "live":
            return tuple(self.made(self.stack))
        return tuple(make(spec, self) for spec in parse_edits(ref))

    def item(self, name: str, kind: str) -> Any:
        """An item of the shelf. Raises NotFound where it is not there, or of another kind."""
        kept = None if self.shelf is None else self.shelf.items.get(name)
        if kept is None or kept.item.kind != kind:
            known = [] if self.shelf is None else [n for n, k in self.shelf.items.items() if k.item.kind == kind]
            raise NotFound(
                f"no {kind} of that name is on the shelf", received=name, allowed=", ".join(known) or "none is"
            )
        return kept.item

    def beside(self) -> "Prompt":
        """The companion. Raises NotFound where there is none."""
        if self.companion is None:
            raise NotFound("no companion stands beside the prompt", fix="write one, or say the prompt itself")
        return self.companion

    def _prompt(self) -> "Prompt":
        if self.prompt is None:
            raise ModelNotFound("there is no prompt yet", fix="set a prompt first")
        return self.prompt


def source_of(text: Any) -> Source:
    """The corpus. Raises CorpusError: no such built-in text, or a line of JSON without text."""
    if isinstance(text, TypedText):
        return typed(text.name, text.text)
    if isinstance(text, HubText):
        return f"hub:{text.name}" + ("" if text.field == "text" else f"#{text.field}")
    if not is_built_in(text.name):  # never a path: a page does not read the server's files
        allowed = ", ".join((*BUILT_IN, WRITTEN))
        raise CorpusError("there is no built-in text of that name", received=text.name, allowed=allowed)
    return str(text.name)


_latest: "WeakKeyDictionary[Model, tuple[TaskData | FileData, PromptSet]]" = WeakKeyDictionary()


def make_prompts(model: Model, data: TaskData | FileData) -> PromptSet:
    """The labelled prompts; those of a model that were asked for last are not made again. Raises BadTable, TaskError."""
    latest = _latest.get(model)
    if latest is None or latest[0] != data:
        latest = _latest[model] = (data, _made(model, data))
    return latest[1]


def _made(model: Model, data: TaskData | FileData) -> PromptSet:
    if isinstance(data, FileData):
        return tasks.from_text(model, data.text, name=data.name)
    return tasks.find_task(data.task)(model, data.n, seed=data.seed, prefixes=data.prefixes, partner=data.partner)
