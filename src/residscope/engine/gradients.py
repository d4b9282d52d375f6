"""Gradients of a readout with respect to the values at sites, through the stock model."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from residscope.engine.forward import forward
from residscope.engine.passes import masked
from residscope.engine.preparing import prepare
from residscope.engine.protocols import At, Edit, LeastEdit, Readout
from residscope.engine.recording import Recording
from residscope.engine.turns import in_turn
from residscope.errors import NoGradient
from residscope.model.prompts import Batch
from residscope.model.sites import Site, SiteTable

if TYPE_CHECKING:
    from residscope.engine.model import Model, Prompt


@dataclass(frozen=True)
class Same(Edit):
    """Put every value back as a new tensor: an edit that must change nothing, and through which everything after flows.

    A value that depends on nothing, such as a frozen one, starts a graph of its own.
    """

    sites: tuple[Site, ...]

    def places(self, table: SiteTable) -> list[Site]:
        return list(self.sites)

    def apply(self, value: Tensor, at: At) -> Tensor:
        new = value.clone()
        return new.requires_grad_() if torch.is_grad_enabled() and not new.requires_grad else new


def gradients(
    model: "Model",
    prompt: "Prompt | Batch",
    readout: Readout,
    sites: Iterable[str | Site],
    *,
    edits: Sequence[LeastEdit] = (),
    bos: bool | None = None,
) -> tuple[Recording, dict[Site, Tensor]]:
    """The run's recording at `sites`, and d readout / d value there: each of the site's own shape, one row per prompt.

    The readout gives one number a row; rows do not meet, so each row's gradient is of its own number. Nothing is left in the
    model's `.grad`.

    Raises:
        NoGradient: the readout, or the model's own arithmetic, cannot be differentiated.
    """
    batch = model.batch(prompt, bos=bos)
    table = model.sites
    wanted = {table.canonical(s) for name in sites for s in table.expand(name)}
    read = {table.canonical(s) for name in readout.sites for s in table.expand(name)}
    patterns = [site for site in wanted if site.name == "pattern"]
    read |= {Site("scores", site.layer) for site in patterns}
    prepared = prepare(model, edits, batch.lengths)
    start = tuple({Site("embed")} | wanted)
    order = sorted(wanted, key=str)

    with in_turn(model.hf):
        held_sites = {site for edit in prepared if edit.needs_unedited for site in edit.places(table)}
        unedited = forward(model.layout, batch, capture=held_sites) if held_sites else {}
        with torch.enable_grad():
            values = forward(
                model.layout,
                batch,
                capture=wanted | read,
                edits=[_Leaf(), *prepared, Same(start)],
                unedited=unedited,
                grad=True,
            )
            number = readout(Recording(model, batch, values, edits=prepared, unedited=unedited))
        if not number.requires_grad:
            raise NoGradient("the readout does not depend on the run", received=type(readout).__name__)
        slopes = torch.autograd.grad(number.sum(), [values[site] for site in order], allow_unused=True)
        version = model.weights_version()
    grads = {
        site: torch.zeros_like(values[site]) if g is None else g.detach() for site, g in zip(order, slopes, strict=True)
    }
    for site in patterns:  # what the mask keeps out cannot be changed, so nothing depends on it
        grads[site] = grads[site].masked_fill(masked(values[Site("scores", site.layer)]), 0.0)
    detached = {site: values[site].detach() for site in wanted}
    return Recording(model, batch, detached, edits=prepared, unedited=unedited, weights=version), grads


class _Leaf(Same):
    """The embedding as the start of the graph, so that the weights need not ask for gradients."""

    def __init__(self) -> None:
        super().__init__((Site("embed"),))

    def apply(self, value: Tensor, at: At) -> Tensor:
        return value.detach().clone().requires_grad_()
