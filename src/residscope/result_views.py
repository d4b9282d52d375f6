"""Results as pictures: which view a result is, by its dimensions."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residscope.errors import BadResult
from residscope.views import Curve, Grid, HeatMap, Line, Table, View

if TYPE_CHECKING:
    from residscope.results import Result

MOST_ROWS = 2000
MOST_MAPS = 64
MOST_CELLS = 50_000
STRONGEST = 200


def picture(result: "Result") -> View:
    """One dimension: a curve with its band. Two: a heat map. Three: one map for each label of the shortest. Else a table.

    Of a sweep of more cells than a map can show, a table of the largest effects. Layers are drawn from the bottom up. What is not
    exact says so beneath the picture.
    """
    dims = result.dims
    if len(dims) == 1 and result.values.numel():
        return _curve(result)
    if len(dims) == 2 and result.values.numel() > MOST_CELLS and "no effect" in result.provenance:
        return _strongest(result)
    if len(dims) == 2 and result.values.numel():
        return _map(result, title=result.name)
    if len(dims) == 3 and result.values.numel():
        shortest = min(dims, key=lambda dim: result.sizes[dim])
        if result.sizes[shortest] <= MOST_MAPS:
            labels = zip(result.coords[shortest], _labels(result, shortest), strict=True)
            limit = _limit(result.values)
            maps = [
                _map(result.select(**{shortest: label}), title=f"{shortest} {text}", limit=limit)
                for label, text in labels
            ]
            return Grid(maps, columns=2, title=result.name)
    return _table(result)


def _curve(result: "Result") -> Curve:
    (dim,) = result.dims
    values, low, high = (None if x is None else _numbers(x) for x in (result.values, result.low, result.high))
    plain = all(not isinstance(label, str) for label in result.coords[dim]) and dim not in result.along.values()
    x = list(result.coords[dim]) if plain else _labels(result, dim)
    line = Line(result.name, values, low=low, high=high)
    return Curve(x, [line], title=result.name, x_title=dim, unit=result.unit, note=_note(result))


def _map(result: "Result", *, title: str, limit: float | None = None) -> HeatMap:
    rows, columns = result.dims
    return HeatMap(
        _numbers(result.values),
        _labels(result, rows),
        _labels(result, columns),
        title=title,
        row_title=rows,
        column_title=columns,
        unit=result.unit,
        limit=limit,
        low=None if result.low is None else _numbers(result.low),
        high=None if result.high is None else _numbers(result.high),
        note=_note(result),
        bottom_up=rows == "layer",
    )


def _strongest(result: "Result") -> Table:
    """The largest effects of very many cells."""
    rows, columns = result.dims
    try:
        zero = result._no_effect()
    except BadResult:  # which prompt's it is, is not known
        zero = torch.tensor(0.0)
    sizes = (result.values.double() - zero).abs().nan_to_num(-1.0).flatten()
    order = [i for i in sizes.argsort(descending=True, stable=True)[:STRONGEST].tolist() if sizes[i] > 0]
    labels = _labels(result, rows), _labels(result, columns)
    width = len(labels[1])
    shown: list[list[object]] = [
        [labels[0][i // width], labels[1][i % width], result.values.flatten()[i].item()] for i in order
    ]
    said = f"The {len(order):,} largest of {result.values.numel():,}; to_dataframe() has all."
    name = f"value ({result.unit})" if result.unit else "value"
    return Table([rows, columns, name], shown, title=result.name, note=f"{_note(result)} {said}".strip())


def _table(result: "Result") -> Table:
    """Long form, its first rows where there are very many."""
    shown = [x for x in (result.values, result.low, result.high) if x is not None]
    labels = [_labels(result, dim) for dim in result.dims]
    rows: list[list[object]] = []
    for place in product(*(range(n) for n in result.values.shape)):
        if len(rows) == MOST_ROWS:
            break
        cells = [texts[i] for texts, i in zip(labels, place, strict=True)]
        rows.append([*cells, *(x[place].item() for x in shown)])
    total, note = result.values.numel(), _note(result)
    if total > MOST_ROWS:
        note = f"{note} The first {MOST_ROWS:,} of {total:,} rows; to_dataframe() has all.".strip()
    names = [f"{name} ({result.unit})" if result.unit else name for name in ("value", "low", "high")[: len(shown)]]
    return Table([*result.dims, *names], rows, title=result.name, note=note)


def _labels(result: "Result", dim: str) -> list[str]:
    """What stands along a dimension, in words: its labels, and the further columns beside them (`3 Mary`)."""
    columns = [result.coords[dim], *(result.coords[c] for c, at in result.along.items() if at == dim)]
    texts = [[x if isinstance(x, str) else f"{x:g}" for x in column] for column in columns]
    return [" ".join(parts) for parts in zip(*texts, strict=True)]


def _limit(values: Tensor) -> float | None:
    """One scale for maps that are to be compared; None where nothing is finite and above zero."""
    finite = values.double().abs()[torch.isfinite(values.double())]
    largest = float(finite.max()) if len(finite) else 0.0
    return largest or None


def _numbers(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


def _note(result: "Result") -> str:
    """What approximates it, of a finished sweep how few cells carry its effect, and what was said of its prompts as a task."""
    said = [] if result.exact is True else [f"Not exact: {result.exact}."]
    if "no effect" in result.provenance and result.values.numel() > 1:
        with suppress(BadResult):  # of a sweep that is not finished, or whose prompts have other labels
            said.append(f"{result.concentration()}.")
    told = result.provenance.get("task check")
    if isinstance(told, Mapping) and "said" in told:
        said.append(f"Task check {told['said']}.")
    return " ".join(said)
