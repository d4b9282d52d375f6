"""Fitting a probe, and then its map: held-out accuracy at every layer and position, coarse to fine."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import Cancelled, TooFewPrompts
from residscope.methods._lib.activations import Key, Recorded, Recordings, check_vector
from residscope.methods._lib.intervals import wilson
from residscope.methods.probes.probe_fit import count_right, fit, halves
from residscope.model.prompts import PromptSet, require_set
from residscope.probes.probe_map import ProbeMap
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result

MAP_BYTES = 256 << 20  # of vectors that a map is made from: beyond, of the probe's own position alone
NAN = (math.nan, math.nan, math.nan)


def price(model: Model, data: PromptSet, *, site: str, here_only: bool = False, **_: Any) -> float:
    """Tokens through the whole model, about: up to the probe's own layer, then up to the last one that is mapped."""
    layer = model.sites.parse(site).layer
    share = 1.0 if layer is None else (layer + 1) / model.n_layers
    return sum(model.batch(data).lengths) * (share + (not here_only))


def check(model: Model, data: PromptSet, *, site: str, position: str, label: str, seed: int = 0, **_: Any) -> None:
    """Refuse a site without one vector a token, a label without two classes, a position that some prompt lacks."""
    check_vector(model, site)
    _split(data, label, position, seed)


