"""Each part of a direct attribution taken out of the run, and the metric read again: its total effect beside its direct one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import edits
from residscope.directions import Dictionary
from residscope.edits.base import indices
from residscope.engine.model import Model, Prompt, tied
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.engine.recording import Recording
from residscope.engine.sinks import streams
from residscope.methods._lib.direct.experts import without_experts
from residscope.methods._lib.direct.reading import Reading
from residscope.methods._lib.direct.report import DirectAttribution
from residscope.methods._lib.direct.sites import WRITTEN
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress
from residscope.results import Result

EFFECTS = ("direct", "total")
FINE = {"heads": ("z", "head"), "neurons": ("mlp_post", "neuron"), "experts": ("mlp_raw", "expert")}
MADE = ("feature", "expert")  # parts that are no entries of a site


@dataclass(frozen=True)
class Part:
    """A part that can be taken out, and what it adds directly, prompt by prompt."""

    label: str
    site: Site
    where: dict[str, int]
    direct: Float[Tensor, "prompt"]


@dataclass(frozen=True)
class MetricAt:
    """A readout of the metric at the positions of an attribution, before the cap of a model that caps its logits."""

    metric: Readout
    where: int | tuple[int, ...]
    sites: tuple[str, ...] = ("final_scale", "final_norm")
    unit: ClassVar[str] = "logits"

    def __call__(self, recording: Any) -> Float[Tensor, "row"]:
        rows, where = recording.batch.rows, self.where
        if rows is not None and isinstance(where, tuple):
            where = tuple(where[row] for row in rows)
        return Reading(recording, self.metric, where).metric[:, 0]


def removed(
    model: Model,
    prompts: Prompt | Batch,
    report: DirectAttribution,
    reading: MetricAt,
    *,
    to: str,
    over: Any,
    largest: int,
    dictionary: Dictionary | None,
    background: Sequence[Edit],
    progress: Progress,
    cancel: Cancel,
) -> Result | None:
    """m - m(part taken out) beside the part's direct effect, over (part, effect, prompt): every layer's attention and MLP and the
    embeddings, and the `largest` of the finer parts."""
    parts = [*_components(report), *_finer(report, largest, dictionary)]
    if not parts:
        return None
    base = report.metric.values.reshape(-1).double()
    cuts = _cuts(model, model.batch(prompts), parts, to, over, dictionary, tied(background, prompts))
    swept = sweep(model, prompts, cuts, reading, background)
    values = swept.run(progress, cancel, what="Taking parts out").values.double()
    both = torch.stack([torch.stack([part.direct.double() for part in parts]), base.to(values) - values], 1)
    about = {**report.provenance, "taken out": f"every position, to {to}", "no effect": 0.0}
    name = f"direct and total effect on the {report.metric.name}"
    coords = {"part": tuple(part.label for part in parts), "effect": EFFECTS}
    return Result(both, ("part", "effect", "prompt"), coords, name=name, unit="logits", provenance=about)


def _components(report: DirectAttribution) -> list[Part]:
    """Embeddings, attention and MLPs: what is written into the stream, without biases and edits."""
    found = report.components
    each = zip(found.coords["component"], found.values, strict=True)
    return [
        Part(str(name), Site.parse(str(name)), {}, direct.reshape(-1))
        for name, direct in each
        if str(name).partition(".")[0] in WRITTEN
    ]


def _finer(report: DirectAttribution, largest: int, dictionary: Dictionary | None) -> list[Part]:
    """The heads, neurons, experts or features with the largest direct effects, averaged over prompts."""
    parts: list[Part] = []
    for name, (site, axis) in FINE.items():
        result: Result | None = getattr(report, name)
        if result is not None:
            flat = result.values.reshape(result.values.shape[0] * result.values.shape[1], -1)
            for i in _order(flat, largest):
                layer, at = divmod(i, result.values.shape[1])
                parts.append(Part(f"{axis} {layer}.{at}", Site(site, layer), {axis: at}, flat[i]))
    if report.features is not None and dictionary is not None:
        flat, index = report.features.values.reshape(len(report.features.values), -1), report.features.coords["feature"]
        chosen = _order(flat, largest)
        parts += [
            Part(f"feature {index[i]}", Site.parse(dictionary.write_site), {"feature": int(index[i])}, flat[i])
            for i in chosen
        ]
    return parts


def _order(effects: Float[Tensor, "part prompt"], largest: int) -> list[int]:
    mean = effects.double().mean(1)
    chosen: list[int] = mean.abs().topk(min(largest, len(mean))).indices.tolist()
    return chosen


def _cuts(
    model: Model,
    batch: Batch,
    parts: Sequence[Part],
    to: str,
    over: Any,
    dictionary: Dictionary | None,
    background: Sequence[Edit],
) -> list[tuple[Edit, ...]]:
    """The edit that takes each part out. A mean is taken once of each site; a feature goes to zero, its error kept."""
    sites = list(dict.fromkeys(part.site for part in parts if not {*part.where} & {*MADE}))
    if over is not None and not isinstance(over, Recording):
        over = model.run(over, capture=dict.fromkeys(s for site in sites for s in (site, *streams(model, site))))
    whole = {site: edits.ablate(str(site), to=to, over=over).prepare(model) for site in sites}
    experts = [(part.site.layer or 0, part.where["expert"]) for part in parts if "expert" in part.where]
    of_experts = iter(without_experts(model, batch, experts, background) if experts else [])
    cuts: list[tuple[Edit, ...]] = []
    for part in parts:
        if "feature" in part.where:
            assert dictionary is not None
            cuts.append((edits.feature(dictionary, part.where["feature"], 0.0),))
        elif "expert" in part.where:
            cuts.append((next(of_experts),))
        else:
            cuts.append((replace(whole[part.site], **indices(part.where)),))
    return cuts
