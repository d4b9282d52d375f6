"""A recording as a picture: the stream's length where it is held, and what the recording holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.model.sites import Site
from residscope.views import Grid, HeatMap, Table, View

if TYPE_CHECKING:
    from residscope.engine.recording import Recording

STREAMS = ("resid_pre", "resid_mid", "resid_post")
MOST_SITES = 200


def shown(recording: "Recording", row: int = 0) -> Grid:
    """The norms of one prompt's stream, layer by token, and a table of the sites held."""
    views: list[View] = []
    values = recording.held
    stream = [site for site in recording.sites if site.name in STREAMS]
    if stream:
        n = recording.lengths[row] - recording.offset
        ids = recording.tokens[row, recording.offset : recording.offset + n].tolist()
        norms = torch.stack([values[site][row, :n].float().norm(dim=-1).cpu() for site in stream])
        title = "Length of the stream" + (
            f", prompt {row} of {len(recording.lengths)}" if len(recording.lengths) > 1 else ""
        )
        views.append(
            HeatMap(
                norms,
                [str(site) for site in stream],
                recording.model.token_texts(ids),
                title=title,
                row_title="site",
                column_title="token",
                unit="norm",
                scale="sequential",
                limit=_limit(recording, norms, stream, row),
                bottom_up=True,
                note="Full colour at the longest token that is neither first nor an attention sink.",
            )
        )
    rows = [
        [str(site), " ".join(map(str, values[site].shape)), str(values[site].dtype)[6:]] for site in recording.sites
    ]
    more = f"The first {MOST_SITES} of {len(rows)}. " if len(rows) > MOST_SITES else ""
    note = f"{more}{recording.nbytes / 2**20:.1f} MiB; under {len(recording.edits)} edits."
    views.append(Table(["site", "shape", "dtype"], rows[:MOST_SITES], title="What it holds", note=note))
    return Grid(views, columns=1, title=f"A recording of {recording.model.name}")


def _limit(recording: "Recording", norms: Float[Tensor, "site pos"], stream: Sequence[Site], row: int) -> float | None:
    """The longest stream of a token of the row that is neither first nor an attention sink; None where there is none."""
    from residscope.engine.sinks import kept

    usual = torch.stack([kept(recording, site)[row, : norms.shape[1]].cpu() for site in stream])
    lengths = norms[usual & norms.isfinite()]
    return float(lengths.max()) or None if len(lengths) else None
