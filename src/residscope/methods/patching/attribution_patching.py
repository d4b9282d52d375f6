"""Attribution patching: every cell of activation patching to first order, with exact values of a sample beside them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.planner import Sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, NoGradient
from residscope.methods._lib.agreement import correlations, drawn
from residscope.methods._lib.atp_star import OUTSIDE, estimated
from residscope.methods._lib.cells import Cells, Positions, price
from residscope.methods._lib.checklist import verdict
from residscope.methods.patching.activation_patching import planned
from residscope.progress import Cancel, Progress, keeping
from residscope.results import Result


def _price(
    model: Model, *, clean: Prompt, sample: int = 20, qk_fix: bool = False, grad_drop: bool = False, **how: Any
) -> float:
    """Tokens through the whole model, about: both ends, a forward with its backward for each gradient, and the sample's cells.

    Computing attention anew is a layer of a forward for each cell.
    """
    length, every = sum(model.batch(clean).lengths), price(model, clean=clean, **how)
    gradients = model.n_layers if grad_drop else 1
    return (2.0 + 3 * gradients) * length + 2 * qk_fix * every / model.n_layers + min(every, sample * length / 2)


@method("attribution-patching", title="Estimate every patch", group="patching", tokens=_price)
def attribution_patching(
    model: Model,
    clean: Annotated[Prompt, fields.prompts()],
    corrupted: Annotated[Prompt | None, fields.prompts(begin="typed")],
    metric: Annotated[Readout, fields.metric()],
    *,
    site: Annotated[str, fields.site(every=True, usual="resid_pre")] = "resid_pre",
    mode: Annotated[str, fields.choice("denoise", "noise")] = "denoise",
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"), named=True)] = None,
    normalize: Annotated[bool, fields.flag(help="as a share of the gap: 0 the corrupted run, 1 the clean one")] = False,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    qk_fix: Annotated[bool, fields.flag(help="of queries and keys: the softmax computed anew")] = False,
    grad_drop: Annotated[
        bool, fields.flag(help="sizes, the mean over gradients each of which leaves out one layer")
    ] = False,
    sample: Annotated[int, fields.count(low=0)] = 20,
    seed: Annotated[int, fields.seed()] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """The metric after patching each layer, position and head of a site, estimated from one gradient.

        m(cell) = m + sum over the cell of (x_source - x) . dm/dx

    with x, m and the gradient of the run that is patched: the corrupted prompt's for "denoise", where x_source is the clean
    one's, and the other way round for "noise". Arguments, dimensions and unit are those of `rs.activation_patching`. It is
    linear in the change, so it is wrong where a softmax or a norm bends on the way, as in the stream of early layers.

    Two remedies, together AtP* (Kramár et al.). qk_fix, of q and k: sum of (pattern' - pattern) . dm/d pattern, with the pattern
    that the cell's query or key gives, so that a saturated softmax does not hide it. grad_drop: sizes instead of changes,

        mean over layers l of |estimate with the gradient through the writes of layer l left out|

    without the cell's own layer, so that what two paths cancel is not lost.

    sample: how many cells are also patched exactly, half of them the largest estimates, half drawn from the rest by `seed`.

    Returns a `Result` labelled an estimate. Its provenance's "sample" has the cells by their labels, the exact values and the
    estimates (cell x prompt), and Pearson's and Spearman's correlation of the two changes of the metric, over cells and prompts;
    "random" has the correlations of the drawn half alone.

    Raises:
        NoGradient: the metric or the model has none. QuantisedModel. Otherwise as `rs.activation_patching`.

    Nanda (2023), "Attribution patching: activation patching at industrial scale"; Kramár et al. 2024 (2403.00745) on its errors.
    """
    model.require_exact_weights("gradients")
    plan, cells = planned(model, clean, corrupted, metric, site, mode, layers, positions, background, memory)
    high, low = (end.double().cpu() for end in cells.ends)
    if normalize and not bool((high != low).all()):
        raise BadSweep(
            "clean and corrupted have the same metric", received=str(high.tolist()), fix="choose another pair"
        )
    base, same = plan.unchanged()
    if base.ndim != 1:
        raise BadSweep("a gradient is of one number a prompt", received=f"shape {tuple(base.shape)}")
    base = base.double().cpu()
    first = cells.grid.sites[0].name
    if qk_fix and first not in ("q", "k"):
        raise BadSweep("the QK fix is of queries and keys", received=f"site={site!r}", allowed='"q" or "k"')
    layers = [at.layer or 0 for at in cells.grid.sites]
    effect = estimated(
        plan, ~same.all(1), layers, qk_fix=qk_fix, grad_drop=grad_drop, inside=first not in OUTSIDE,
        progress=progress, cancel=cancel,
    )  # fmt: skip
    if bool(effect.isnan().any()):
        raise NoGradient(
            "the metric has no gradient at these sites",
            received=type(metric).__name__,
            allowed="a metric that depends on the run smoothly",
            fix="rs.activation_patching is exact",
        )

    def told(change: Float[Tensor, "cell prompt"]) -> Float[Tensor, "cell prompt"]:
        if grad_drop:
            return change.abs() / (high - low).abs() if normalize else change.abs()
        return (base + change - low) / (high - low) if normalize else base + change

    about: dict[str, Any] = {
        **model.provenance, "method": f"attribution patching of {site}, {mode}", "clean": high.tolist(),
        "corrupted": low.tolist(), "normalized": normalize,
        "no effect": float(mode == "noise") if normalize else (low if mode == "denoise" else high).tolist(),
    }  # fmt: skip
    if grad_drop:
        about["no effect"] = 0.0
    if cells.pair.scored_by is not None:
        about["scored by"] = cells.pair.scored_by
    about |= verdict(model, clean, corrupted, progress=progress, cancel=cancel)

    def made(beside: Mapping[str, Any] | None) -> Result:
        words = (
            f"the mean size over {model.n_layers} gradients, each without one layer" if grad_drop else "one gradient"
        )
        words += ", attention computed anew" if qk_fix else ""
        result = _result(plan, cells.grid, told(effect), beside, about, words)
        if grad_drop:
            result = replace(result, name=f"size of the change of the {result.name}")
        if not normalize:
            return result
        whole = "share of the gap" if grad_drop else "share of the gap restored"
        return replace(result, name=f"{whole}, {result.name}", unit="share")

    chosen = drawn(effect, sample, seed)
    if not chosen:
        return made(None)
    with keeping(lambda _: made(None)):
        exact = plan.of([plan.cells[i] for i in chosen]).run(progress, cancel, what="Patching a sample exactly").values
    strongest = (len(chosen) + 1) // 2
    change = exact.double() - base
    pairs = [part.abs() if grad_drop else part for part in (effect[chosen], change)]
    labels = cells.grid.labels()
    beside = {
        "cells": [list(labels[i]) for i in chosen], "strongest": strongest, "seed": seed,
        "exact": told(change).tolist(), "estimate": told(effect)[chosen].tolist(),
        **correlations(*(part.flatten() for part in pairs)),
        "random": correlations(*(part[strongest:].flatten() for part in pairs)),
    }  # fmt: skip
    return made(beside)


def _result(
    plan: Sweep,
    grid: Cells,
    values: Float[Tensor, "cell prompt"],
    beside: Mapping[str, Any] | None,
    about: Mapping[str, Any],
    by: str,
) -> Result:
    words = f"estimated to first order by {by}"
    if beside is not None:
        told = ", ".join(
            f"{k} {'unknown' if beside[k] is None else f'{beside[k]:.2f}'}" for k in ("pearson", "spearman")
        )
        words += f"; beside exact values of {len(beside['cells'])} cells: {told}"
        about = {**about, "sample": beside}
    swept = Result(
        values, ("cell", "prompt"), name=label_of(plan.readout, plan.model), exact=words, unit=unit_of(plan.readout)
    )
    return grid.result(swept, about=about)
