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
    source position, what each head moves from it; with `value_bias`, over layer and head, they sum to `heads`. Each has pos too
    where every position is attributed, and prompt where there are several.
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
        return Grid(views, columns=1, title=f"Direct attribution of {self.metric.name}")

    def to_dataframe(self) -> "pandas.DataFrame":
        """The table of the finest parts there are: sources of heads, heads, neurons, or components."""
        finest = self.sources or self.heads or self.neurons or self.components
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

    def __repr__(self) -> str:
        total = float(self.metric.values.double().mean())
        parts = "components" + ("" if self.heads is None else " and heads")
        parts += "" if self.sources is None else " by source"
        parts += "" if self.neurons is None else " and neurons"
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
