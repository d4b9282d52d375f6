"""What is on screen as lines of Python that run as pasted and give its numbers."""

import re
from collections.abc import Mapping
from typing import Any

from residscope.directions import Direction
from residscope.session.build import resolve
from residscope.session.loaded import Loaded
from residscope.session.mixing import Term, alone, mean_source, one_dictionary, terms_of
from residscope.session.specs import (
    Ablate,
    DirectionRef,
    EditSpec,
    FileData,
    LogitDiffRef,
    Lrqp,
    MixRef,
    PcaRef,
    ProbeRecipe,
    ProjectOut,
    Scale,
    SetConcept,
    Steer,
    TokenRef,
)
from residscope.session.state import Metric, State, Tok


def python_code(state: State, loaded: Loaded, ref: DirectionRef | None) -> str:
    """The model, the prompt, the runs, the metric and, where one is shown, the direction."""
    lines = [
        "import residscope as rs",
        "from residscope import directions, edits, metrics",
        "",
        f"model = {_load(loaded)}",
        *_dictionaries(state, loaded, ref),
    ]
    runs = ["baseline"]
    if state.prompt is not None:
        bos = "" if state.prompt.bos is None else f", bos={state.prompt.bos}"
        lines += [f"prompt = {state.prompt.text!r}", f"baseline = model.run(prompt{bos})"]
        if state.active:
            lines += _probes(state)
            stack = [f"    {_edit(spec, state, loaded)}," for spec in state.active]
            lines += ["stack = [", *stack, "]", f"edited = model.run(prompt, edits=stack{bos})"]
            runs.append("edited")
        lines.append(f"print({', '.join(f'{run}.top(5)' for run in runs)}, sep='\\n')")
        if state.metric is not None:
            lines += [
                f"metric = {_metric(state.metric, loaded)}",
                f"print({', '.join(f'metric({run}).item()' for run in runs)})",
            ]
        if ref is not None:
            lines += [f"direction = {_direction(ref, state, loaded)}", f"print({runs[-1]}.project(direction))"]
    code = "\n".join(lines) + "\n"
    imports = [f"import {name}\n" for name in ("dataclasses", "math", "torch") if f"{name}." in code]
    return "".join(imports) + ("\n" if imports else "") + code


def _load(loaded: Loaded) -> str:
    options = "".join(f", {name}={_option(value)}" for name, value in loaded.options.items() if value is not None)
    return f"rs.load({(loaded.source or loaded.model.name)!r}{options})"


def _option(value: Any) -> str:
    text = str(value)
    return text if text.startswith("torch.") else repr(text)


def _metric(metric: Metric, loaded: Loaded) -> str:
    return f"metrics.logit_diff({_token(metric.positive, loaded)}, {_token(metric.negative, loaded)})"


def _token(tok: Tok, loaded: Loaded) -> str:
    """The token as text where that names it, else its id."""
    try:
        return repr(tok.text) if loaded.token(tok.text).id == tok.id else str(tok.id)
    except Exception:
        return str(tok.id)


def _edit(spec: EditSpec, state: State, loaded: Loaded) -> str:
    given: dict[str, str] = {}
    positional = [repr(spec.site)]
    match spec:
        case Ablate(to="mean"):
            assert state.prompt is not None
            given = {"to": "'mean'", "over": str(list(state.prompt.ids))}
        case Scale():
            positional.append(repr(spec.factor))
        case Steer():
            positional += [_direction(spec.direction, state, loaded), repr(spec.strength)]
            given = {"unit": repr(spec.unit)} if spec.unit != "norm" else {}
        case Lrqp():
            positional = [_probe_names(state)[spec.probe], repr(spec.to)]
            given = {"alpha": f"math.exp({spec.log_alpha!r})", "covariance": repr(spec.covariance)}
            return f"rs.lrqp({', '.join([*positional, *_given(given | _where(spec))])})"
        case SetConcept():
            positional = [_probe_names(state)[spec.probe], repr(spec.to)]
            given = {"dose": repr(spec.dose)} if spec.dose is not None and spec.method == "constant_dose" else {}
            return f"rs.concepts.{spec.method}({', '.join([*positional, *_given(given | _where(spec))])})"
        case ProjectOut():
            positional.append(_direction(spec.direction, state, loaded))
    return f"edits.{spec.kind}({', '.join([*positional, *_given(given | _where(spec))])})"


