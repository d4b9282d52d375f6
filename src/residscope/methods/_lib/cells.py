"""The cells of a sweep over a model: every layer, by position, by head, or by both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import nan, prod
from typing import Any

from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.planner import Sweep, screened
from residscope.errors import BadSweep, UnalignedPrompts, UnknownPosition
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress
from residscope.results import Result

STREAM = ("resid_pre", "resid_mid", "resid_post")
Positions = str | int | Sequence[int] | Sequence[str] | None


@dataclass(frozen=True)
class Cells:
    """Cells in the order of their dimensions. `sites` and `where` say, of each, the site and the heads and positions.

    Where a layer has fewer heads than another there is no cell for those it lacks, and a result has NaN there: `at` says which
    places of the whole table the cells are.
    A named position stands in `where` by its name ("named"): which token it is, each prompt set says for itself.
    """

    dims: tuple[str, ...]
    coords: Mapping[str, tuple[Any, ...]]
    along: Mapping[str, str]
    sites: tuple[Site, ...]
    where: tuple[dict[str, Any], ...]
    at: tuple[int, ...] | None = None

    def labels(self) -> list[tuple[Any, ...]]:
        """Of each cell, its label along each of the dimensions."""
        every = [*product(*(self.coords[dim] for dim in self.dims))]
        return every if self.at is None else [every[place] for place in self.at]

    def result(self, swept: Result, *, about: Mapping[str, Any]) -> Result:
        """A sweep's result over these cells, by the grid's dimensions; the prompt's goes where there is only one."""
        sizes = [len(self.coords[dim]) for dim in self.dims]
        values, dims, coords = self._placed(swept.values), self.dims, dict(self.coords)
        if values.shape[1] == 1:
            values = values[:, 0].reshape(sizes)
        else:
            values, dims = values.reshape(*sizes, values.shape[1]), (*dims, "prompt")
        if "known" in swept.coords:
            about = {**about, "known": list(swept.coords["known"])}
        provenance = {**swept.provenance, **about}
        return Result(
            values, dims, coords, self.along, name=swept.name, unit=swept.unit, exact=swept.exact, provenance=provenance
        )

    def _placed(self, values: Tensor) -> Tensor:
        """One row for each place of the table."""
        if self.at is None:
            return values
        whole = values.new_full((prod(len(self.coords[dim]) for dim in self.dims), *values.shape[1:]), nan)
        whole[[*self.at]] = values
        return whole


def price(
    model: Model,
    *,
    site: str = "resid_pre",
    prompts: Any = None,
    clean: Any = None,
    layers: Sequence[int] | None = None,
    positions: Positions = None,
    **_: Any,
) -> float:
    """Tokens that a sweep over a grid puts through the whole model, about: half of each cell's, which joins where it differs."""
    source = prompts if prompts is not None else clean
    batch, names = model.batch(source), source if isinstance(source, PromptSet) else None
    cells = grid(model, site, layers=layers, positions=positions, tokens=batch, names=names)
    return len(cells.sites) * sum(batch.lengths) / 2


def grid(
    model: Model,
    site: str,
    *,
    layers: Sequence[int] | None,
    positions: Positions,
    tokens: Batch,
    names: PromptSet | None = None,
) -> Cells:
    """One cell for each layer, position and head of a site; heads where it has them, positions unless "all" are one cell.

    positions: "each", "all", a list of them, or names that the prompt set gives its positions. Unless said: "all" for a site
    with heads, "each" for one without.
    """
    if layers is not None and not layers:
        raise BadSweep("there is no layer to sweep over", received=repr(layers), allowed=f"0 to {model.n_layers - 1}")
    first = model.sites.expand(site)[0]
    every = [s.layer for s in model.sites.expand(first.name)]
    chosen = [layer for layer in every if layers is None or layer in layers]
    if layers is not None and (strange := {*layers} - {*every}):
        raise BadSweep("no such layers", received=str(sorted(strange)), allowed=f"0 to {model.n_layers - 1}")
    axes = first.kind.axes
    head = next((axis for axis in ("head", "kv_head") if axis in axes), None)
    if positions is None:
        positions = "all" if head else "each"
    dims: list[str] = ["layer"]
    coords: dict[str, tuple[Any, ...]] = {"layer": tuple(chosen)}
    along: dict[str, str] = {}
    choices: list[list[dict[str, Any]]] = [[{}]]
    if positions != "all":
        at_positions, labels = _positions(positions, tokens, names)
        dims.append("pos")
        coords["pos"] = labels
        choices.append(at_positions)
        if len(tokens) == 1 and all(isinstance(p, int) for p in labels):
            coords["token"] = tuple(model.token_texts(tokens.ids[0, list(labels)].tolist()))
            along["token"] = "pos"
    if head is not None:
        counts = {layer: model.sites.size(Site(first.name, layer), head) or 0 for layer in chosen}
        count = max(counts.values())
        dims.append(head)
        coords[head] = tuple(range(count))
        choices.append([{head: i} for i in range(count)])
    sites, where, at = [], [], []
    for place, (layer, *parts) in enumerate(product(chosen, *choices)):
        here = {k: v for part in parts for k, v in part.items()}
        if head is None or here[head] < counts[layer]:
            sites.append(Site(first.name, layer))
            where.append(here)
            at.append(place)
    whole = len(at) == len(chosen) * prod(map(len, choices))
    return Cells(tuple(dims), coords, along, tuple(sites), tuple(where), None if whole else tuple(at))


