"""One measure over many models, revisions and seeds: each taken once, kept, and drawn beside the others."""

import gc
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.loading import load as load_model
from residscope.engine.model import Model
from residscope.errors import BadArguments, Cancelled, ResidscopeError
from residscope.incoming import path_of
from residscope.items import load_item
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Table, View

REDUCED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "max": lambda x, dim: _known(x, dim, torch.where(x.isnan(), -torch.inf, x).amax(dim)),
    "min": lambda x, dim: _known(x, dim, torch.where(x.isnan(), torch.inf, x).amin(dim)),
    "mean": lambda x, dim: x.nanmean(dim),
}
Measure = Callable[[Model, int], Result | Report | float]


@dataclass(frozen=True, eq=False, repr=False)
class Survey(Report):
    """A measure over (model, seed), and over `layer` or what else was kept apart; NaN where a model has no such place.

    failed: of the models that could not be loaded or measured, why.
    """

    kind: ClassVar[str] = "report:survey"
    main: ClassVar[str] = "values"
    values: Result
    failed: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """A heat map of models and what was kept apart, the mean over seeds; else a point a model, whiskers over seeds."""
        found = self.values
        if len(found.dims) > 2:
            shown: list[View] = [found.mean("seed").view()]
        else:
            y, low, high = (x.tolist() for x in (found.values.mean(1), found.values.amin(1), found.values.amax(1)))
            several = found.values.shape[1] > 1
            line = Line(found.name, y, low if several else None, high if several else None)
            shown = [Curve([*found.coords["model"]], [line], title=found.name, x_title="model", unit=found.unit)]
        if self.failed:
            shown.append(Table(["model", "why"], [[*pair] for pair in self.failed.items()], title="Not measured"))
        return shown[0] if len(shown) == 1 else Grid(shown, columns=1, title="Survey")

    def __repr__(self) -> str:
        models, seeds = self.values.values.shape[:2]
        without = f"; {len(self.failed)} not measured" if self.failed else ""
        return f"Survey({self.values.name}: {models} models x {seeds} seeds{without})"


def survey(
    measure: Measure, models: Sequence[str], *, seeds: Sequence[int] = (0,), over: str | None = "layer",
    reduce: str = "max", name: str = "", kept_as: str = "",
    folder: str | Path | None = None, load: Callable[[str], Model] = load_model, progress: Progress = None, cancel: Cancel = None,
) -> Survey:  # fmt: skip
    """What `measure(model, seed)` says of each model: a number, a `Result`, or a report's main one.

        rs.survey(
            lambda model, seed: rs.head_scores(model, kinds="induction", n=4, seed=seed),
            ["EleutherAI/pythia-70m@step1000", "EleutherAI/pythia-70m@step8000"], name="induction", folder="survey",
        )

    models: what `rs.load` takes; a hub's revision stands behind `@`. One is held at a time. over: the dimension of the measure
    that is kept apart, None for a number a model; `reduce` ("max", "mean" or "min" of what is known) takes the others together.
    folder: each model's and seed's measure is a file there, and is not taken again: a survey that was stopped goes on. name:
    what the measure is called, and kept_as, where it is said, what it is kept under: another measure takes another one. A
    folder's model is measured again where its files have changed.

    A model that cannot be loaded or measured is NaN, with the reason.

    Raises:
        BadArguments: no models, no seeds, none twice; no such dimension; a folder without a name. What the first model raises,
        where not one could be measured. Cancelled, with `partial` where there is something.
    """
    key = kept_as or name
    _check(models, seeds, reduce, key, folder)
    kept = None if folder is None else Path(folder).expanduser()
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
    found: dict[tuple[str, int], Result] = {}
    failed: dict[str, str] = {}
    first: ResidscopeError | None = None

    def told() -> Survey:
        return _survey(found, models, seeds, over, reduce, name, failed)

    with stage("Surveying models", len(models) * len(seeds), progress, cancel) as tell:
        for row, source in enumerate(models):
            model: Model | None = None
            for column, seed in enumerate(seeds):
                file = None if kept is None else kept / f"{_key(key, source, seed)}.safetensors"
                try:
                    if file is not None and file.is_file():
                        found[source, seed] = load_item(file)
                    else:
                        model = load(source) if model is None else model
                        found[source, seed] = _result(measure(model, seed), name)
                        if file is not None:
                            found[source, seed].save(file)
                    tell(row * len(seeds) + column + 1)
                except Cancelled as stop:
                    stop.partial = told() if found else None
                    raise
                except ResidscopeError as error:
                    failed[source] = str(error)
                    first = error if first is None else first
                    break
            model = None
            gc.collect()
    if not found and first is not None:
        raise first
    return told()


