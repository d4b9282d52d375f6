"""Path patching: what one head's other value does to some receivers, or to the logits, without going through other heads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.edits.paths import RECEIVERS, read_from, written
from residscope.engine.memory import budget, bytes_of
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, Cancelled
from residscope.methods._lib import cells as grids
from residscope.methods._lib.cells import Cells, grid
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.pairs import paired
from residscope.methods._lib.weights.matrices import check_head
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, keeping
from residscope.results import Result

SENDERS = ("z", "attn_out", "mlp_out")
Head = tuple[int, int]
Receivers = Mapping[str, Sequence[Head]] | Sequence[Head] | Sequence[str] | None
Ends = dict[Site, dict[str, Any]]  # each receiver, and the heads that are meant


def _price(model: Model, *, receivers: Any = None, direct: bool = False, site: str = "z", **asked: Any) -> float:
    """Tokens through the whole model, about: half of each cell's, twice where what the receivers read is put in again."""
    once = grids.price(model, site=site, positions="all", **{k: v for k, v in asked.items() if k != "positions"})
    return once * (1 if direct or not receivers else 2)


@method("path-patching", title="Patch paths", group="patching", tokens=_price)
def path_patching(
    model: Model,
    clean: Annotated[Prompt, fields.prompts()],
    corrupted: Annotated[Prompt | None, fields.prompts(begin="typed")],
    metric: Annotated[Readout, fields.metric()],
    *,
    receivers: Annotated[Receivers, fields.head_group(title="receivers")] = None,
    read: Annotated[str, fields.choice("q", "k", "v")] = "q",
    site: Annotated[str, fields.choice(*SENDERS)] = "z",
    direct: Annotated[bool, fields.flag(help="the direct path alone: through no later MLP")] = False,
    mode: Annotated[str, fields.choice("noise", "denoise")] = "noise",
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    normalize: Annotated[bool, fields.flag(help="as a share of the gap between the two runs")] = False,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """What each sender's value of the other run does to the metric along its paths to the receivers; exact, for every head.

        r' = receivers' inputs of (x; sender from the other run, every other head held)      effect = m(x; r = r') - m(x)

    The sender's change runs through the skip connections and the MLPs, which are computed anew with the norms, and never through
    another head; then the receivers alone take what they read so, and all that is behind them runs on. Without receivers the
    logits are the end. direct: through no MLP either: the receiver reads stream + (the sender's write there - its write here).

    mode: "noise" runs the clean prompt with the sender from the corrupted one (the paper's), "denoise" the other way round.
    receivers: heads as (layer, head), a group of them by name, or sites (`"mlp_in.9"`, `"k.9"`: all its heads); all of them
    receive at once. read: which input of those heads: "q", "k" or "v". Under grouped queries the keys and values are those of
    the heads' key-value heads, which the other heads of the group read too. site: who sends: each head ("z"), or each layer's
    attention or MLP whole. normalize: the effect over m(other run) - m(x). Of the sum of several paths nothing is said: MLPs and
    norms are not linear.

        rs.path_patching(model, clean, corrupted, rs.logit_diff(" Mary", " John"), receivers=[(25, 1)], read="q")

    Returns a `Result` over layer and head, and prompt where there are several: the change of the metric, in its unit; 0 for
    senders that no receiver is behind. Its provenance has the metric of both runs.

    Raises:
        BadSweep, UnknownLayer, UnknownHead, SiteError, UnalignedPrompts, PromptError, SweepCancelled (with `partial`).

    Wang et al. 2022 (2211.00593), section 3.1 and appendix B; Goldowsky-Dill et al. 2023 (2304.05969).
    """
    if site not in SENDERS or mode not in ("noise", "denoise") or read not in ("q", "k", "v"):
        raise BadSweep(
            "no such paths", received=f"site={site!r}, mode={mode!r}, read={read!r}",
            allowed=f'a site of {", ".join(SENDERS)}; "noise" or "denoise"; "q", "k" or "v"',
        )  # fmt: skip
    ends = _ends(model, receivers, read)
    pair = paired(model, clean, corrupted, metric)
    here, there = (pair.clean, pair.corrupted) if mode == "noise" else (pair.corrupted, pair.clean)
    cells = grid(model, site, layers=layers, positions="all", tokens=here.batch)
    senders = list(dict.fromkeys(cells.sites))
    with torch.no_grad():
        source = model.run(there.batch, [*map(str, senders), *pair.metric.sites], edits=background)
        target = model.run(here.batch, ["z", *pair.metric.sites], edits=background)
    own, other = pair.metric(target).double().cpu(), pair.metric(source).double().cpu()
    values = {str(s): source[s] for s in senders}
    where = ", ".join(f"{s}{''.join(f' {k} {list(v)}' for k, v in w.items())}" for s, w in ends.items()) or "the logits"
    about: dict[str, Any] = {
        "method": f"path patching of {site}, {mode}, to {where}{', the direct path alone' if direct else ''}",
        "clean": (own if mode == "noise" else other).tolist(),
        "corrupted": (other if mode == "noise" else own).tolist(),
        "normalized": normalize,
        "no effect": 0.0,
    }
    if pair.scored_by is not None:
        about["scored by"] = pair.scored_by
    about |= verdict(model, clean, corrupted, progress=progress, cancel=cancel)
    if normalize and not bool((own != other).all()):
        raise BadSweep("both runs have the same metric", received=str(own.tolist()), fix="choose another pair")

    def made(swept: Result, base: Tensor) -> Result:
        effects = swept.values.double() - base.double().cpu()
        if normalize:
            effects = effects / (other - own)
        name = f"{'share of the gap' if normalize else 'change of the'} {swept.name} along the paths"
        told = replace(swept, values=effects, name=name, unit="share" if normalize else swept.unit)
        return cells.result(told, about=about)

    sent: list[list[Edit]] = [
        [edits.ablate(str(s), to=values[str(s)], **at)] for s, at in zip(cells.sites, cells.where, strict=True)
    ]
    if direct:
        sent = _direct(model, cells, ends or {Site("final_norm"): {}}, values)
    held = edits.patch("z", {str(s): target[s] for s in model.sites.expand("z")})
    ways = [*background, held]
    if direct or not ends:
        acting = background if direct else ways
        plan = sweep(model, here.batch, sent, pair.metric, acting, memory=memory)
        with keeping(lambda swept: made(swept, plan.baseline())):
            return made(plan.run(progress, cancel, what="Reading the ends of paths"), plan.baseline())
    reading, parts = _Inputs(tuple(ends)), _parts(model, here.batch, ends, len(sent), memory)
    finished: list[Tensor] = []

    def so_far(swept: Result | None) -> Result | None:
        """The senders that are done, and of the part under way what there is; NaN elsewhere."""
        known = [*finished, *([] if swept is None else [swept.values])]
        if not known:
            return None
        done = torch.cat(known)
        rest = done.new_full((len(sent) - len(done), done.shape[1]), float("nan"))
        whole = Result(
            torch.cat([done, rest]), ("cell", "prompt"), name=label_of(pair.metric, model), unit=unit_of(pair.metric),
            provenance=run_about,
        )  # fmt: skip
        return made(whole, own[None])

    run_about: dict[str, Any] = dict(target.provenance)
    for number, part in enumerate(parts):
        words = f", part {number + 1} of {len(parts)}" if len(parts) > 1 else ""
        arrived = sweep(model, here.batch, sent[part], reading, ways, memory=memory)
        try:
            inputs = arrived.run(progress, cancel, what=f"Following paths{words}").values
        except Cancelled as stop:
            stop.partial = so_far(None)
            raise
        taken = [_received(model, ends, reading, s, row) for s, row in zip(cells.sites[part], inputs, strict=True)]
        plan = sweep(model, here.batch, taken, pair.metric, background, memory=memory)
        with keeping(so_far):
            swept = plan.run(progress, cancel, what=f"Reading the ends of paths{words}")
        run_about = {**swept.provenance}
        finished.append(swept.values.double() - plan.baseline().double().cpu() + own)
    whole = so_far(None)
    assert whole is not None
    return whole


class _Inputs:
    """A readout of what the receivers read: their values, side by side."""

    unit = ""

    def __init__(self, sites: tuple[Site, ...]) -> None:
        self.sites = tuple(map(str, sites))
        self.shapes: tuple[torch.Size, ...] = ()

    def __call__(self, recording: Any) -> Float[Tensor, "row entry"]:
        values = [recording[site] for site in self.sites]
        self.shapes = tuple(x.shape[1:] for x in values)
        return torch.cat([x.flatten(1) for x in values], 1)

    def apart(self, row: Float[Tensor, "prompt entry"]) -> dict[str, Tensor]:
        """One cell's values, site by site."""
        parts = torch.split(row, [shape.numel() for shape in self.shapes], 1)
        return {site: x.reshape(-1, *shape) for site, x, shape in zip(self.sites, parts, self.shapes, strict=True)}


def _parts(model: Model, batch: Batch, ends: Ends, senders: int, memory: int | None) -> list[slice]:
    """Senders whose receivers' inputs fit into a quarter of the memory at once."""
    each = bytes_of(model.layout, batch, ends)
    size = max(1, (budget(model.device) if memory is None else memory) // 4 // each)
    return [slice(first, min(first + size, senders)) for first in range(0, senders, size)]


def _received(model: Model, ends: Ends, reading: _Inputs, sender: Site, row: Tensor) -> list[Edit]:
    """What the receivers behind a sender take."""
    values = reading.apart(row.to(model.device))
    return [
        edits.patch(str(end), {str(end): values[str(end)]}, **heads)
        for end, heads in ends.items()
        if written(sender) < read_from(end, model.sites)
    ]


def _direct(model: Model, cells: Cells, ends: Ends, values: Mapping[str, Tensor]) -> list[list[Edit]]:
    """One path from each sender to each receiver behind it."""
    return [
        [
            edits.path(str(s), str(end), {str(s): values[str(s)]}, sender_head=at.get("head"), **heads)
            for end, heads in ends.items()
            if written(s) < read_from(end, model.sites)
        ]
        for s, at in zip(cells.sites, cells.where, strict=True)
    ]


def _ends(model: Model, receivers: Receivers, read: str) -> Ends:
    """Each receiving site, and which of its heads. Raises BadSweep, UnknownLayer, UnknownHead, SiteError."""
    if receivers is None:
        return {}
    asked = [one for group in receivers.values() for one in group] if isinstance(receivers, Mapping) else [*receivers]
    axis = "head" if read == "q" else "kv_head"
    found: Ends = {}
    for one in asked:
        if isinstance(one, str):
            for end in model.sites.expand(one):
                if end.name not in RECEIVERS:
                    raise BadSweep("no such receiver", received=one, allowed=f"heads, or {', '.join(RECEIVERS)}")
                found[end] = {}
            continue
        layer, head = one
        check_head(model, layer, head)
        end, own = Site(read, layer), head if axis == "head" else head // model.heads_at(layer).groups
        if found.get(end) != {}:
            found[end] = {axis: tuple(sorted({*found.get(end, {}).get(axis, ()), own}))}
    if not found:
        raise BadSweep("there is no receiver", received=str(receivers), allowed="a head or more; None for the logits")
    return dict(sorted(found.items(), key=lambda item: read_from(item[0], model.sites)))
