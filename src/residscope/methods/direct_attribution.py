"""Direct logit attribution: a logit difference as the sum of what each component, and each head, writes into the stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.naming import label_of
from residscope.engine.planner import sweep
from residscope.engine.preparing import prepare
from residscope.engine.protocols import Edit, Readout
from residscope.engine.recording import Recording
from residscope.errors import BadSweep, UnalignedPrompts, UnknownPosition
from residscope.methods._lib.direct_effects import DirectEffects, direct_effects, direct_sites, linear
from residscope.model.prompts import Batch, PromptSet
from residscope.progress import Cancel, Progress
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, HeatMap, Line, Table, View

Position = int | str
BY = ("component", "head")


@dataclass(frozen=True, eq=False, repr=False)
class DirectAttribution(Report):
    """A metric of the logits as a sum over what is written into the stream, in logits, the final norm's divisor as it is.

    components: over component (`embed`, `attn_out.3`, `mlp_out.3`, the biases of the final norm and of the unembedding ...); they
    sum to `metric`. heads: over layer and head, where heads were asked for; with `attn_bias`, of each layer, they sum to
    `attn_out`. Each has pos too where every position is attributed, and prompt where there are several.
    """

    kind: ClassVar[str] = "report:direct_attribution"
    main: ClassVar[str] = "components"
    components: Result
    metric: Result
    heads: Result | None = None
    attn_bias: Result | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """Heads as a map; attention and MLPs layer by layer, and what is in no layer. The mean over prompts; of every position
        the components as a map."""
        components = _mean(self.components)
        if "pos" in components.dims:
            views: list[View] = [_map(components)]
        else:
            heads = [] if self.heads is None else [_map(_mean(self.heads), title="Heads")]
            views = [*heads, self._layers(components), self._rest(components)]
        return Grid(views, columns=1, title=f"Direct attribution of {self.metric.name}")

    def _layers(self, components: Result) -> Curve:
        lines = []
        for name in ("attn_out", "mlp_out"):
            own = [i for i, label in enumerate(components.coords["component"]) if str(label).startswith(f"{name}.")]
            if own:
                lines.append(Line(name, components.values[own]))
        return Curve(range(len(lines[0].y)), lines, title="By layer", x_title="layer", unit="logits")

    def _rest(self, components: Result) -> Table:
        labels = components.coords["component"]
        rows: list[list[Any]] = [
            [label, float(value)]
            for label, value in zip(labels, components.values, strict=True)
            if not str(label).startswith(("attn_out.", "mlp_out."))
        ]
        rows.append(["sum of all", float(components.values.sum())])
        return Table(
            ["component", "logits"], rows, title="In no layer", note=f"The metric: {_mean(self.metric).values:.4g}"
        )

    def __repr__(self) -> str:
        total = float(self.metric.values.double().mean())
        parts = "components" if self.heads is None else "components and heads"
        return f"DirectAttribution({self.metric.name}: {total:.4g} logits over {parts})"


def attribute_logits(
    recording: Recording, metric: Readout, *, by: str = "head", position: Position = -1
) -> DirectAttribution:
    """`direct_attribution` of a run that is there already; what it has not recorded is recomputed in one pass.

        rs.attribute_logits(rec, rs.logit_diff(" Mary", " John"), by="head").heads

    Raises:
        As `direct_attribution`, and WeightsChanged, NotRecorded (of a window).
    """
    where = _where(recording.batch, None, metric, position, by)
    effects = direct_effects(recording, metric, where, heads=by == "head")
    about = {**recording.provenance, **_about(recording.model, metric, position, by, effects.error)}
    values = torch.cat([_flat(effects), effects.metric[:, None]], 1)
    return _report(recording.model, recording.batch, effects, values, where, label_of(metric, recording.model), about)


def _price(model: Model, *, prompts: Prompt, **_: Any) -> float:
    """Tokens through the whole model: each prompt once."""
    return float(sum(model.batch(prompts).lengths))


def _refuse(model: Model, *, metric: Readout, **_: Any) -> None:
    linear(metric, model)


@method("direct-attribution", title="Direct logit attribution", group="sweeps", tokens=_price, refuse=_refuse)
def direct_attribution(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    metric: Annotated[Readout, fields.metric()],
    *,
    by: Annotated[str, fields.choice(*BY)] = "head",
    position: Annotated[Position, fields.positions(single=True, named=True, known=("each",))] = -1,
    background: Annotated[Sequence[Edit], fields.edits()] = (),
    batch: int = 16,
    progress: Progress = None,
    cancel: Cancel = None,
) -> DirectAttribution:
    """What each component writes into the stream, read as the logits read it: the terms of a sum that is the metric itself.

        logit[t] = sum_c write_c . (g * W_U[:, t] - mean) / sigma + b . W_U[:, t] + b_U[t]

    over every write c: the embedding, the position embedding, each layer's attention (each head's z W_O and the output's bias)
    and MLP, all as they are added to the stream. sigma is the final norm's divisor as it is in the run, held for every part; g, b
    its gain and bias; the mean is taken off by LayerNorm alone. Of a model that caps its logits, the logits before the cap (the
    provenance says so). The sum is checked against the run's own logits, at every position attributed.

    metric: a logit or a difference of logits; the difference of two log-probabilities is that of their logits, and nothing else
    of the probabilities is a sum. by: "head" gives each head's part beside the components. position: where the logits are read:
    at the end, or where the metric itself says, unless said; a name that the prompts give it, or "each" of prompts of one length.
    background: edits of the run. Those of the stream itself are components of their own.

        rs.direct_attribution(model, rs.tasks.ioi(model, 32), rs.logit_diff()).heads.mean("prompt")

    A direct effect is not what ablating the part would do: later parts that read it are not followed (`rs.ablation_sweep`).

    Raises:
        NotLinear, NotAdditive: the metric is no sum of logits; the parts do not sum to it. UnalignedPrompts, UnknownPosition,
        PromptError, EditError, QuantisedModel, SweepCancelled.

    Elhage et al. 2021, A Mathematical Framework for Transformer Circuits; Wang et al. 2022 (2211.00593).
    """
    data = model.batch(prompts)
    where = _where(data, prompts if isinstance(prompts, PromptSet) else None, metric, position, by)
    acting = prepare(model, background, data.lengths)
    reading = _Terms(metric, where, by == "head", tuple(direct_sites(model, heads=by == "head", edits=acting)))
    swept = sweep(model, prompts, [()], reading, background, batch=batch).run(progress, cancel, what="Attributing")
    assert reading.last is not None
    about = {**swept.provenance, **_about(model, metric, position, by, reading.error)}
    about["background"] = [str(edit) for edit in background]
    return _report(model, data, reading.last, swept.values[0], where, label_of(metric, model), about)


@dataclass
class _Terms:
    """A readout of every term of the sum, then of the metric: [row, term, pos]."""

    metric: Readout
    where: int | str | tuple[int, ...]
    heads: bool
    sites: tuple[str, ...]
    unit: ClassVar[str] = "logits"
    last: DirectEffects | None = None
    error: float = 0.0

    def __call__(self, recording: Any) -> Float[Tensor, "row term pos"]:
        rows = recording.batch.rows
        where = self.where if rows is None or not isinstance(self.where, tuple) else [self.where[row] for row in rows]
        effects = direct_effects(recording, self.metric, where, heads=self.heads)
        self.last, self.error = effects, max(self.error, effects.error)
        return torch.cat([_flat(effects), effects.metric[:, None]], 1)


def _flat(effects: DirectEffects) -> Float[Tensor, "row term pos"]:
    """Components, then each layer's heads and its bias."""
    terms = [torch.stack([*effects.components.values()], 1)]
    if effects.heads is not None and effects.attn_bias is not None:
        terms += [effects.heads.flatten(0, 1).transpose(0, 1), effects.attn_bias.transpose(0, 1)]
    return torch.cat(terms, 1)