def _check(models: Sequence[str], seeds: Sequence[int], reduce: str, key: str, folder: Any) -> None:
    for what, given in (("models", models), ("seeds", seeds)):
        if isinstance(given, str) or not len(given) or len({*given}) < len(given):
            raise BadArguments(f"a survey takes {what}, no two alike", received=repr(given)[:200], allowed="a list")
    if reduce not in REDUCED:
        raise BadArguments("no such way to reduce", received=repr(reduce), allowed=", ".join(REDUCED))
    if folder is not None and not key:
        raise BadArguments(
            "what is kept in a folder has a name", received="name=''", allowed='such as name="induction"'
        )


def _key(key: str, source: str, seed: int) -> str:
    """What the measure of a model and seed is kept under; of a folder's model by its files' sizes and times too."""
    at = path_of(source)
    files = sorted((f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in at.iterdir()) if at.is_dir() else []
    return hashlib.sha256(json.dumps([key, source, seed, files]).encode()).hexdigest()[:24]


def _result(made: Any, name: str) -> Result:
    """A measure as a `Result`. Raises BadArguments."""
    if isinstance(made, Report) and made.main is not None:
        made = getattr(made, made.main)
    if isinstance(made, int | float):
        made = Result(torch.tensor(float(made), dtype=torch.float64), (), name=name or "measure")
    if not isinstance(made, Result):
        raise BadArguments(
            "a measure is a number or a table", received=type(made).__name__, allowed="a number, a Result"
        )
    return made


def _survey(
    found: Mapping[tuple[str, int], Result], models: Sequence[str], seeds: Sequence[int], over: str | None, reduce: str,
    name: str, failed: Mapping[str, str],
) -> Survey:  # fmt: skip
    """What is there so far, over model, seed and `over`."""
    one = next(iter(found.values()))
    labels: list[Any] = []
    for result in found.values():
        if over is not None and over not in result.dims:
            allowed = ", ".join(result.dims) or "over=None: the measure is one number"
            raise BadArguments("the measure has no such dimension", received=f"over={over!r}", allowed=allowed)
        labels += [label for label in result.coords[over] if label not in labels] if over is not None else []
    if all(isinstance(label, int) for label in labels):
        labels.sort()
    values = torch.full(
        (len(models), len(seeds), *([len(labels)] if over is not None else [])), torch.nan, dtype=torch.float64
    )
    for (source, seed), result in found.items():
        at = (models.index(source), seeds.index(seed))
        line = _reduced(result, over, reduce)
        if over is None:
            values[at] = line
        else:
            values[at][[labels.index(label) for label in result.coords[over]]] = line
    about: dict[str, Any] = {
        "method": "survey",
        "models": [*models],
        "seeds": [*seeds],
        "measure": name or one.name,
        "reduced by": reduce,
    }
    if one.provenance:
        about["of each"] = dict(one.provenance)
    dims = ("model", "seed") if over is None else ("model", "seed", over)
    coords: dict[str, Sequence[Any]] = {"model": tuple(models), "seed": tuple(seeds)}
    coords |= {} if over is None else {over: tuple(labels)}
    words = one.name if len(one.dims) <= (over is not None) else f"{reduce} of {one.name}"
    return Survey(Result(values, dims, coords, name=words, unit=one.unit, provenance=about), dict(failed), about)


def _reduced(result: Result, over: str | None, reduce: str) -> Float[Tensor, "..."]:
    """One number for each label of `over`."""
    values = result.values.double()
    if over is None:
        return values if not values.ndim else REDUCED[reduce](values.flatten(), 0)
    return REDUCED[reduce](values.movedim(result.dims.index(over), 0).flatten(1), 1) if values.ndim > 1 else values


def _known(x: Tensor, dim: int, found: Tensor) -> Tensor:
    """NaN where nothing is known."""
    return torch.where(x.isnan().all(dim), torch.nan, found)
