"""What is on screen as lines of Python that run as pasted and give its numbers."""

from typing import Any

from residscope.session.build import resolve
from residscope.session.loaded import Loaded
from residscope.session.specs import (
    Ablate,
    DirectionRef,
    EditSpec,
    LogitDiffRef,
    PcaRef,
    ProjectOut,
    Scale,
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
    ]
    runs = ["baseline"]
    if state.prompt is not None:
        bos = "" if state.prompt.bos is None else f", bos={state.prompt.bos}"
        lines += [f"prompt = {state.prompt.text!r}", f"baseline = model.run(prompt{bos})"]
        if state.active:
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
    imports = [f"import {name}\n" for name in ("dataclasses", "torch") if f"{name}." in code]
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
        case ProjectOut():
            positional.append(_direction(spec.direction, state, loaded))
    given |= {
        name: str(index) for name in ("head", "kv_head", "neuron", "pos") if (index := getattr(spec, name)) is not None
    }
    return f"edits.{spec.kind}({', '.join([*positional, *(f'{name}={value}' for name, value in given.items())])})"


def _direction(ref: DirectionRef, state: State, loaded: Loaded) -> str:
    match ref:
        case PcaRef():
            return _mix(ref, state, loaded)
        case LogitDiffRef():
            return f"directions.logit_diff(model, {ref.positive!r}, {ref.negative!r})"
        case TokenRef():
            return f"directions.unembedding(model, {ref.token!r})"
    held = state.directions[ref.name]
    vectors = f"torch.tensor({held.read.tolist()}), torch.tensor({held.write.tolist()})"
    return f"directions.Direction({vectors}, {held.site!r}, name={held.name!r})"


def _mix(ref: PcaRef, state: State, loaded: Loaded) -> str:
    weights = {int(index): weight for index, weight in ref.weights.items() if weight}
    source = loaded.components_code.format(site=ref.site)
    length = sum(weight**2 for weight in weights.values()) ** 0.5
    if len(weights) == 1:
        ((index, weight),) = weights.items()
        return f"{'-' if weight < 0 else ''}{source}[{index}]"
    mix = " + ".join(f"{weight / length!r} * {source}[{index}]" for index, weight in weights.items())
    return f"dataclasses.replace({mix}, scale={resolve(ref, loaded, state.directions).scale!r})"