def _positions(
    positions: str | int | Sequence[Any], tokens: Batch, names: PromptSet | None
) -> tuple[list[dict[str, Any]], tuple[Any, ...]]:
    """What each cell says of its position, and its label."""
    if positions == "each":
        if len({*tokens.lengths}) > 1:
            raise UnalignedPrompts(
                "positions of prompts of unequal length do not correspond",
                received=f"lengths {min(tokens.lengths)} to {max(tokens.lengths)}",
                fix='name them: positions=["S2", "END"] of a PromptSet, or count from the end: positions=[-1, -2]',
            )
        each = tuple(range(tokens.lengths[0]))
        return [{"pos": p} for p in each], each
    if isinstance(positions, str):
        raise BadSweep("no such positions", received=repr(positions), allowed='"each", "all", or a list')
    positions = [positions] if isinstance(positions, int) else positions
    if not positions:
        raise BadSweep(
            "there is no position to sweep over", received=repr(positions), allowed='"each", "all", or a list'
        )
    if all(isinstance(p, int) for p in positions):
        shortest = min(tokens.lengths)
        if strange := [p for p in map(int, positions) if not -shortest <= p < shortest]:
            raise UnknownPosition(
                f"the prompt has {shortest} tokens"
                if len(tokens) == 1
                else f"the shortest prompt has {shortest} tokens",
                received=f"position {strange[0]}",
                allowed=f"{-shortest} to {shortest - 1}",
            )
        return [{"pos": p} for p in positions], tuple(positions)
    if names is None:
        raise BadSweep("the prompts name no positions", received=repr(positions), allowed="a PromptSet with positions")
    where = []
    for name in map(str, positions):
        if name not in names.positions:
            raise UnknownPosition(
                "the prompts name no such position", received=repr(name), allowed=", ".join(names.positions) or "none"
            )
        names.at(name)  # refuses where one of the prompts lacks it
        where.append({"named": name})
    return where, tuple(map(str, positions))


def run(
    plan: Sweep,
    cells: Cells,
    gap: Tensor,
    screen: str | None,
    over: float,
    progress: Progress,
    cancel: Cancel,
    *,
    donor: Batch | None = None,
) -> Result:
    """The sweep's numbers: exact, or screened by a cheaper estimate. donor: the prompts whose values the cells take."""
    if screen is None:
        return plan.run(progress, cancel)
    chains = _chains(cells)
    return screened(plan, gap, by=screen, chains=chains, donor=donor, over=over, progress=progress, cancel=cancel)


def _chains(cells: Cells) -> list[list[int]]:
    """The stream's layers at one place, run of neighbouring layers by run; none for other sites.

    The stream of a layer is the layer before's with two terms more, so that what patching it does changes slowly. Heads,
    outputs and neurons of one layer have nothing to do with those of the next.
    """
    if cells.sites[0].name not in STREAM:
        return []
    each = len(cells.sites) // len(cells.coords["layer"])
    runs: list[list[int]] = []
    for row, layer in enumerate(cells.coords["layer"]):
        if row and cells.coords["layer"][row - 1] == layer - 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return [[row * each + place for row in rows] for rows in runs for place in range(each)]
