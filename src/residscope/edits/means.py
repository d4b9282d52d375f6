"""What stands in a value's place, in ablate and in isolate: zero, a tensor, or a mean over data, whole or by position."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept, streams
from residscope.errors import BadEdit, CannotAlign, WrongWidth
from residscope.model.sites import Site, SiteTable, positions_axis

BY = (None, "position")
COUNTS = "tokens at each position"


def check_replacement(to: Any, over: Any, by: Any, averaged: Any) -> None:
    """Refuse, with BadEdit, what is no replacement, a mean without data, and `by` without a mean."""
    if isinstance(to, str) and to not in ("zero", "mean"):
        raise BadEdit(
            "no such replacement", received=f"to={to!r}", allowed='"zero", "mean" or a tensor; ablate also "resample"'
        )
    if not isinstance(to, str | Tensor):
        raise BadEdit("no such replacement", received=f"to={to!r}"[:80], allowed='"zero", "mean" or a tensor')
    if isinstance(to, str) and to == "mean" and over is None:
        raise BadEdit("the mean needs its data", received="over=None", fix="say over=texts, prompts or a recording")
    if by not in BY:
        raise BadEdit("no such mean", received=f"by={by!r}", allowed='None, for all tokens alike, or "position"')
    counts = averaged.get(COUNTS) if isinstance(averaged, Mapping) else None
    by_hand = isinstance(to, Tensor) and (to.ndim < 2 or not isinstance(counts, list) or len(counts) != len(to))
    if by is not None and (to == "zero" if isinstance(to, str) else by_hand):
        received = f"by={by!r} with to={to!r}"[:80] if isinstance(to, str) else f"by={by!r} with a tensor of one's own"
        raise BadEdit("only a mean over data is taken by position", received=received, allowed='to="mean", over=data')


WITHOUT_MEAN = ("scores", "pattern", "logits")


def require_mean(edit: Any, table: SiteTable) -> list[Site]:
    """The one site that a mean is taken at. Raises BadEdit where there is none."""
    sites: list[Site] = edit.places(table)
    if isinstance(edit.to, str) and edit.to == "mean" and (len(sites) != 1 or sites[0].name in WITHOUT_MEAN):
        raise BadEdit(
            "the mean is taken at one site with positions", received=edit.site, allowed="such as z.9 or mlp_out.3"
        )
    return sites


def mean_over(edit: Any, model: Model) -> tuple[Tensor, dict[str, Any]]:
    """The mean of the edit's one site over its data, and what it was taken of.

    Position 0, whose stream may be a thousand times as long, and attention sinks are left out (`engine.sinks.kept`). With
    `by="position"` it has a row for each position, NaN where the data has no token to use; position 0 is then that of all
    the data's first tokens.

    Raises:
        BadEdit: not one site with positions, or every token is left out.
    """
    (site,) = require_mean(edit, model.sites)
    wanted = [site, *streams(model, site)]
    data = edit.over if isinstance(edit.over, Recording) else model.run(edit.over, capture=wanted)
    x, use, real = data[site], kept(data, site), data.batch.real[:, data.offset :]
    first = int(real[:, 0].sum()) if data.offset == 0 else 0
    sinks = int(real.sum()) - first - int(use.sum())
    if edit.by == "position" and data.offset == 0:
        use[:, 0], first = real[:, 0], 0
    averaged = {
        "by": edit.by or "token",
        "tokens": int(use.sum()),
        "left out at position 0": first,
        "left out as attention sinks": sinks,
    }
    if not averaged["tokens"]:
        raise BadEdit(
            "every token of the data is left out of the mean",
            received=f"{first} at position 0, {sinks} attention sinks",
            allowed="data with other tokens",
            fix='give longer prompts, or say by="position"',
        )
    use = use.to(x.device)
    if edit.by is None:
        return x[use].mean(0), averaged
    summed = torch.where(use.view(*use.shape, *[1] * (x.ndim - 2)), x, 0).sum(0)
    counts = use.sum(0)
    means = summed / counts.view(-1, *[1] * (x.ndim - 2)).to(x)
    before = means.new_full((data.offset, *means.shape[1:]), torch.nan)
    averaged[COUNTS] = [0] * data.offset + counts.tolist()
    return torch.cat([before, means]), averaged


def replacement(edit: Any, value: Tensor, at: At) -> Tensor:
    """What takes the value's place: zeros, a tensor for every position, or the mean at each. Raises WrongWidth, CannotAlign."""
    if isinstance(edit.to, str):
        return torch.zeros_like(value)
    to = edit.to.to(value)
    if edit.by is None and to.ndim == value.ndim:
        to = _of_rows(to, value, at)
    if edit.by == "position":
        for length in dict.fromkeys(at.batch.lengths):
            check_positions(edit, length, range(at.offset, length))
        to = to[at.offset : at.offset + value.shape[1]]
        beyond = value.shape[1] - len(to)  # padding, and positions that the edit does not act at
        to = torch.cat([to, to.new_full((beyond, *to.shape[1:]), torch.nan)])
    try:
        return to.expand_as(value)
    except RuntimeError:
        raise WrongWidth(
            f"the value does not fit {at.site}",
            received=str(tuple(to.shape)),
            allowed=f"broadcastable to {tuple(value.shape)}",
        ) from None


def _of_rows(to: Tensor, value: Tensor, at: At) -> Tensor:
    """The part of a tensor with rows for all prompts, and perhaps all positions, that a pass over some of them sees."""
    axis, length = positions_axis(at.site), at.batch.ids.shape[1]
    if to.shape[0] != 1 and at.rows is not None and max(at.rows) < to.shape[0]:
        to = at.mine(to)
    for along in {axis, value.ndim - 1} if "key" in at.site.kind.axes else {axis}:
        first = at.offset if along == axis else 0
        if to.shape[along] not in (1, value.shape[along]) and to.shape[along] >= length:
            to = to.narrow(along, first, length - first)
    return to


def check_positions(edit: Any, length: int, positions: Sequence[int]) -> None:
    """Refuse, with CannotAlign, where a mean by position has nothing for a position that the edit acts at."""
    if edit.by != "position" or edit.averaged is None:
        return
    asked = None if edit.pos is None else {p + length if p < 0 else p for p in edit.pos}
    counts = edit.averaged[COUNTS]
    for p in positions:
        if (asked is None or p in asked) and (p >= len(counts) or not counts[p]):
            usable = [i for i, n in enumerate(counts) if n]
            most = f"up to {usable[-1]}" if usable else "none"
            raise CannotAlign(
                "the data of the mean by position has no usable token at a position of the run",
                received=f"position {p} of a prompt of {length} tokens",
                allowed=f"the {len(usable)} positions that have some ({most})",
                fix="give over= prompts at least as long, say pos=, or take the mean over all tokens (by=None)",
            )


def same_replacement(a: Any, b: Any) -> bool:
    """Whether two edits put the same in a value's place."""
    if isinstance(a.to, Tensor) and isinstance(b.to, Tensor):
        alike = a.by == b.by and a.to.shape == b.to.shape and a.to.dtype == b.to.dtype
        return alike and torch.allclose(a.to, b.to.to(a.to.device), rtol=0, atol=0, equal_nan=True)
    return isinstance(a.to, str) and isinstance(b.to, str) and a.to == b.to


def refuse_open_data(over: Any) -> None:
    if over is not None:
        raise BadEdit("what is taken over data is serialised once it is computed", fix="edit.prepare(model).to_dict()")
