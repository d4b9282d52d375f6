"""Causal tracing: drown a prompt's subject in noise, restore one state or a window of layers, and read what comes back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import BadSweep, UnknownPosition
from residscope.methods._lib import cells as grids
from residscope.methods._lib.cells import Cells, Positions
from residscope.methods._lib.checklist import verdict
from residscope.methods._lib.intervals import bootstrap
from residscope.model.prompts import Batch, PromptSet
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, keeping
from residscope.results import Result


def _price(model: Model, *, prompts: Prompt, draws: int = 10, **asked: Any) -> float:
    """Tokens through the whole model, about: half of each cell's, once a draw."""
    return draws * grids.price(model, prompts=prompts, **asked)


@method("causal-tracing", title="Causal tracing", group="patching", tokens=_price)
def causal_tracing(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    subject: Annotated[int | str | Sequence[int] | Sequence[str], fields.positions(named=True, title="subject")],
    metric: Annotated[Readout, fields.metric()],
    *,
    site: Annotated[str, fields.site(every=True, usual="resid_post")] = "resid_post",
    window: Annotated[int, fields.count(low=1, high=1000)] = 1,
    sigma: Annotated[float, fields.number(low=0)] = 3.0,
    over: Prompt | None = None,
    draws: Annotated[int, fields.count(low=1, high=1000)] = 10,
    seed: Annotated[int, fields.seed()] = 0,
    layers: Annotated[Sequence[int] | None, fields.layers()] = None,
    positions: Annotated[Positions, fields.positions(known=("each", "all"), named=True)] = None,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """What restoring each state of the clean run brings back of the metric, where noise hides the subject; exact, draw by draw.

        effect = E_noise[ m(noised, states restored) - m(noised) ]

    with e + N(0, (sigma . s)^2) in place of the embeddings e of the subject's tokens. s: the standard deviation of the entries
    of these embeddings, or of those of all tokens of `over`. subject: positions, or names that the prompt set gives its
    positions; negative ones count from each prompt's end. site: what is restored at each layer, position and head, as in
    `rs.activation_patching`. window: how many layers at once, the cell's own in the middle: [l - window // 2, l + (window + 1)
    // 2), cut at the ends. Meng et al. restore one `resid_post`, or windows of ten `attn_out` or `mlp_out`. draws: how much noise
    of its own each prompt gets; all draws are one sweep.

        rs.causal_tracing(model, prompt, range(1, 5), rs.log_prob(" Seattle"), site="mlp_out", window=10)

    Returns a `Result` over layer, pos and head (kv_head), and prompt where there are several, in the metric's unit: the mean
    over draws with the bootstrap's 95 % interval, where there are two draws or more. Its provenance has the metric of the clean
    and of the noised run, the total effect (clean - noised), and the noise's size.

    Raises:
        BadSweep, UnknownPosition, UnalignedPrompts, SiteError, PromptError, SweepCancelled (with `partial`).

    Meng et al. 2022 (2202.05262); Zhang and Nanda 2024 (2309.16042) on noise against other prompts.
    """
    if window < 1 or draws < 1 or not sigma > 0:
        raise BadSweep(
            "there is nothing to trace", received=f"window={window}, draws={draws}, sigma={sigma}",
            allowed="a layer or more, a draw or more, and noise of some size",
        )  # fmt: skip
    names = prompts if isinstance(prompts, PromptSet) else None
    batch = model.batch(prompts)
    cells = grids.grid(model, site, layers=layers, positions=positions, tokens=batch, names=names)
    hidden = _hidden(batch, names, subject)
    n = len(batch)
    drawn = replace(batch.take([*range(n)] * draws), rows=None)
    spans = [_span(model, s, window) for s in cells.sites]
    wanted = list(dict.fromkeys(str(model.sites.canonical(s)) for span in spans for s in span))
    with torch.no_grad():
        clean = model.run(batch, [*wanted, "embed", *metric.sites], edits=background)
        known = clean["embed"][hidden] if over is None else _embeddings(model, over)
        size = sigma * float(known.double().std())
        noised = model.run(drawn, ["embed"], edits=[*background, edits.noise("embed", size, seed)])["embed"]
        values = {name: _repeated(clean[name], draws) for name in wanted}
        ends = metric(clean).double().cpu()
    mixed = torch.where(hidden.repeat(draws, 1)[..., None], noised, _repeated(clean["embed"], draws))
    noise = edits.patch("embed", {"embed": mixed})
    restored = [
        [_restore(str(model.sites.canonical(s)), values, where, names, draws) for s in span]
        for span, where in zip(spans, cells.where, strict=True)
    ]
    plan = sweep(model, drawn, restored, metric, [*background, noise], memory=memory)
    base = plan.baseline().double().cpu().reshape(draws, n)
    about = {
        "method": f"causal tracing of {site}, {window} layer{'s' * (window > 1)} at a time",
        "clean": ends.tolist(),
        "noised": base.mean(0).tolist(),
        "total effect": (ends - base.mean(0)).tolist(),
        "noise": f"{sigma:g} standard deviations of the {'subject' if over is None else 'given'} tokens' embeddings",
        "standard deviation of the noise": size,
        "subject": [row.nonzero()[:, 0].tolist() for row in hidden.cpu()],
        "draws": draws,
        "seed": seed,
        "no effect": 0.0,
    } | verdict(model, prompts, progress=progress, cancel=cancel)

    def made(swept: Result) -> Result:
        return _averaged(swept, base, cells, about)

    with keeping(made):
        swept = plan.run(progress, cancel, what="Restoring")
    return made(swept)


def _averaged(swept: Result, base: Float[Tensor, "draw prompt"], cells: Cells, about: dict[str, Any]) -> Result:
    """The mean effect over draws, and its interval, by the grid's dimensions."""
    effects = swept.values.double().reshape(-1, *base.shape) - base
    parts = [effects.mean(1)]
    if len(base) > 1:
        parts += bootstrap(effects.movedim(1, 0), resamples=1000)
        about = {**about, "interval": "bootstrap over draws, 95 %"}
    coords = {"cell": swept.coords["cell"]}
    mean, *ends = [
        cells.result(Result(part, ("cell", "prompt"), coords, name=f"{swept.name} restored", unit=swept.unit,
                            provenance=swept.provenance), about=about)
        for part in parts
    ]  # fmt: skip
    return replace(mean, low=ends[0].values, high=ends[1].values) if ends else mean


def _hidden(batch: Batch, names: PromptSet | None, subject: Any) -> Bool[Tensor, "batch pos"]:
    """Which tokens are the subject's. Raises UnknownPosition, BadSweep."""
    asked = [subject] if isinstance(subject, int | str) else [*subject]
    mask = torch.zeros(batch.ids.shape, dtype=torch.bool, device=batch.ids.device)
    if not asked:
        raise BadSweep(
            "the subject has no tokens", received=str(subject), allowed="positions, or the prompts' names of them"
        )
    for one in asked:
        if isinstance(one, str):
            if names is None or one not in names.positions:
                known = ", ".join(names.positions) if names is not None else ""
                raise UnknownPosition("the prompts name no such position", received=repr(one), allowed=known or "none")
            at: Sequence[int] = names.at(one)
        else:
            at = [one] * len(batch)
        for row, (p, length) in enumerate(zip(at, batch.lengths, strict=True)):
            if not -length <= p < length:
                raise UnknownPosition(
                    f"the prompt has {length} tokens", received=f"subject={one}", allowed=f"{-length} to {length - 1}"
                )
            mask[row, p % length] = True
    return mask


def _span(model: Model, middle: Site, window: int) -> list[Site]:
    """The sites of the layers restored together."""
    if middle.layer is None:
        return [middle]
    first, last = middle.layer - window // 2, middle.layer + (window + 1) // 2
    return [s for s in model.sites.expand(middle.name) if s.layer is not None and first <= s.layer < last]


def _restore(
    site: str, values: Mapping[str, Tensor], where: dict[str, Any], names: PromptSet | None, draws: int
) -> Edit:
    """One site's clean value put back; a named position is each prompt's own."""
    rest = {k: v for k, v in where.items() if k != "named"}
    align: Any = None
    if (name := where.get("named")) is not None and names is not None:
        align = tuple({p: p} for p in names.at(name)) * draws
    return edits.patch(site, {site: values[site]}, align=align, **rest)


def _repeated(value: Tensor, draws: int) -> Tensor:
    """A row for each prompt of each draw; one prompt's stands for all as it is."""
    return value if len(value) == 1 else value.repeat(draws, *[1] * (value.ndim - 1))


def _embeddings(model: Model, over: Prompt) -> Float[Tensor, "token d_model"]:
    run = model.run(over, ["embed"])
    return run["embed"][run.batch.real]
