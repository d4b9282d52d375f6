"""What a window cannot be of: another model's or prompt's run, sites outside it, edits that would be lost before it."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from residscope.engine.protocols import Edit
from residscope.engine.recording import Recording, acts_early
from residscope.engine.windows import Window
from residscope.errors import BadEdit, UnknownLayer, WrongModel
from residscope.model.prompts import Batch
from residscope.model.sites import Site, rank


def is_unedited_run(base: Any) -> bool:
    """Whether a window's base is a whole run without edits."""
    return isinstance(base, Recording) and not base.edits and base.window is None


def require_base(model: Any, window: Window, batch: Batch) -> None:
    """Refuse a window of another model's run, or of another prompt's. Raises WrongModel."""
    if window.base.model.hf is not model.hf:
        raise WrongModel(
            "the window's recording is of another model", received=window.base.model.name, allowed=model.name
        )
    base = window.base
    while model.layout.fed and window.start > 0 and base is not None:
        if acts_early(getattr(base, "edits", ()), model.sites):
            raise BadEdit(
                "this model's blocks are also given the embeddings by themselves, which the window's base has edited",
                received=f"a window from layer {window.start} on", allowed="a window from layer 0 on",
            )  # fmt: skip
        base = getattr(getattr(base, "window", None), "base", None)
    tokens, ends = window.base.tokens, window.base.lengths
    rows = [torch.equal(tokens[i, :n], batch.ids[i, :n]) for i, n in enumerate(ends[: len(batch)])]  # but for padding
    same = tuple(ends) == batch.lengths and tokens.shape == batch.ids.shape and all(rows)
    if not same and (window.start > 0 or not torch.equal(tokens[:, : window.pos], batch.ids[:, : window.pos])):
        raise WrongModel("the window's recording is of another prompt", fix="record this prompt first")


def require_reached(model: Any, window: Window, edits: Sequence[Edit]) -> None:
    """Refuse an edit that acts before the window, where it would be lost; what holds to an unedited base changes nothing."""
    entry = Site("resid_pre", window.start)
    for edit in edits:
        if edit.needs_unedited and is_unedited_run(window.base):
            continue
        sites = edit.places(model.sites)
        below = [s for s in sites if s != entry and rank(s, model.n_layers) < window.start] if window.start else []
        if below:
            raise BadEdit(
                "the edit acts below the window's first layer, where it would be lost",
                received=f"{edit!r} at {below[0]}, a window from layer {window.start} on",
                allowed=f"sites of layer {window.start} and up",
                fix=f"start the window at layer {max(0, min(s.layer or 0 for s in below))} or lower",
            )
        ends = window.base.lengths
        before = [p for p in edit.pos or () for n in ends if (p + n if p < 0 else p) < window.pos]
        if before:
            raise BadEdit(
                "the edit acts before the window's first position, where it would be lost",
                received=f"{edit!r} at {before[0]}, a window from position {window.pos} on",
                allowed=f"positions {window.pos} and up",
                fix="start the window earlier",
            )


def require_inside(model: Any, window: Window, sites: Iterable[Site]) -> None:
    """Refuse a site that the window does not come by. Raises UnknownLayer."""
    last = model.n_layers if window.stop is None else window.stop
    for site in sites:
        if not window.start - 1 <= rank(model.sites.canonical(site), model.n_layers) <= last:
            raise UnknownLayer(
                "the site is outside the window", received=str(site), allowed=f"layers {window.start} to {last}"
            )
