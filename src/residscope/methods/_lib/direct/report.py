"""What direct attribution answers with, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from residscope.reports import Report
from residscope.results import Result
from residscope.shown_tokens import visible
from residscope.views import Curve, Grid, HeatMap, Line, Table, View

if TYPE_CHECKING:
    import pandas

MOST_SHOWN = 20


@dataclass(frozen=True, eq=False, repr=False)
class DirectAttribution(Report):
    """A metric of the logits as a sum over what is written into the stream, in logits, the final norm's divisor as it is.

    components: over component (`embed`, `attn_out.3`, `mlp_out.3`, the biases of the final norm and of the unembedding ...); they
    sum to `metric`. heads: over layer and head, where those were asked for; with `attn_bias`, of each layer, they sum to
    `attn_out`. neurons: over layer and neuron, likewise; with `mlp_bias` they sum to `mlp_out`. sources: over layer, head and
    source position, what each head moves from it; with `value_bias`, over layer and head, they sum to `heads`. experts: over
    layer and expert; with `mlp_bias` they sum to `mlp_out`. features: of a dictionary, over feature, those that have an effect
    anywhere (of very many the largest); with `beside_features`, over part (other features, bias, error), they sum to
    `decomposed`: the component at the dictionary's write site, or all that was written into the stream before it. removed: over
    part, effect (direct, total) and prompt, what the metric loses when the part is taken out, beside its direct effect; where
    that was asked for. Each other has pos too where every position is attributed, and prompt where there are several.
    """

    kind: ClassVar[str] = "report:direct_attribution"
    main: ClassVar[str] = "components"
    components: Result
    metric: Result
    heads: Result | None = None
    attn_bias: Result | None = None
    neurons: Result | None = None
    mlp_bias: Result | None = None
    sources: Result | None = None
    value_bias: Result | None = None
    experts: Result | None = None
    features: Result | None = None
    beside_features: Result | None = None
    decomposed: Result | None = None
    removed: Result | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """Heads as a map, or the strongest neurons; attention and MLPs by layer, and what is in no layer. The mean over prompts;
        of every position the components as a map."""
        components = _mean(self.components)
        if "pos" in components.dims:
            views: list[View] = [_map(components)]
        else:
            heads = [] if self.heads is None else [_map(_mean(self.heads), title="Heads")]
            neurons = [] if self.neurons is None else [_strongest(_mean(self.neurons))]
            sources: list[View] = []
            if self.sources is not None and self.value_bias is not None:
                sources = [_from_sources(_mean(self.sources), _mean(self.value_bias))]
            views = [*heads, *sources, *neurons, self._layers(components), self._rest(components)]
            views[:0] = [] if self.experts is None else [_map(_mean(self.experts), title="Experts")]
            views[:0] = [] if self.features is None else [self._features()]
        views += [] if self.removed is None else [self._removed()]
        return Grid(views, columns=1, title=f"Direct attribution of {self.metric.name}")

    def to_dataframe(self) -> "pandas.DataFrame":
        """The table of the finest parts there are: sources of heads, heads, neurons, or components."""
        finest = self.features or self.sources or self.heads or self.neurons or self.experts or self.components
        return finest.to_dataframe()

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

    def _removed(self) -> Table:
        """Direct and total effect of each part that was taken out, the largest of either first."""
        assert self.removed is not None
        values = _mean(self.removed).values
        order = values.abs().amax(1).argsort(descending=True).tolist()
        rows: list[list[Any]] = [[self.removed.coords["part"][i], *map(float, values[i])] for i in order]
        note = f"Total: what the metric loses when the part is taken out, at {self.removed.provenance['taken out']}."
        return Table(["part", "direct, logits", "total, logits"], rows, title="Taken out, and read again", note=note)

    def _features(self) -> Table:
        """The features that add most, and those that take most away; then what is beside them."""
        assert self.features is not None
        assert self.beside_features is not None
        assert self.decomposed is not None
        features, beside = _mean(self.features), _mean(self.beside_features)
        chosen = features.values.abs().topk(min(MOST_SHOWN, len(features.values))).indices
        order = chosen[features.values[chosen].argsort(descending=True)].tolist()
        rows: list[list[Any]] = [[f"{features.coords['feature'][i]}", float(features.values[i])] for i in order]
        rest = float(features.values.double().sum() - features.values[order].double().sum())
        rows.append(["features not listed", rest + float(beside.values[0])])
        rows += [[str(part), float(x)] for part, x in zip(beside.coords["part"][1:], beside.values[1:], strict=True)]
        rows.append(["sum of all", float(features.values.double().sum() + beside.values.double().sum())])
        note = f"What they decompose ({self.provenance['dictionary']}): {_mean(self.decomposed).values:.4g}."
        return Table(["feature", "logits"], rows, title="Features", note=note)

    def __repr__(self) -> str:
        total = float(self.metric.values.double().mean())
        parts = "components" + ("" if self.heads is None else " and heads")
        parts += "" if self.sources is None else " by source"
        fine = {"neurons": self.neurons, "experts": self.experts, "features": self.features}
        parts += "".join(f" and {name}" for name, result in fine.items() if result is not None)
        return f"DirectAttribution({self.metric.name}: {total:.4g} logits over {parts})"


def _map(result: Result, *, title: str = "") -> HeatMap:
    """Two dimensions as a map, what is written first at the bottom."""
    shown = result.view()
    assert isinstance(shown, HeatMap)
    return replace(shown, title=title, bottom_up=True)


def _strongest(neurons: Result) -> Table:
    """The neurons that add most, and those that take most away."""
    flat, n = neurons.values.flatten(), neurons.values.shape[1]
    chosen = flat.abs().topk(min(MOST_SHOWN, len(flat))).indices
    rows = [[f"{i // n}.{i % n}", float(flat[i])] for i in chosen[flat[chosen].argsort(descending=True)].tolist()]
    note = f"The {len(rows)} strongest of {len(flat):,}; those of a layer are `mlp_post` read through W_out."
    return Table(["neuron", "logits"], rows, title="Neurons", note=note)


def _from_sources(sources: Result, bias: Result) -> Table:
    """The heads and the positions that they move most from."""
    flat, (_, heads, n) = sources.values.flatten(), sources.values.shape
    chosen = flat.abs().topk(min(MOST_SHOWN, len(flat))).indices
    texts = sources.coords.get("source_token", [""] * n)
    rows: list[list[Any]] = []
    for i in chosen[flat[chosen].argsort(descending=True)].tolist():
        at, k = divmod(i, n)
        rows.append([f"{at // heads}.{at % heads}", k, visible(str(texts[k])), float(flat[i])])
    both = float(flat.double().sum()), float(bias.values.double().sum())
    note = f"The {len(rows)} strongest of {len(flat):,}. All of them sum to {both[0]:.4g}, the values' biases to {both[1]:.4g}."
    return Table(["head", "source", "token", "logits"], rows, title="Heads by source", note=note)


def _mean(result: Result) -> Result:
    return result.mean("prompt") if "prompt" in result.dims else result
