"""Layer swap: which layers' change matters, with the weights of another model in their place one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from residscope import edits, fields
from residscope.declare.methods import method
from residscope.engine.alike import require_alike
from residscope.engine.memory import budget
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of, unit_of
from residscope.engine.parameters import plain_weight
from residscope.engine.planner import sweep
from residscope.engine.protocols import Edit, Readout
from residscope.errors import OtherModel
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress, within
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Table

PARTS = ("layer", "attention", "MLP")


@dataclass(frozen=True, eq=False, repr=False)
class LayerSwap(Report):
    """What each layer's change is worth to a metric, the mean over prompts, in its unit.

    grafted: the metric of a model whose embedding and first layers are the other's: over `below`, how many layers are (-1: not
    even the embedding). Its steps and the last one, of the final norm and unembedding, sum to the whole difference.
    swapped: what the metric of this model gains where one part alone is the other's, over part and layer. restored: what the
    metric of the other gains where one part alone is put back. ends: the two models' own metrics.
    """

    kind: ClassVar[str] = "report:layer_swap"
    main: ClassVar[str] = "swapped"
    ends: Result
    grafted: Result
    swapped: Result | None = None
    restored: Result | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """The other's metric less this one's."""
        return float(self.ends.values[1] - self.ends.values[0])

    @property
    def interaction(self) -> float:
        """What of the whole difference no layer has alone: the total less the sum of single layers swapped, and of what is in no
        layer. NaN until the layers have been swapped."""
        if self.swapped is None:
            return float("nan")
        steps = self.grafted.values.diff()
        ends = float(steps[0]) + self.total - float(self.grafted.values[-1] - self.grafted.values[0])
        return self.total - float(self.swapped.select(part="layer").values.sum()) - ends

    def view(self) -> Grid:
        """The graft as a curve, single layers as curves, and what they sum to."""
        unit, names = self.ends.unit, self.ends.coords["name"]
        grafted = Curve(
            [*self.grafted.coords["below"]],
            [Line(self.ends.name, self.grafted.values)],
            title=f"The first layers of {names[1]}, the rest of {names[0]}",
            x_title="layers from the other (-1: none, 0: the embedding)",
            unit=unit,
        )
        alone = [
            Curve(
                [*one.coords["layer"]],
                [Line(str(part), one.select(part=part).values) for part in one.coords["part"]],
                title=one.name,
                x_title="layer",
                unit=unit,
            )
            for one in (self.swapped, self.restored)
            if one is not None
        ]
        rows: list[list[Any]] = [[name, float(x)] for name, x in zip(names, self.ends.values, strict=True)]
        rows.append(["difference", self.total])
        if self.swapped is not None:
            rows.append(["sum of single layers", float(self.swapped.select(part="layer").values.sum())])
            rows.append(["together only", self.interaction])
        note = "Together only: of the difference, what no layer makes alone. It is not anyone's share."
        return Grid(
            [grafted, *alone, Table(["", unit], rows, title="Sums", note=note)], columns=1, title=self.ends.name
        )

    def __repr__(self) -> str:
        return f"LayerSwap({self.ends.name}: {float(self.ends.values[0]):.4g} to {float(self.ends.values[1]):.4g})"


def _price(model: Model, *, prompts: Prompt, **_: Any) -> float:
    """Tokens through the whole model: each prompt once in this model, twice in the other for each way, and once for half of
    the layers for each cell."""
    tokens, n = sum(model.batch(prompts).lengths), model.n_layers
    return float(tokens * (6 + (n + 1) / 2 + 2 * len(PARTS) * n / 2))


def _steps(
    model: Model, other: Model, prompts: Prompt, metric: Readout, *, progress: Progress = None, cancel: Cancel = None
) -> Iterator[LayerSwap]:
    """Ever fuller: the graft, then single parts swapped, then single parts put back."""
    require_alike(model, other)
    _require_same_positions(model, other)
    batch = model.batch(prompts)
    about = {
        **model.provenance,
        "method": "layer swap",
        "other": {"model": other.name, "hash": other.fingerprint() if other.hash else ""},
        "prompts": len(batch),
    }
    names, n, label = [model.name, other.name], model.n_layers, label_of(metric, model)

    def result(values: Tensor, dims: tuple[str, ...], title: str, **coords: Any) -> Result:
        along = {"name": "model"} if "name" in coords else {}
        return Result(values, dims, coords, along, name=title, unit=unit_of(metric), provenance=about)

    ends = torch.stack([_mean(m.run(batch, metric.sites), metric) for m in (model, other)])
    base = result(ends, ("model",), label, model=("this", "other"), name=names)
    graft = _swept(model, other, batch, metric, _grafts, n + 1, within(progress, "Grafting"), cancel)
    grafted = result(torch.cat([ends[:1], ends[0] + graft]), ("below",), f"grafted, {label}", below=range(-1, n + 1))
    yield LayerSwap(base, grafted, provenance=about)
    parts = PARTS if "mlp_out" in model.sites.names else PARTS[:2]
    swaps: dict[str, Result] = {}
    for word, here, there in (("swapped", model, other), ("restored", other, model)):
        told = within(progress, "Swapping" if word == "swapped" else "Putting back")
        values = _swept(here, there, batch, metric, _swaps, len(parts) * n, told, cancel).reshape(len(parts), n)
        title = f"{'Swapped into' if word == 'swapped' else 'Put back in'} {here.name}"
        swaps[word] = result(values, ("part", "layer"), title, part=parts)
        yield LayerSwap(base, grafted, **swaps, provenance=about)


@method("layer-swap", title="Which layers' change matters", group="comparison", steps=_steps, tokens=_price)
def layer_swap(
    model: Model,
    other: Annotated[Model, fields.model()],
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    progress: Progress = None,
    cancel: Cancel = None,
) -> LayerSwap:
    """What each layer's change of weights is worth: the metric with one layer, its attention or its MLP taken from another model.

        swapped[l] = m(W with W_l = W'_l) - m(W)        restored[l] = m(W' with W'_l = W_l) - m(W')

    Exact, without a weight being written: what a layer of the other model adds to this one's stream is computed by the other in
    one pass that holds every layer's input at this model's, and put in as what the layer adds; below it nothing changes, so
    every cell is a cell of the planner (`rs.sweep`) and joins at its own layer. `grafted` has the embedding and the first
    layers from the other and the rest from this one.

    Layers that were changed together work together: single swaps need not sum to the whole (`LayerSwap.interaction`), the steps
    of the graft do, in the order of the layers.

        rs.layer_swap(model, other, prompt, rs.logit_diff(" Mary", " John")).swapped

    Raises:
        OtherModel: shapes, sites or tokens differ. PromptError, SweepCancelled.

    Bansal et al. 2021, Revisiting Model Stitching (2106.07682); Prakash et al. 2024 (2402.14811) for patching between a model
    and its fine-tune; Bandarkar et al. 2024, Layer Swapping (2410.01335).
    """
    *_, whole = _steps(model, other, prompts, metric, progress=progress, cancel=cancel)
    return whole


def _require_same_positions(model: Model, other: Model) -> None:
    """Refuse layers that read learnt positions beside the stream, where these differ: a layer is more than its weights then."""
    (own, theirs) = (m.layout.pos_embed for m in (model, other))
    if own is None or theirs is None or "pos_embed" in model.sites.names:
        return
    if not torch.equal(plain_weight(own), plain_weight(theirs)):
        raise OtherModel(
            "every layer reads the model's own position embeddings, and they differ", received=other.name,
            allowed=f"the positions of {model.name}",
        )  # fmt: skip


def _mean(recording: Any, metric: Readout) -> Tensor:
    return metric(recording).double().mean().cpu()


def _swept(
    model: Model,
    other: Model,
    batch: Batch,
    metric: Readout,
    cells: Any,
    count: int,
    progress: Progress,
    cancel: Cancel,
) -> Tensor:
    """What each cell adds to the metric, the mean over prompts, some of them at a time."""
    each = 6 * model.n_layers * model.d_model * batch.ids.shape[1] * model.dtype.itemsize
    size = max(1, budget(model.device) // 4 // each)
    total = torch.zeros(count, dtype=torch.float64)
    for first in range(0, len(batch), size):
        rows = batch.take(range(first, min(first + size, len(batch)))) if size < len(batch) else batch
        plan = sweep(model, rows, cells(model, other, rows), metric)
        swept = plan.run(progress, cancel, what="Swapping layers").values.double()
        total += (swept - plan.baseline().double().cpu()).sum(1)
    return total / len(batch)


def _held(model: Model, name: str, value: Tensor) -> Edit:
    return edits.patch(name, {str(model.sites.canonical(name)): value})


def _grafts(model: Model, other: Model, rows: Batch) -> list[list[Edit]]:
    """The stream of the other put in: in front of the first layer, and behind each."""
    n = model.n_layers
    whole = other.run(rows)
    names = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(n))]
    return [[_held(model, name, whole[name])] for name in names]


def _swaps(model: Model, other: Model, rows: Batch) -> list[list[Edit]]:
    """What each layer of the other adds to this model's stream, put in: the layer whole, its attention alone, its MLP alone."""
    n, table = model.n_layers, model.sites
    mlps, between = "mlp_out" in table.names, "resid_mid" in table.names
    wanted = ["resid_pre", *(["resid_mid"] if mlps and between else [])]
    base = model.run(rows, wanted)
    writes = ["attn_out", *(["mlp_out"] if mlps else [])]

    def through(site: str, capture: list[str]) -> Any:
        held = [_held(other, f"{site}.{layer}", base[f"{site}.{layer}"]) for layer in range(n)]
        return other.run(rows, capture, edits=held)

    whole = through("resid_pre", writes)
    alone = through("resid_mid", ["mlp_out"]) if mlps and between else whole

    def cell(layer: int, *parts: tuple[str, Any]) -> list[Edit]:
        return [_held(model, f"{name}.{layer}", run[f"{name}.{layer}"]) for name, run in parts]

    layers, both = range(n), [(name, whole) for name in writes]
    cells = [cell(layer, *both) for layer in layers] + [cell(layer, ("attn_out", whole)) for layer in layers]
    return cells + ([cell(layer, ("mlp_out", alone)) for layer in layers] if mlps else [])
