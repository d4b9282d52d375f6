"""What a session names as Python: its prompts, runs, edits, metric, directions, dictionaries and probes."""

import re
from typing import Any

from residscope.declare import EditSpec
from residscope.directions import Direction
from residscope.errors import NotFound, UnknownToken
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
from residscope.manifest import find_method
from residscope.model.token_text import TEXT
from residscope.tasks import find_task
from residscope.world.fitted import find_probe
from residscope.world.given import code_of
from residscope.world.mixing import Term, alone, mean_source, one_dictionary, terms_of
from residscope.world.session_world import SessionWorld, source_of
from residscope.world.stack import kind_of, parse_edits
from residscope.world.values import Metric, Prompt, Tok

MOST_TYPED = 4000  # characters of typed text that the copied Python holds


class SessionWriter:
    """Says what a `SessionWorld` resolves as Python. `whole` puts the lines it needs before some others."""

    def __init__(self, world: SessionWorld) -> None:
        self.world = world
        self.imports: dict[str, None] = {}
        self.lines: dict[str, None] = {}
        self.names: dict[str, str] = {}
        self.others: dict[str, str] = {}
        self.prompt_name = "prompt"

    def whole(self, body: list[str]) -> str:
        """Imports, the model, what the lines refer to, and the lines."""
        loaded = self.world.loaded
        head = [
            "import residscope as rs",
            "from residscope import directions, edits, metrics",
            *self.imports,
            "",
            f"model = rs.load({(loaded.source or loaded.model.name)!r}{self._options()})",
            *self.lines,
        ]
        code = "\n".join([*head, *body]) + "\n"
        standard = [f"import {name}\n" for name in ("dataclasses", "torch") if f"{name}." in code]
        return "".join(standard) + ("\n" if standard else "") + code

    def need(self, line: str) -> None:
        self.imports[line] = None

    def edit(self, spec: EditSpec) -> str:
        return kind_of(spec).code(spec, self)

    def given(self, name: str) -> str:
        return code_of(name, self.world.held)

    def edits(self, ref: Any) -> str:
        specs = self.world.stack if ref == "live" else parse_edits(ref)
        return f"[{', '.join(map(self.edit, specs))}]"

    def position(self, name: str) -> int:
        return self.world.position(name)

    def prompts(self, ref: Any) -> str:
        match ref:
            case LivePrompt():
                return self._prompt(self.world.prompt)
            case CompanionPrompt():
                return self.beside(self.world.beside())
            case TypedPrompts(ids=ids) if ids is not None:
                return repr(ids)
            case TypedPrompts(texts=texts, bos=None):
                return repr(texts[0] if len(texts) == 1 else texts)
            case TypedPrompts(texts=texts, bos=bos):
                return f"[{', '.join(f'model.tokens({text!r}, bos={bos})[0].tolist()' for text in texts)}]"
            case TaskData():
                return find_task(ref.task).code(ref.n, self, seed=ref.seed, prefixes=ref.prefixes, partner=ref.partner)
            case FileData():
                return f"rs.tasks.from_file(model, {ref.name!r})"
            case DrawnPrompts():
                return f"rs.draw_prompts(model, {self.text(ref.text)}, {ref.n}, length={ref.length}, seed={ref.seed})"
            case NamedPrompts():
                return f"rs.load_item({f'{ref.name}.safetensors'!r})"
            case ProbePrompts():
                return self._probe_prompts(ref)
            case _:
                raise TypeError(f"no prompts: {ref!r}")

    def source(self, ref: Any) -> str:
        match ref:
            case PromptSource():
                if not ref.edits and ref.bos is None and ref.ids is None:
                    return repr(ref.text)
                return self.run_of(self.world.prompt_of(ref), parse_edits(ref.edits))
            case RunSource():
                run = self.world.run(ref.run)
                return self.run_of(run.prompt, run.active, on=self.other(run.of) if run.of else "model")
            case ModelSource():
                return self.run_of(self.world.prompt_of(ref), parse_edits(ref.edits), on=self.other(ref.model))
            case ItemSource():
                return f"rs.load_item({f'{ref.name}.safetensors'!r}, model)"
            case CompanionSource():
                return self.beside(self.world.beside())
            case _:
                raise TypeError(f"no source: {ref!r}")

    def other(self, name: str) -> str:
        """A variable for another model, loaded as this one is."""
        own = f"other{len(self.others) + 1 if self.others and name not in self.others else ''}"
        variable = self.others.setdefault(name, own)
        self.lines[f"{variable} = rs.load({name!r}{self._options()})"] = None
        return variable

    def _options(self) -> str:
        options = self.world.loaded.options.items()
        return "".join(f", {name}={_option(value)}" for name, value in options if value is not None)

    def direction(self, ref: AnyDirection) -> str:
        match ref:
            case PcaRef() | MixRef():
                return self._mix(ref)
            case LogitDiffRef():
                return f"directions.logit_diff(model, {self.token(ref.positive)}, {self.token(ref.negative)})"
            case TokenRef():
                return f"directions.unembedding(model, {self.token(ref.token)})"
            case SavedRef():
                if ref.name not in self.world.directions:
                    return self.item(ref.name)
                return saved_code(self.world.directions[ref.name])

    def dictionary(self, id: str) -> str:
        id = self.world.loaded.id_of(id)
        if id not in self.world.loaded.code:
            return self.item(id)
        variable = re.sub(r"\W+", "_", id)
        self.lines[f"{variable} = {self.world.loaded.code[id]}"] = None
        return variable

    def probe(self, name: str) -> str:
        """A variable for each probe, fitted again from its data where these are known: fits are the same on every run."""
        try:
            found = find_probe(name, self.world.fitted)
        except NotFound:
            return self.item(name)
        if found.recipe is None:
            return self.item(found.name) + ("" if found.data is None else ".probe")
        if (name := found.id) not in self.names:
            variable = "probe" if not self.names else f"probe_{len(self.names) + 1}"
            fit = find_method("fit-probe")
            told = {argument.wire for argument in fit.arguments}
            plain = fit.check({key: value for key, value in found.args.items() if key in told})
            said = {name: repr(value) for name, value in fit.said(plain).items() if name != "data"}
            where = ", ".join(f"{name}={value}" for name, value in said.items())
            self.lines |= dict.fromkeys(
                (
                    f"{variable}_data = {self.prompts(dict(plain)['data'])}",
                    f"{variable} = rs.fit_probe(model, {variable}_data, {where})",
                    f'# {variable}.save("{variable}.safetensors") keeps it: rs.Probe.load("{variable}.safetensors")',
                )
            )
            self.names[name] = variable
        return self.names[name]

    def _probe_prompts(self, ref: ProbePrompts) -> str:
        """The prompts of a probe, split as its fit splits them; of one that came as a file, that file's."""
        found = find_probe(ref.probe, self.world.fitted)
        if found.recipe is None:
            return f"{self.item(found.name)}.part({ref.part!r})"
        data = f"{self.probe(found.id)}_data"
        if ref.part == "all":
            return data
        seed = f"seed={found.args['seed']}, " if found.args.get("seed") else ""
        return f"{data}.split({seed}by={found.probe.label!r})[{int(ref.part == 'held_out')}]"

    def item(self, name: str) -> str:
        """An item of the shelf, from the file that it was saved to."""
        return f"rs.load_item({f'{name}.safetensors'!r})"

    def text(self, ref: Any) -> str:
        """A long typed text is the file that it was pasted from."""
        if isinstance(ref, TypedText):
            return repr(source_of(ref) if len(ref.text) <= MOST_TYPED else ref.name)
        if isinstance(ref, HubText):
            return repr(source_of(ref))
        return repr(ref.name)

    def metric(self, ref: Any) -> str:
        match ref:
            case LiveMetric():
                assert self.world.shown is not None
                return self.shown_metric(self.world.shown)
            case LogitDiffMetric():
                return f"metrics.logit_diff({self.token(ref.positive)}, {self.token(ref.negative)})"
            case LogProbMetric():
                return f"metrics.log_prob({self.token(ref.token)})"
            case AnswersMetric():
                return "metrics.logit_diff()"
            case LossMetric():
                return "metrics.loss()"
            case _:
                raise TypeError(f"no metric: {ref!r}")

    def shown_metric(self, metric: Metric) -> str:
        return f"metrics.logit_diff({self._token(metric.positive)}, {self._token(metric.negative)})"

    def token(self, text: str) -> str:
        """A token by its text; by its id where that is no text, as of bytes, or where the text is none's."""
        try:
            return self._token(self.world.loaded.token(text))
        except UnknownToken:
            return repr(text)

    def _token(self, tok: Tok) -> str:
        model = self.world.model
        return repr(tok.text) if model.token_kinds([tok.id]) == [TEXT] else str(tok.id)

    def tokens(self, prompt: Prompt) -> str:
        """A prompt's text, or its conversation; its ids where the text alone is other tokens."""
        if prompt.chat is not None:
            return f"model.chat({prompt.chat.messages!r}{'' if prompt.chat.answer else ', answer=False'})"
        return (
            repr(prompt.text)
            if self.world.loaded.prompt(prompt.text, bos=prompt.bos).ids == prompt.ids
            else repr([*prompt.ids])
        )

    def _prompt(self, prompt: Prompt | None) -> str:
        assert prompt is not None
        return self.prompt_name if prompt.bos is None else f"model.tokens({self.prompt_name}, bos={prompt.bos})"

    def beside(self, prompt: Prompt) -> str:
        """A companion, as what a run takes."""
        return self.tokens(prompt) if prompt.bos is None or prompt.chat is not None else repr([*prompt.ids])

    def run_of(self, prompt: Prompt, active: tuple[EditSpec, ...], capture: str = "", *, on: str = "model") -> str:
        """A run of its own; `capture`: the variable that says what it records, the stream unless said. on: the model's."""
        bos = prompt.bos_said
        inner = SessionWriter(self.world.on(prompt))
        inner.lines, inner.imports, inner.names, inner.others = self.lines, self.imports, self.names, self.others
        inner.prompt_name = inner.tokens(prompt)
        several = f", edits=[{', '.join(inner.edit(spec) for spec in active)}]" if active else ""
        where = f", {capture}" if capture else ""
        return f"{on}.run({self.tokens(prompt)}{where}{several}{bos})"

    def _mix(self, ref: PcaRef | MixRef) -> str:
        loaded, directions = self.world.loaded, self.world.directions
        terms = terms_of(ref)
        names = [self.term(term) for term in terms]
        if alone(ref):
            return f"{'-' if terms[0].weight < 0 else ''}{names[0]}"
        given = [f"[{', '.join(f'({t.weight!r}, {name})' for t, name in zip(terms, names, strict=True))}]"]
        if isinstance(ref, MixRef) and ref.site is not None:
            given.append(f"site={ref.site!r}")
        knower = mean_source(ref, loaded, directions)
        if knower is not None:
            given.append(f"mean={self.dictionary(knower)}.mean")
        mix = f"rs.mix({', '.join(given)})"
        one, scale = one_dictionary(terms, loaded), self.world.direction(ref).scale
        return mix if one is None or len(terms) == 1 else f"dataclasses.replace({mix}, scale={scale!r})"

    def term(self, term: Term) -> str:
        if term.index is None:
            return saved_code(self.world.directions[term.source])
        return f"{self.dictionary(term.source)}[{term.index}]"


def _option(value: Any) -> str:
    text = str(value)
    return text if text.startswith("torch.") else repr(text)


def saved_code(held: Direction) -> str:
    vectors = f"torch.tensor({held.read.tolist()}), torch.tensor({held.write.tolist()})"
    more = {"offset": held.offset, "scale": held.scale, "space": held.space, "head": held.head}
    usual = {"offset": 0.0, "scale": None, "space": "raw", "head": None}
    given = [f"{name}={value!r}" for name, value in more.items() if value != usual[name]]
    return f"directions.Direction({', '.join([vectors, repr(held.site), f'name={held.name!r}', *given])})"
