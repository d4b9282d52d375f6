"""Activations of labelled prompts at their named positions: one recorded pass for any number of sites and positions."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import UnknownHead, UnknownPosition, UnknownSite
from residscope.model.prompts import PromptSet
from residscope.model.sites import Site

Progress = Callable[[str, int, int], None]


def activations(
    model: Model,
    data: PromptSet,
    sites: Sequence[str],
    positions: Sequence[str],
    *,
    head: int | None = None,
    edits: Sequence[Any] = (),
    batch: int = 32,
    progress: Progress | None = None,
) -> dict[tuple[str, str], Float[Tensor, "prompt d"]]:
    """The vector at each site and named position of every prompt, by (site, position), on the CPU in the model's dtype.

    head: which one, at sites that have heads (`z`, `result`, `q` ...). edits: the run's own. Prompts of like length go together.

    Raises:
        UnknownPosition: not a position of these prompts, or one prompt lacks it. UnknownSite: no vector stands there.
    """
    named = {name: model.sites.canonical(_check(model, name, head)) for name in sites}
    at = {position: data.at(position) for position in positions}
    found: dict[tuple[str, str], Tensor] = {}
    done = 0
    for rows in batches(model, data, size=batch):
        record = model.run(data.subset(rows), [*named.values()], edits=edits)
        for (name, site), (position, index) in ((a, b) for a in named.items() for b in at.items()):
            value, where = record[site], [index[row] for row in rows]
            for row, p, length in zip(rows, where, record.lengths, strict=True):
                if not 0 <= p < length:
                    raise UnknownPosition(
                        f"prompt {row} has {length} tokens", received=f"{position} at {p}", allowed=f"0 to {length - 1}"
                    )
            picked = value[torch.arange(len(rows)), torch.tensor(where)]
            picked = picked if head is None else picked[:, head]
            held = found.setdefault((name, position), torch.empty(len(data), picked.shape[-1], dtype=picked.dtype))
            held[list(rows)] = picked.cpu()
        done += len(rows)
        if progress is not None:
            progress("activations", done, len(data))
    return found


def batches(model: Model, data: PromptSet, *, size: int) -> Iterator[list[int]]:
    """The prompts' indices in groups of like length, so that little is padding."""
    lengths = model.batch(data).lengths
    order = sorted(range(len(data)), key=lengths.__getitem__)
    return (order[start : start + size] for start in range(0, len(order), size))


def _check(model: Model, name: str, head: int | None) -> Site:
    """The site, which must hold a vector at each position, of the head given where it has heads."""
    site = model.sites.parse(name)
    axes = site.kind.axes
    if axes[:2] != ("batch", "pos") or axes[-1] == "1":
        raise UnknownSite(
            f"no vector stands at {site}",
            received=str(site),
            allowed="a site with a vector, such as resid_mid.6 or z.9",
        )
    heads = next((axis for axis in axes if axis.endswith("head")), None)
    if heads is not None and head is None:
        raise UnknownHead(f"{site} has a vector for each head", fix="say head=")
    if head is not None:
        model.sites.check_index(site, heads or "head", (head,))
    return site
