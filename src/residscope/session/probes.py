"""Probes of the session: fitted beside the live run, one batch at a time, the chosen site first and then the map of all."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Lock

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import TooFewPrompts
from residscope.fields.prompts import ProbeData
from residscope.methods._lib.activations import Key, Recorded, recorded
from residscope.methods._lib.intervals import wilson
from residscope.methods.probe_fit import count_right, fit, halves
from residscope.model.prompts import PromptSet
from residscope.probes.probe import Probe
from residscope.session.state import ProbeRecipe
from residscope.world.session_world import make_prompts

SEED = 0
BATCH_TOKENS = 160  # a live run waits for one batch at most
MAP_BYTES = 256 << 20
MOST_PROBES = 24

Share = tuple[int, int]  # how many right, of how many held out


@dataclass(frozen=True)
class Map:
    """Held-out accuracy by (site, position); what is not there yet is missing, and None where no probe can be fitted. C is the
    chosen probe's, everywhere."""

    sites: tuple[str, ...]
    positions: tuple[str, ...]
    right: Mapping[Key, int | None]
    C: float

    @property
    def done(self) -> bool:
        return len(self.right) == len(self.sites) * len(self.positions)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A probe the session holds, with its prompts, where they lie, and where else its label can be read.

    points: each prompt's coordinates on the first two singular vectors (`axes`) of the centred activations, found without
    the label. `revision` grows as the map fills.
    """

    name: str
    recipe: ProbeRecipe
    probe: Probe
    data: PromptSet
    held_out: tuple[int, ...]
    log_prob: Float[Tensor, "prompt classes"]
    points: Float[Tensor, "prompt 2"]
    axes: Float[Tensor, "2 d"]
    centre: Float[Tensor, "d"]
    shares: tuple[float, float]
    map: Map
    revision: int = 0


class Shelf:
    """The latest data's prompts and what was recorded of them, so that another layer of the same data runs nothing."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._prompts: tuple[Model, ProbeData, PromptSet] | None = None
        self._recorded = Recorded({}, {}, {})

    def prompts(self, model: Model, data: ProbeData) -> PromptSet:
        """Raises BadTable, TaskError."""
        with self._lock:
            if self._prompts is not None and self._prompts[0] is model and self._prompts[1] == data:
                return self._prompts[2]
        made = make_prompts(model, data)
        with self._lock:
            self._prompts, self._recorded = (model, data, made), Recorded({}, {}, {})
        return made

    def recorded(
        self, model: Model, data: PromptSet, sites: Sequence[str], positions: Sequence[str], tell: "Tell"
    ) -> Recorded:
        """Each prompt's vector at sites and positions, and which of them a fit may use. Whole prompts are run: what is an
        attention sink is judged among all tokens of its own prompt."""
        wanted = [(site, position) for site in sites for position in positions]
        with self._lock:
            own = self._recorded if self._prompts is not None and self._prompts[2] is data else Recorded({}, {}, {})
            if all(key in own.vectors for key in wanted):
                return own
        found = recorded(
            model, data, sites, positions, batch=max(1, BATCH_TOKENS * len(data) // sum(map(len, data.prompts))),
            progress=lambda _, done, total: tell("Recording activations", done / total),
        )  # fmt: skip
        with self._lock:
            known = self._prompts is not None and self._prompts[2] is data
            if known:
                self._recorded = found = Recorded(
                    *(
                        {**getattr(self._recorded, part), **getattr(found, part)}
                        for part in ("vectors", "kept", "first")
                    )
                )
        return found


Tell = Callable[[str, float | None], None]


def names_in(ids: tuple[int, ...], known: Iterable[Fitted]) -> dict[str, int]:
    """The named positions of a prompt that is one of the probes' own."""
    for fitted in known:
        if ids in fitted.data.prompts:
            row = fitted.data.prompts.index(ids)
            return {name: column[row] for name, column in fitted.data.positions.items() if column[row] is not None}
    return {}


def name_of(recipe: ProbeRecipe, taken: Mapping[str, Fitted]) -> str:
    """`order at S2, resid_mid.18`; numbered where a probe of other data has that name. A name once taken keeps its probe."""
    plain = f"{recipe.label} at {recipe.position}, {recipe.site}"
    names = (plain if i == 1 else f"{plain} ({i})" for i in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken or taken[name].recipe == recipe)


def steps(
    model: Model, name: str, recipe: ProbeRecipe, shelf: Shelf, known: Sequence[Fitted], tell: Tell
) -> Iterator[Fitted]:
    """The probe, then the same with more and more of its map. `tell` may raise to cancel.

    Raises:
        TaskError, ProbeError, UnknownPosition, SiteError.
    """
    tell("Making the prompts", None)
    data = shelf.prompts(model, recipe.data)
    labels = data.label(recipe.label)
    rows = PromptSet(tuple((i,) for i in range(len(data))), labels={recipe.label: labels})
    train, test = (
        [int(row[0]) for row in half.prompts] for half in halves(rows, label=recipe.label, held_out=0.5, seed=SEED)
    )
    at = (recipe.site, recipe.position)
    seen = shelf.recorded(model, data, [recipe.site], [recipe.position], tell)
    x, keep = seen.vectors[at], seen.kept[at]
    tell("Fitting the probe", None)
    out = seen.left_out(at)
    probe = fit(
        x[train], x[test], [labels[i] for i in train], [labels[i] for i in test], first=out["first"][train],
        sinks=out["sinks"][train], seed=SEED, site=recipe.site, position=recipe.position, label=recipe.label,
        provenance={"model": model.hash, "model name": model.name, "data": data.name, "seed": SEED},
    )  # fmt: skip
    centre = x[keep].double().mean(0)
    _, sizes, axes = torch.linalg.svd(x[keep].double() - centre, full_matrices=False)
    total = float((sizes**2).sum()) or 1.0
    shares = (float(sizes[0] ** 2) / total, float(sizes[1] ** 2) / total if len(sizes) > 1 else 0.0)
    fitted = Fitted(
        name, recipe, probe, data, tuple(test), probe.log_prob(x), (x.double() - centre) @ axes[:2].T, axes[:2], centre,
        shares, _map_of(model, recipe, data, probe, known),
    )  # fmt: skip
    yield fitted
    yield from _fill(model, fitted, train, test, shelf, tell)


def _map_of(model: Model, recipe: ProbeRecipe, data: PromptSet, probe: Probe, known: Sequence[Fitted]) -> Map:
    """The map of a probe of the same data, label and kind of site, or an empty one."""
    kind = recipe.site.split(".")[0]
    for other in known:
        same = other.recipe.data == recipe.data and other.recipe.label == recipe.label
        if same and other.recipe.site.split(".")[0] == kind and recipe.position in other.map.positions:
            return other.map
    sites = tuple(map(str, model.sites.expand(kind)))
    everywhere = [name for name, column in data.positions.items() if None not in column]
    size = len(data) * len(sites) * len(everywhere) * model.d_model * 4
    return Map(sites, tuple(everywhere) if size <= MAP_BYTES else (recipe.position,), {}, probe.C)


def _fill(
    model: Model, fitted: Fitted, train: list[int], test: list[int], shelf: Shelf, tell: Tell
) -> Iterator[Fitted]:
    """Coarse to fine: every fourth site, then every second, then all."""
    here, labels = fitted.map, fitted.data.label(fitted.recipe.label)
    y, y_test = [labels[i] for i in train], [labels[i] for i in test]
    missing = [site for site in here.sites if any((site, p) not in here.right for p in here.positions)]
    if not missing:
        return
    seen = shelf.recorded(model, fitted.data, missing, here.positions, tell)
    order = sorted(missing, key=lambda site: _coarse(here.sites.index(site)))
    right, rung = dict(here.right), _coarse(0)
    for n, site in enumerate(order):
        tell("Mapping every layer", n / len(order))
        if _coarse(here.sites.index(site)) != rung:
            rung = _coarse(here.sites.index(site))
            yield replace(fitted, map=replace(here, right=dict(right)), revision=rung)
        for position in here.positions:
            at = (site, position)
            x, masks = seen.vectors[at], {name: mask[train] for name, mask in seen.left_out(at).items()}
            try:
                right[at] = count_right(x[train], x[test], y, y_test, C=here.C, **masks)
            except TooFewPrompts:  # first tokens or attention sinks, and nothing else: there is nothing to fit on
                right[at] = None
    yield replace(fitted, map=replace(here, right=right), revision=9)


def _coarse(index: int) -> int:
    return 1 if index % 4 == 0 else 2 if index % 2 == 0 else 3


def accuracy(right: int | None, of: int) -> tuple[float, float, float]:
    """Held-out accuracy and its interval; NaN where it is not known yet, or cannot be."""
    return (math.nan, math.nan, math.nan) if right is None else (right / of, *wilson(right, of))