@method(
    "probe-map",
    title="Fit a probe and map it",
    group="probes",
    steps=lambda *given, **named: mapped(*given, **named),
    tokens=price,
    refuse=check,
)
def probe_map(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    site: Annotated[str, fields.site(usual="resid_mid")],
    position: Annotated[str, fields.name(of="position")],
    label: Annotated[str, fields.name(of="label")],
    here_only: Annotated[bool, fields.flag(title="no other layer")] = False,
    seed: Annotated[int, fields.seed()] = 0,
    recordings: Recordings | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> ProbeMap:
    """Fit a probe of a label at one site and position; then say at which layers and positions else the label can be read.

    The probe is `fit_probe`'s, of half the prompts. The map: held-out accuracy of probes with the same C, fitted to that half, at
    every layer of the site's kind and every position that all prompts have (where these vectors take over 256 MiB, the
    probe's own position). here_only: the probe's own place alone. recordings: what was recorded before of these prompts.

        order = rs.probe_map(model, rs.tasks.ioi(model, n=120), site="resid_mid.18", position="S2", label="order")
        order.probe.direction("ABBA", "BABA"), order.accuracy.select(position="S2")

    Raises:
        OneClass, UnseenLabel, TooFewPrompts, MissingLabel, UnknownPosition, UnknownHead, SiteError.
        Cancelled: with the probe and its map so far as its `partial`.
    """
    latest: ProbeMap | None = None
    where: dict[str, Any] = {"site": site, "position": position, "label": label, "here_only": here_only}
    how: dict[str, Any] = {"seed": seed, "recordings": recordings, "progress": progress, "cancel": cancel}
    try:
        for known in mapped(model, data, **where, **how):
            latest = known
    except Cancelled as stop:
        stop.partial = latest
        raise
    assert latest is not None
    return latest


def mapped(
    model: Model,
    data: PromptSet,
    *,
    site: str,
    position: str,
    label: str,
    here_only: bool = False,
    seed: int = 0,
    recordings: Recordings | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[ProbeMap]:
    """`probe_map` as it comes: the probe, then more and more of its map."""
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    recordings = Recordings() if recordings is None else recordings
    at = (str(check_vector(model, site)), position)
    split = _split(data, label, position, seed)
    recorded = recordings.recorded(model, data, [at[0]], [position], **watch)
    sites, positions = ((at[0],), (position,)) if here_only else _places(model, data, at)
    probed = _probed(model, data, recorded, split, at, label, seed, watch)
    right: dict[Key, int | None] = {}
    yield _with_map(probed, sites, positions, right)

    recorded = recordings.recorded(model, data, sites, positions, what="Recording every layer", **watch)
    worked = recordings.worked(model, data)
    order = sorted(sites, key=lambda name: _rung(sites.index(name)))
    with stage("Mapping every layer", len(order), **watch, yields=True) as tell:
        for done, name in enumerate(order, 1):
            for place in positions:
                key = (label, seed, probed.probe.C, name, place)
                if key not in worked:
                    worked[key] = _count(recorded, (name, place), split, probed.probe.C)
                right[name, place] = worked[key]
            tell(done)
            if done == len(order) or _rung(sites.index(order[done])) != _rung(sites.index(name)):
                yield _with_map(probed, sites, positions, right)


class _Split(NamedTuple):
    """The rows that are fitted, those that are held out, and the labels of each."""

    train: list[int]
    test: list[int]
    y: list[object]
    y_test: list[object]


def _split(data: PromptSet, label: str, position: str, seed: int) -> _Split:
    require_set(data)
    labels = data.label(label)
    data.at(position)
    rows = PromptSet(tuple((i,) for i in range(len(data))), labels={label: labels})
    train, test = ([int(row[0]) for row in half.prompts] for half in halves(rows, label=label, held_out=0.5, seed=seed))
    return _Split(train, test, [labels[i] for i in train], [labels[i] for i in test])


def _probed(
    model: Model,
    data: PromptSet,
    recorded: Recorded,
    split: _Split,
    at: Key,
    label: str,
    seed: int,
    watch: dict[str, Any],
) -> ProbeMap:
    """The probe, and where its prompts lie; nothing is mapped yet."""
    x, keep = recorded.vectors[at], recorded.kept[at]
    masks = {name: mask[split.train] for name, mask in recorded.left_out(at).items()}
    about = {"model": model.hash, "model name": model.name, "data": data.name, "seed": seed}
    probe = fit(
        x[split.train], x[split.test], split.y, split.y_test, **masks, seed=seed, **watch, site=at[0], position=at[1],
        label=label, provenance=about,
    )  # fmt: skip
    centre = x[keep].double().mean(0)
    axes, shares = _axes(x[keep].double() - centre)
    of_prompt: dict[str, Any] = {"along": {"label": "prompt"}, "provenance": about}
    labels = tuple(map(str, data.label(label)))
    points = Result(
        (x.double() - centre) @ axes.T,
        ("prompt", "axis"),
        {"label": labels},
        name="singular vectors",
        unit="activation",
        **of_prompt,
    )
    log_probs = Result(
        probe.log_prob(x), ("prompt", "class"), {"class": probe.classes, "label": labels}, name="log P(class)", unit="nats",
        **of_prompt,
    )  # fmt: skip
    empty = Result(torch.full((1, 1), math.nan), ("position", "site"), {"position": at[1:], "site": at[:1]})
    about = {**model.provenance, "method": "probe_map", "data": data.name, "seed": seed, "C": probe.C}
    return ProbeMap(probe, data, tuple(split.test), log_probs, points, axes, centre, shares, empty, (), about)


def _axes(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "axis d"], tuple[float, ...]]:
    """The first two singular vectors of centred activations, and the share of the variance along each."""
    _, sizes, axes = torch.linalg.svd(x, full_matrices=False)
    total = float((sizes**2).sum()) or 1.0
    return axes[:2].clone(), tuple(float(size**2) / total for size in sizes[:2])


def _places(model: Model, data: PromptSet, at: Key) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Every layer of the site's kind, and every position that no prompt lacks, where that many vectors can be held."""
    sites = tuple(map(str, model.sites.expand(model.sites.parse(at[0]).name)))
    positions = tuple(name for name, column in data.positions.items() if None not in column)
    width = model.sites.width(model.sites.parse(at[0]))
    fits = len(data) * len(sites) * len(positions) * width * 4 <= MAP_BYTES
    return sites, positions if fits else at[1:]


def _count(recorded: Recorded, at: Key, split: _Split, C: float) -> int | None:
    """How many are read right there; None where there is nothing to fit on but first tokens and attention sinks."""
    x, masks = recorded.vectors[at], {name: mask[split.train] for name, mask in recorded.left_out(at).items()}
    try:
        return count_right(x[split.train], x[split.test], split.y, split.y_test, C=C, **masks)
    except TooFewPrompts:
        return None


def _rung(index: int) -> int:
    """Coarse to fine: every fourth site first, then every second, then all."""
    return 1 if index % 4 == 0 else 2 if index % 2 == 0 else 3


def _with_map(
    probed: ProbeMap, sites: tuple[str, ...], positions: tuple[str, ...], right: Mapping[Key, int | None]
) -> ProbeMap:
    n, cells = len(probed.held_out), [(site, place) for place in positions for site in sites]
    counts = [right.get(cell) for cell in cells]
    shares = [NAN if count is None else (count / n, *wilson(count, n)) for count in counts]
    values, low, high = torch.tensor(shares, dtype=torch.float64).T.reshape(3, len(positions), len(sites))
    accuracy = Result(
        values, ("position", "site"), {"position": positions, "site": sites}, low=low, high=high, unit="share",
        name=f"accuracy of {probed.probe.label}", provenance=probed.provenance,
    )  # fmt: skip
    none = tuple(cell for cell in cells if cell in right and right[cell] is None)
    return replace(probed, accuracy=accuracy, unfitted=none)
