"""Which tokens a statistic is taken of: the one rule that means, fits, evidence and probes share."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope.model.sites import Site, rank

if TYPE_CHECKING:
    from residscope.engine.model import Model
    from residscope.engine.recording import Recording

SINK = 10
"""An attention sink's stream is over this many times as long as its row's median."""
STREAM = ("embed", "pos_embed", "resid_pre", "resid_mid", "resid_post")


def streams(model: "Model", site: str | Site) -> tuple[Site, ...]:
    """Where a site's attention sinks are known by their length: itself in the stream, else before and after its block."""
    where = model.sites.parse(site)
    if where.name in STREAM:
        return (where,)
    if where.layer is None:
        return (Site("resid_post", model.n_layers - 1),)
    return Site("resid_pre", where.layer), Site("resid_post", where.layer)


def special_ids(model: "Model") -> frozenset[int]:
    """Tokens that are no text: those that the tokenizer calls special (BOS, the end of a document, turns of a chat)."""
    return frozenset() if model.tokenizer is None else frozenset(model.tokenizer.all_special_ids)


def kept(recording: "Recording", site: str | Site) -> Bool[Tensor, "batch pos"]:
    """Tokens that are neither padding, nor first in their row, nor special, nor attention sinks.

        |x| <= 10 median |x|        over the tokens of the same row but its first, padding left out

    for the stream x at the site; at sites inside a block, for the stream before the block and after it. Which rows are
    read together does not matter, nor whether the recording is a window: its base says what stands before.
    """
    usable = recording.batch.real.clone()
    usable[:, 0] = False
    if special := special_ids(recording.model):
        usable &= ~torch.isin(recording.batch.ids, torch.tensor([*special], device=recording.batch.ids.device))
    return usable[:, recording.offset :] & ~sinks(recording, site)


def sinks(recording: "Recording", site: str | Site) -> Bool[Tensor, "batch pos"]:
    """Attention sinks, the first token among them where it is one: |x| > 10 median |x|, the median and x as `kept` has them."""
    usual_of = recording.batch.real.clone()
    usual_of[:, 0] = False
    above = torch.zeros_like(usual_of)
    for stream in streams(recording.model, site):
        length = _lengths(recording, recording.model.sites.canonical(stream)).to(usual_of.device)
        usual = torch.where(usual_of, length, torch.nan).nanmedian(1, keepdim=True).values
        above |= length > SINK * usual
    return (above & recording.batch.real)[:, recording.offset :]


def _lengths(recording: "Recording", stream: Site) -> Float[Tensor, "batch whole"]:
    """The length of the stream at every token of the prompts, also of those before a window."""
    window = recording.window
    below = window is not None and rank(stream, recording.model.n_layers) < window.start
    if window is not None and below and stream not in recording.held:
        return _lengths(window.base, stream)
    x = recording[stream]
    own = torch.linalg.vector_norm(x, dim=-1, dtype=torch.promote_types(x.dtype, torch.float32))
    if recording.offset == 0:
        return own
    assert window is not None
    return torch.cat([_lengths(window.base, stream)[:, : recording.offset].to(own), own], 1)