def _where(spec: EditSpec) -> dict[str, str]:
    named = ((name, getattr(spec, name)) for name in ("head", "kv_head", "neuron", "pos"))
    return {name: str(index) for name, index in named if index is not None}


def _given(given: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in given.items()]


def _probe_names(state: State) -> dict[str, str]:
    """A variable for each probe that the stack uses."""
    used = dict.fromkeys(spec.probe for spec in state.active if isinstance(spec, Lrqp | SetConcept))
    return {name: "probe" if i == 0 else f"probe_{i + 1}" for i, name in enumerate(used)}


def _probes(state: State) -> list[str]:
    """Each probe fitted again from its data; fits are the same on every run."""
    lines: list[str] = []
    for name, variable in _probe_names(state).items():
        recipe = state.probes[name].recipe
        where = f"site={recipe.site!r}, position={recipe.position!r}, label={recipe.label!r}"
        lines += [
            f"data = {_data(recipe)}",
            f"{variable} = rs.fit_probe(model, data, {where})",
            f'# {variable}.save("{variable}.safetensors"), and then rs.Probe.load("{variable}.safetensors"), saves the fit',
        ]
    return lines


def _data(recipe: ProbeRecipe) -> str:
    data = recipe.data
    if isinstance(data, FileData):
        return f"rs.tasks.from_file(model, {data.name!r})"
    return f"rs.tasks.{data.task}(model, n={data.n}, seed={data.seed}, prefixes={data.prefixes})"


def _direction(ref: DirectionRef, state: State, loaded: Loaded) -> str:
    match ref:
        case PcaRef() | MixRef():
            return _mix(ref, state, loaded)
        case LogitDiffRef():
            return f"directions.logit_diff(model, {ref.positive!r}, {ref.negative!r})"
        case TokenRef():
            return f"directions.unembedding(model, {ref.token!r})"
    return _saved(state.directions[ref.name])


def _mix(ref: PcaRef | MixRef, state: State, loaded: Loaded) -> str:
    terms = terms_of(ref)
    names = [_term(term, state) for term in terms]
    if alone(ref):
        return f"{'-' if terms[0].weight < 0 else ''}{names[0]}"
    given = [f"[{', '.join(f'({t.weight!r}, {name})' for t, name in zip(terms, names, strict=True))}]"]
    if isinstance(ref, MixRef) and ref.site is not None:
        given.append(f"site={ref.site!r}")
    knower = mean_source(ref, loaded, state.directions)
    if knower is not None:
        given.append(f"mean={_variable(knower)}.mean")
    mix = f"rs.mix({', '.join(given)})"
    one, scale = one_dictionary(terms, loaded), resolve(ref, loaded, state.directions).scale
    return mix if one is None or len(terms) == 1 else f"dataclasses.replace({mix}, scale={scale!r})"


def _term(term: Term, state: State) -> str:
    return _saved(state.directions[term.source]) if term.index is None else f"{_variable(term.source)}[{term.index}]"


def _saved(held: Direction) -> str:
    vectors = f"torch.tensor({held.read.tolist()}), torch.tensor({held.write.tolist()})"
    more = {"offset": held.offset, "scale": held.scale, "space": held.space, "head": held.head}
    usual = {"offset": 0.0, "scale": None, "space": "raw", "head": None}
    given = [f"{name}={value!r}" for name, value in more.items() if value != usual[name]]
    return f"directions.Direction({', '.join([vectors, repr(held.site), f'name={held.name!r}', *given])})"


def _variable(id: str) -> str:
    """A name for a dictionary: pca_resid_post_23."""
    return re.sub(r"\W+", "_", id)


def _dictionaries(state: State, loaded: Loaded, ref: DirectionRef | None) -> list[str]:
    """Each dictionary that the stack or the direction uses."""
    refs = [spec.direction for spec in state.active if isinstance(spec, Steer | ProjectOut)]
    mixes = [each for each in (*refs, ref) if isinstance(each, PcaRef | MixRef)]
    used = [term.source for mix in mixes for term in terms_of(mix) if term.index is not None]
    means = [knower for mix in mixes if (knower := mean_source(mix, loaded, state.directions))]
    return [f"{_variable(id)} = {loaded.code[id]}" for id in dict.fromkeys([*used, *means])]
