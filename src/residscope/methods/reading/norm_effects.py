"""What each norm does to a run's stream: its divisors, the direction that it takes away, the axes that it makes longer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.layout import Norm
from residscope.engine.model import Model, Prompt
from residscope.engine.sinks import kept
from residscope.errors import PromptError
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, HeatMap, Line, Table, View


@dataclass(frozen=True, eq=False, repr=False)
class NormEffects(Report):
    """The norms of the stream in the order of the forward: before each attention and MLP, and the final one.

    divisors[norm, pos]: sigma, what the stream is divided by. mean_share[norm]: of the squared length of the stream, the share
    along (1, ..., 1), which LayerNorm takes away; the mean over tokens but the first and attention sinks; 0 of RMSNorm, which
    keeps it. axes[norm, n], gains[norm, n]: the axes of the stream that the norm makes longest, and by how much, beside
    typical[norm], the median |gain|.
    """

    kind: ClassVar[str] = "report:norm_effects"
    main: ClassVar[str] = "divisors"
    prompt: tuple[str, ...]
    kinds: tuple[str, ...]
    divisors: Result
    mean_share: Float[Tensor, " norm"]
    axes: Int[Tensor, "norm n"]
    gains: Float[Tensor, "norm n"]
    typical: Float[Tensor, " norm"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> View:
        """Divisors by token; the share that LayerNorm removes, where there is one; the longest axes."""
        names = [str(name) for name in self.divisors.coords["norm"]]
        shown: list[View] = [
            HeatMap(
                self.divisors.values, names, list(self.prompt), bottom_up=True, scale="sequential", row_title="norm",
                title="What each norm divides the stream by", limit=_limit(self.divisors.values),
                note="an attention sink's divisor is far above the others': its column is over the scale",
            )
        ]  # fmt: skip
        if "layer" in self.kinds:
            line = Line("share", self.mean_share.tolist())
            shown.append(
                Curve(
                    names,
                    [line],
                    title="Share of the stream along (1, ..., 1): LayerNorm takes it",
                    x_title="norm",
                )
            )
        rows = [
            [
                name,
                float(typical),
                *(f"{axis}: {gain:+.3g}" for axis, gain in zip(axes.tolist(), gains.tolist(), strict=True)),
            ]
            for name, typical, axes, gains in zip(names, self.typical, self.axes, self.gains, strict=True)
        ]
        columns = ["norm", "median |gain|", *(f"axis {i + 1}" for i in range(self.axes.shape[1]))]
        return Grid(
            [*shown, Table(columns, rows, title="The axes that each norm makes longest")],
            columns=1,
            title="What the norms do",
        )

    def __repr__(self) -> str:
        return f"NormEffects({len(self.kinds)} norms, {len(self.prompt)} positions)"


@method("norm-effects", title="What each norm does", group="reading")
def norm_effects(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    *,
    axes: Annotated[int, fields.count(low=1, high=50, help="the longest of each norm")] = 5,
    progress: Progress = None,
    cancel: Cancel = None,
) -> NormEffects:
    """What each norm of the stream does in a run: y = (x - mean x) / sigma * gain + bias; RMSNorm without the mean and the bias.

        sigma = sqrt(var x + eps)   or   sqrt(mean x^2 + eps)

    The divisor is a number of the token: freezing it makes the norm linear (`edits.freeze` of the `attn_scale`, `mlp_scale` and
    `final_scale` sites). Norms behind attention or the MLP, of queries and of keys read no stream, and are left out.

    Raises:
        PromptError: several prompts. QuantisedModel: the gains are not at hand. Cancelled.
    """
    model.require_exact_weights("the norms' gains")
    batch = model.batch(prompt)
    if len(batch) != 1:
        raise PromptError("what norms do is read of one prompt", received=f"{len(batch)} prompts", fix="ask for each")
    norms = list(norms_of(model))
    rec = model.run(batch, capture=[site for _, site, _ in norms])
    use = torch.stack([kept(rec, site)[0] for _, site, _ in norms]).all(0)
    sigma, share, top, values, typical = [], [], [], [], []
    with stage("Reading norms", len(norms), progress, cancel) as tell:
        for number, (_, site, norm) in enumerate(norms):
            x = rec[site][0].float()
            sigma.append(norm.sigma(x)[:, 0].cpu())
            along = x.mean(-1).square() * x.shape[-1] / x.square().sum(-1)
            share.append(along[use].mean().cpu() if norm.kind == "layer" else torch.zeros(()))
            gain = norm.gain.detach().float().cpu()
            best = gain.abs().topk(min(axes, len(gain))).indices
            top.append(best)
            values.append(gain[best])
            typical.append(gain.abs().median())
            tell(number + 1)
    names = tuple(name for name, _, _ in norms)
    tokens = tuple(model.token_texts(batch.ids[0].tolist()))
    about = {**model.provenance, "method": "norm_effects"}
    coords = {"norm": names, "pos": tuple(range(len(tokens)))}
    result = Result(torch.stack(sigma), ("norm", "pos"), coords, name="divisor", unit="stream", provenance=about)
    kinds = tuple(norm.kind for _, _, norm in norms)
    return NormEffects(
        tokens, kinds, result, torch.stack(share), torch.stack(top), torch.stack(values), torch.stack(typical), about
    )


def norms_of(model: Model) -> Iterator[tuple[str, str, Norm]]:
    """The norms that read the stream: their names, what they read, and themselves."""
    mid = "resid_pre" if "resid_mid" in model.sites.absent else "resid_mid"
    for layer, block in enumerate(model.layout.blocks):
        if block.attn_norm is not None:
            yield f"attn {layer}", f"resid_pre.{layer}", block.attn_norm
        if block.mlp_norm is not None:
            yield f"mlp {layer}", f"{mid}.{layer}", block.mlp_norm
    yield "final", f"resid_post.{model.n_layers - 1}", model.layout.final_norm


def _limit(values: Tensor) -> float:
    """The scale's end: what 98.5 % of the divisors are below."""
    return float(values[:, 1:].quantile(0.985)) if values.shape[1] > 1 else float(values.max())