def _report(
    model: Model,
    batch: Batch,
    effects: DirectEffects,
    values: Float[Tensor, "row term pos"],
    where: Any,
    label: str,
    about: Mapping[str, Any],
) -> DirectAttribution:
    """Terms as `_flat` has them, then the metric, as results."""
    names, n, heads = [*effects.components], model.n_layers, model.n_heads
    along: dict[str, str] = {}
    coords: dict[str, Any] = {}
    if where == "each" and len(batch) == 1:
        texts = model.token_texts(batch.ids[0, : batch.lengths[0]].tolist())
        coords, along = {"token": texts[-values.shape[-1] :]}, {"token": "pos"}

    def result(terms: Tensor, name: str, dims: tuple[str, ...] = (), sizes: tuple[int, ...] = (), **own: Any) -> Result:
        """Terms [row, term, pos] over the dimensions that the terms are of, then pos and prompt where they are several."""
        table = terms.movedim(0, -1).reshape(*sizes, *terms.shape[-1:], len(terms))
        dims = (*dims, "pos", "prompt")
        if where != "each":
            table, dims = table.squeeze(-2), (*dims[:-2], "prompt")
        if len(terms) == 1:
            table, dims = table.squeeze(-1), dims[:-1]
        return Result(table, dims, {**coords, **own}, along, name=name, unit="logits", provenance=about)

    parts = torch.split(values, [len(names), *([n * heads, n] if effects.heads is not None else []), 1], 1)
    return DirectAttribution(
        components=result(parts[0], f"direct effect on the {label}", ("component",), (len(names),), component=names),
        metric=result(parts[-1], label),
        heads=None
        if len(parts) < 4
        else result(parts[1], f"direct effect on the {label}", ("layer", "head"), (n, heads)),
        attn_bias=None if len(parts) < 4 else result(parts[2], "direct effect of attention's biases", ("layer",), (n,)),
        provenance=about,
    )


