"""One number, over a task's prompts in place of one prompt: its mean with an interval, in every cell of its picture."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.errors import BadArguments, BadSweep, TooFewPrompts
from residscope.methods._lib.answers import answer_ids
from residscope.methods._lib.by_head import stacked
from residscope.methods._lib.cells import Positions
from residscope.methods._lib.cells import price as price_of_grid
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.intervals import bootstrap
from residscope.methods.attribution.direct_attribution import direct_attribution
from residscope.methods.patching.activation_patching import activation_patching
from residscope.metrics import logit_diff
from residscope.model.prompts import PromptSet
from residscope.progress import Cancel, Progress, keeping, stage
from residscope.results import Result

OF = ("metric", "heads", "components", "lens", "attention", "patch")
BATCH = 16
Watch = dict[str, Any]


def _price(model: Model, *, data: PromptSet, of: str = "metric", **args: Any) -> float:
    """Tokens through the whole model: every prompt and partner for the check, every prompt again, and each patched cell."""
    once = float(sum(model.batch(data).lengths))
    cells = price_of_grid(model, clean=data, **args) if of == "patch" else once
    return once * (1 if data.corrupted is None else 2) + cells


@method("task-average", title="Average over a task", group="prompts", tokens=_price)
def task_average(
    model: Model,
    data: Annotated[PromptSet, fields.prompts(labelled=True)],
    *,
    of: Annotated[str, fields.choice(*OF)] = "metric",
    query: Annotated[str | None, fields.name(of="position", when=("of", ("attention",)))] = None,
    key: Annotated[str | None, fields.name(of="position", when=("of", ("attention",)))] = None,
    site: Annotated[str, fields.site(every=True, usual="resid_pre", when=("of", ("patch",)))] = "resid_pre",
    mode: Annotated[str, fields.choice("denoise", "noise", when=("of", ("patch",)))] = "denoise",
    positions: Annotated[
        Positions, fields.positions(known=("each", "all"), named=True, when=("of", ("patch",)))
    ] = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """The mean over prompts with answers, its 95 % interval, and what the task check says of them.

        mean_i x_i,    with the bootstrap's interval over prompts i

    of: what x is. "metric": logit(right) - logit(wrong) at the prompt's end. "heads", "components": what each writes into that
    difference (`rs.direct_attribution`). "lens": the probability of the right answer as each row of the stream has it, there
    (`rs.logit_lens`). "attention": every head's weight from the token named `query` to the one named `key`. "patch": the share of
    the mean gap that each layer and position (or head) of `site` brings back, or leaves, when its value comes from the partner's
    run (`rs.activation_patching`):

        share = mean_i (patched_i - corrupted_i) / mean_i (clean_i - corrupted_i)

    whose interval is of the numerator, the gap held. positions: names that the prompts give, "each" of prompts of one length, or
    "all" at once; unless said, all that every prompt names, and "all" for a site with heads.

        rs.task_average(model, rs.tasks.ioi(model, 32), of="heads").select(layer=9, head=6)

    Returns a `Result` in logits, a probability or a share; low and high are the interval's ends, and the provenance has the
    number of prompts and, under "task check", `rs.task_check`'s verdict in words.

    Raises:
        TooFewPrompts: fewer than two. MissingLabel, UnknownToken: no answers, or none of one token. BadArguments: attention
        without query and key. BadSweep: no partners, or no gap. UnknownPosition, UnalignedPrompts, SiteError, Cancelled.
    """
    if len(data) < 2:
        raise TooFewPrompts("an interval takes several prompts", received=f"{len(data)}", allowed="2 or more")
    if of not in OF:
        raise BadArguments("there is no such number", received=repr(of), allowed=", ".join(OF))
    answers = answer_ids(model, data)
    watch: Watch = {"progress": progress, "cancel": cancel}
    about = {**model.provenance, **data.provenance, "method": "task_average", "of": of, "interval": "95 %, bootstrap"}
    about |= verdict(model, data, **watch)
    if of == "patch":
        return _patched(model, data, site, mode, positions, about, watch)
    if of in ("heads", "components"):
        found = direct_attribution(model, data, logit_diff(), by="head" if of == "heads" else "component", **watch)
        result = found.heads if of == "heads" else found.components
        assert result is not None
        return _mean(result, {**result.provenance, **about})
    if of == "attention":
        return _attention(model, data, query, key, about, watch)
    if of == "lens":
        return _lens(model, data, answers, about, watch)
    return _metric(model, data, about, watch)


def _mean(each: Result, about: dict[str, Any]) -> Result:
    """The mean over the last dimension, the prompts, with its interval."""
    values = each.values.double().movedim(-1, 0)
    low, high = bootstrap(values)
    mean = values.mean(0)
    averaged = replace(each, low=None, high=None).mean("prompt")
    low, high = torch.minimum(low, mean), torch.maximum(high, mean)
    return replace(averaged, values=mean, low=low, high=high, name=f"mean {each.name}", provenance=about)


def _metric(model: Model, data: PromptSet, about: dict[str, Any], watch: Watch) -> Result:
    metric = logit_diff()
    found = [metric(rec) for _, rec in _runs(model, data, metric.sites, "Reading the metric", watch)]
    each = Result(torch.cat(found).cpu(), ("prompt",), name="logit difference right − wrong answer", unit="logits")
    return _mean(each, about)


def _lens(model: Model, data: PromptSet, answers: Tensor, about: dict[str, Any], watch: Watch) -> Result:
    rows = ["resid_pre.0", *map(str, model.sites.expand("resid_post"))]
    found: list[Float[Tensor, "row prompt"]] = []
    for own, rec in _runs(model, data, rows, "Reading the lens", watch):
        at = [(i, n - 1) for i, n in enumerate(rec.batch.lengths)]
        ends = [torch.stack([rec[row][i, pos] for i, pos in at]) for row in rows]
        right = answers[own.start : own.stop, :1]
        found.append(torch.stack([model.lens(x).float().softmax(-1).gather(1, right.to(x.device))[:, 0] for x in ends]))
    named = ("embedding", *rows[1:])
    each = Result(
        torch.cat(found, 1).cpu(), ("row", "prompt"), {"row": named},
        name="probability of the right answer", unit="probability",
    )  # fmt: skip
    return _mean(each, {**about, "read": "through the final norm, at the prompt's end"})


def _attention(
    model: Model, data: PromptSet, query: str | None, key: str | None, about: dict[str, Any], watch: Watch
) -> Result:
    if query is None or key is None:
        raise BadArguments(
            "attention is from one named token to another", received=f"query={query!r}, key={key!r}",
            allowed=", ".join(data.positions) or "prompts that name positions",
        )  # fmt: skip
    places = [*zip(data.at(query), data.at(key), strict=True)]
    sites = [*map(str, model.sites.expand("pattern"))]
    found: list[Float[Tensor, "layer head prompt"]] = []
    for own, rec in _runs(model, data, sites, "Reading patterns", watch):
        at = [*enumerate(places[own.start : own.stop])]
        found.append(stacked([torch.stack([rec[s][i, :, q, k] for i, (q, k) in at], -1) for s in sites]))
    each = Result(torch.cat(found, -1).cpu(), ("layer", "head", "prompt"), name=f"attention {query} → {key}", unit="")
    return _mean(each, {**about, "query": query, "key": key})


def _patched(
    model: Model,
    data: PromptSet,
    site: str,
    mode: str,
    positions: Positions,
    about: dict[str, Any],
    watch: Watch,
) -> Result:
    if positions is None and not _has_heads(model, site):
        positions = [name for name, at in data.positions.items() if None not in at] or "each"

    def made(each: Result) -> Result:
        clean, corrupted = (torch.tensor(each.provenance[end], dtype=torch.float64) for end in ("clean", "corrupted"))
        gap = float((clean - corrupted).mean())
        if gap == 0.0:
            raise BadSweep(
                "clean and corrupted have the same metric at the mean", received="a gap of 0", fix="other prompts"
            )
        ends = {"clean": float(clean.mean()), "corrupted": float(corrupted.mean()), "no effect": float(mode == "noise")}
        shares = replace(
            each,
            values=(each.values.double() - corrupted) / gap,
            name=f"share of the mean gap, {site} patched",
            unit="share",
        )
        return _mean(shares, {**each.provenance, **about, **ends, "mode": mode})

    with keeping(made):
        swept = activation_patching(model, data, None, logit_diff(), site=site, mode=mode, positions=positions, **watch)
    return made(swept)


def _has_heads(model: Model, site: str) -> bool:
    return bool({"head", "kv_head"} & {*model.sites.expand(site)[0].kind.axes})


def _runs(
    model: Model, data: PromptSet, sites: Sequence[str], what: str, watch: Watch
) -> Iterator[tuple[range, Recording]]:
    """The prompts some at a time, with what is read of them."""
    rows = model.batch(data)
    with stage(what, len(data), watch["progress"], watch["cancel"]) as tell, torch.no_grad():
        for start in range(0, len(data), BATCH):
            own = range(start, min(start + BATCH, len(data)))
            yield own, model.run(rows.take(own), sites)
            tell(own.stop)
