"""What each kind of edit, written as plain data, makes of a value: docs/edits.md in formulas, for one prompt at a time.

An edit is a dictionary: `kind`, `site`, `head`, `kv_head`, `neuron`, `pos` (lists, or absent), and what the kind takes.
Directions are dictionaries too: `read`, `write`, `offset`, `scale`, `space`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from attack.wiring import Wiring

Values = dict[str, Tensor]
AXES = {"head": "head", "kv_head": "kv_head", "neuron": "d_mlp"}
HELD = ("freeze", "patch", "path", "resample")


class Refused(Exception):
    """The documentation says that this is refused."""


@dataclass
class Here:
    """One prompt of a run: which it is, its tokens, what the unedited run has, what this run has had so far."""

    wiring: Wiring
    row: int
    rows: int
    ids: list[int]
    unedited: Values
    data: Mapping[int, Any]  # of edits with data, by their place in the stack: values of each row, and its tokens
    prompt: int | None = None  # of how many tokens is the prompt, where tokens have been generated after it
    seen: Values = field(default_factory=dict)
    hidden: Values = field(default_factory=dict)  # by layer, which keys a query cannot see

    def hide(self, site: str, value: Tensor) -> None:
        """Remember which scores are masked, before they are edited."""
        name, _, layer = site.partition(".")
        if name == "scores":
            self.hidden[layer] = value < -1e30


def position_axis(wiring: Wiring, site: str) -> int:
    axes = wiring.axes(site)
    return axes.index("query") if "query" in axes else axes.index("pos")


def positions(spec: Mapping[str, Any], here: Here) -> list[int]:
    """The positions of this prompt that an edit acts at."""
    length, prompt = len(here.ids), here.prompt or len(here.ids)
    pos = spec.get("pos")
    found = list(range(length)) if pos is None else sorted({p + prompt if p < 0 else p for p in pos})
    if pos is not None and not all(0 <= p < length for p in found):
        raise Refused("a position that is not there")
    if here.prompt is not None and (spec["kind"] in HELD or spec.get("at") == "prompt"):
        found = [p for p in found if p < prompt]
    if here.prompt is not None and spec.get("at") == "new":
        found = [p for p in found if p >= prompt]
    return found


def where(spec: Mapping[str, Any], site: str, value: Tensor, here: Here) -> Tensor:
    """True at the entries an edit is meant for."""
    axes = here.wiring.axes(site)
    mask = torch.zeros(value.shape, dtype=torch.bool)
    along = mask.movedim(position_axis(here.wiring, site), 0)
    along[positions(spec, here)] = True
    for word, axis in AXES.items():
        if spec.get(word) is not None:
            own = torch.zeros(value.shape[axes.index(axis)], dtype=torch.bool)
            own[list(spec[word])] = True
            mask = mask & own.view([-1 if i == axes.index(axis) else 1 for i in range(value.ndim)])
    return mask


def changed(spec: Mapping[str, Any], number: int, site: str, value: Tensor, here: Here) -> Tensor:
    """The value after one edit that is neither isolate nor path."""
    new = _FORMULAS[spec["kind"]](spec, number, site, value, here)
    return torch.where(where(spec, site, value, here), new, value)


def isolated(specs: list[tuple[int, Mapping[str, Any]]], site: str, value: Tensor, here: Here) -> Tensor:
    """Several isolates at one site: an entry goes where one of them acts and none keeps it."""
    acts, kept = torch.zeros(value.shape, dtype=torch.bool), torch.zeros(value.shape, dtype=torch.bool)
    for _, spec in specs:
        kept |= where(spec, site, value, here)
        acts |= where({**spec, "head": None, "kv_head": None}, site, value, here)
    number, first = specs[0]
    return torch.where(acts & ~kept, _replacement(first, number, value, here), value)


def taken(spec: Mapping[str, Any], number: int, site: str, value: Tensor, here: Here) -> Tensor:
    """The value with what the source has put in, wherever positions correspond."""
    values, tokens = here.data[number]
    if len(tokens) not in (1, here.rows):
        raise Refused("another number of prompts")
    row = here.row if len(tokens) > 1 else 0
    source, to, came = values[row][site], here.prompt or len(here.ids), len(tokens[row])
    align = spec.get("align")
    if isinstance(align, tuple | list):
        align = align[here.row]
    square = "key" in here.wiring.axes(site)
    if align == "prefix":
        pairs = {i: i for i in range(min(to, came))}
    elif align == "suffix":
        pairs = {to - i: came - i for i in range(1, min(to, came) + 1)}
    elif align is not None:
        pairs = dict(align)
    elif to == came:
        pairs = {i: i for i in range(to)}
    elif spec.get("pos") is None:
        raise Refused("prompts of unequal length, and nothing says which position is which")
    else:
        named = {(p if p >= 0 else p + to, p if p >= 0 else p + came) for p in spec["pos"]}
        pairs = dict(named)
        if len(pairs) < len(named):
            raise Refused("one position named as two of the source")
    if square and (align is not None or to != came):
        raise Refused("positions twice")
    if not all(0 <= i < to and 0 <= j < came for i, j in pairs.items()):
        raise Refused("positions that are not there")
    axis = position_axis(here.wiring, site)
    new = value.clone()
    for i, j in pairs.items():
        own = source.select(axis, j)
        if square:
            new.select(axis, i)[..., : own.shape[-1]] = own
        else:
            new.select(axis, i).copy_(own)
    return new


# ── one formula a kind ──────────────────────────────────────────────────────────────────────────────────────────


def _ablate(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    return _replacement(spec, number, value, here)


def _replacement(spec: Any, number: int, value: Tensor, here: Here) -> Tensor:
    to = spec["to"]
    if isinstance(to, Tensor):
        if to.ndim == value.ndim and to.shape[0] == here.rows > 1:
            to = to[here.row : here.row + 1]
        return to.to(value).expand_as(value)
    if to == "zero":
        return torch.zeros_like(value)
    values, _ = here.data[number]
    (site,) = here.wiring.expand(spec["site"])
    if spec.get("by") == "position":
        return _by_position(values, site, value, spec, here)
    rows = [row[site][0][_usual(here.wiring, row, site)] for row in values]
    if not sum(map(len, rows)):
        raise Refused("every token of the data is left out of the mean")
    return torch.cat(rows).mean(0).to(value).expand_as(value)


def _by_position(values: Any, site: str, value: Tensor, spec: Any, here: Here) -> Tensor:
    """At each position the mean of the rows that have a usual token there; at position 0 of all."""
    new = value.clone()
    for p in positions(spec, here):
        rows = [row[site][0, p] for row in values if p == 0 or p in _usual(here.wiring, row, site)]
        if not rows:
            raise Refused("no token of the data stands at a position of the run")
        new[0, p] = torch.stack(rows).mean(0)
    return new


def _usual(wiring: Any, row: Values, site: str) -> list[int]:
    """The tokens that count in a mean: not the first, nor those ten times as long as the row's median in the stream."""
    name, _, layer = site.partition(".")
    if name in ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post"):
        streams = [site]
    elif layer:
        streams = [wiring.canonical(f"resid_{end}.{layer}") for end in ("pre", "post")]
    else:
        streams = [wiring.canonical(f"resid_post.{wiring.n_layers - 1}")]
    usual = set(range(1, row[site].shape[1]))
    for stream in streams:
        lengths = [float(x.double().pow(2).sum().sqrt()) for x in row[stream][0]]
        ordered = sorted(lengths[1:])
        if ordered:
            middle = ordered[(len(ordered) - 1) // 2]
            usual &= {i for i, length in enumerate(lengths) if length <= 10 * middle}
    return sorted(usual)


def _resample(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    """Among the data's other prompts that are as long or longer, the one that seed and prompt draw; from the end."""
    values, tokens = here.data[number]
    prompt = here.ids[: here.prompt] if here.prompt else here.ids
    square, n = "key" in here.wiring.axes(site), len(prompt)
    fit = [i for i, t in enumerate(tokens) if t != prompt and (len(t) == n if square else len(t) >= n)]
    if not fit:
        raise Refused("no other prompt is long enough")
    drawn = fit[int(np.random.default_rng([spec["seed"], here.row]).integers(len(fit)))]
    axis, new = position_axis(here.wiring, site), value.clone()
    for i in range(n):
        own = values[drawn][site].select(axis, len(tokens[drawn]) - n + i)
        target = new.select(axis, i)
        target[..., : own.shape[-1]] = own
    return new


def _scale(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    return value * spec["factor"]


def _noise(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    """Standard normal draws by seed, site and prompt, in the order of positions; of pairs, query after query."""
    stream = np.random.default_rng([spec["seed"], crc32(site.encode()), here.row])
    length = len(here.ids)
    if "key" in here.wiring.axes(site):
        drawn = np.zeros((value.shape[1], length, length))
        for query in range(length):
            for key in range(query + 1):
                drawn[:, query, key] = stream.standard_normal(value.shape[1])
    else:
        drawn = stream.standard_normal((length, *value.shape[2:]))
    return value + spec["sigma"] * torch.from_numpy(drawn)[None]


def _steer(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    d = spec["direction"]
    if spec["unit"] == "sd":
        step = d["write"] * d["scale"] / (d["read"] @ d["write"])
    else:
        step = d["write"] / torch.linalg.vector_norm(d["write"])
    return value + spec["strength"] * step


def _clamp(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    d, space = spec["direction"], spec.get("space") or spec["direction"]["space"]
    now = value @ d["read"] - (d["offset"] if space == "centred" else 0.0)
    return value + ((spec["value"] - now) / (d["read"] @ d["write"]))[..., None] * d["write"]


def _project_out(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    R = torch.stack([d["read"] for d in spec["directions"]])
    W = torch.stack([d["write"] for d in spec["directions"]])
    return value - torch.linalg.solve(R @ W.T, (value @ R.T)[..., None])[..., 0] @ W


def _feature(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    a = _coefficients(spec["dictionary"], value)
    new = value
    for i in spec["index"]:
        aim = torch.full_like(a[..., i], spec["value"]) if spec.get("value") is not None else a[..., i] * spec["scale"]
        new = new + (aim - a[..., i])[..., None] * spec["dictionary"]["write"][i]
    return new


def _coefficients(dictionary: Any, x: Tensor) -> Tensor:
    return (x - dictionary["mean"]) @ dictionary["read"].T


def _patch(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    source = taken(spec, number, site, value, here)
    if spec.get("feature") is None:
        return source
    d, new = spec["dictionary"], value
    a, there = _coefficients(d, value), _coefficients(d, source)
    for i in spec["feature"]:
        new = new + (there[..., i] - a[..., i])[..., None] * d["write"][i]
    return new


def _freeze(spec: Any, number: int, site: str, value: Tensor, here: Here) -> Tensor:
    held, new = here.unedited[site], value.clone()
    axis = position_axis(here.wiring, site)
    for i in positions(spec, here):
        own = held.select(axis, i)
        new.select(axis, i)[..., : own.shape[-1]] = own
    return new


_FORMULAS = {
    "ablate": _ablate, "resample": _resample, "scale": _scale, "noise": _noise, "steer": _steer, "clamp": _clamp,
    "project_out": _project_out, "feature": _feature, "patch": _patch, "freeze": _freeze,
}  # fmt: skip