def _about(model: Model, metric: Readout, position: Position, by: str, error: float) -> dict[str, Any]:
    cap = model.layout.factors.logits_cap
    return {
        "method": "direct logit attribution",
        "metric": label_of(metric, model),
        "by": by,
        "position": _said(metric, position),
        "final norm": "its divisor as it is in the run",
        "logits": "as the model emits them"
        if cap is None
        else f"before their cap of {cap:g}, of which no sum is exact",
        "error of the sum, at most": error,
    }


def _where(
    batch: Batch, names: PromptSet | None, metric: Readout, position: Position, by: str
) -> int | str | tuple[int, ...]:
    """Where the logits are read: one position, one for each prompt, or "each"."""
    if by not in BY:
        raise BadSweep("there is no such attribution", received=repr(by), allowed=" or ".join(map(repr, BY)))
    position = _said(metric, position)
    if position == "each" and len({*batch.lengths}) > 1:
        raise UnalignedPrompts(
            "positions of prompts of unequal length do not correspond",
            received=f"lengths {min(batch.lengths)} to {max(batch.lengths)}",
            fix='name one: position="END" of a PromptSet, or count from the end: position=-1',
        )
    if isinstance(position, int) or position == "each":
        return position
    if names is None:
        raise UnknownPosition("the prompts name no positions", received=repr(position), allowed='a number, or "each"')
    return names.at(position)


def _said(metric: Readout, position: Position) -> Position:
    """The position asked for: the metric's own where none is."""
    return getattr(metric, "pos", -1) if position == -1 else position


def _map(result: Result, *, title: str = "") -> HeatMap:
    """Two dimensions as a map, what is written first at the bottom."""
    shown = result.view()
    assert isinstance(shown, HeatMap)
    return replace(shown, title=title, bottom_up=True)


def _mean(result: Result) -> Result:
    return result.mean("prompt") if "prompt" in result.dims else result
