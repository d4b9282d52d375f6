"""A tuned lens: an affine translator for each layer's stream, behind which the model's own final norm and unembedding read."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.engine.model import Model
from residscope.errors import BadArguments, WrongModel
from residscope.model.sites import Site
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, View


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(Report):
    """Translators of the stream before each block, x -> x + weight x + bias; behind the last block nothing is translated.

    weight[layer, out, in], bias[layer, d]: of resid_pre.layer. kl[lens, layer]: of one that was trained here, KL(run || lens) in
    nats on text that it was not trained on, at the mean, for the plain lens and for this one; None of one that was read from
    another program's files. loss[step]: KL on the text it was trained on, the mean over layers.
    """

    kind: ClassVar[str] = "report:tuned_lens"
    main: ClassVar[str] = "table"
    weight: Float[Tensor, "layer d d"]
    bias: Float[Tensor, "layer d"]
    kl: Result | None = None
    loss: Float[Tensor, " step"] = field(default_factory=lambda: torch.zeros(0))
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def table(self) -> Result:
        """The KLs; of a lens without them the length of each translator's A (Frobenius norm) and b, in the stream's units."""
        return self._sizes if self.kl is None else self.kl

    @property
    def _sizes(self) -> Result:
        return Result(
            torch.stack([self.weight.flatten(1).norm(dim=1), self.bias.norm(dim=1)]), ("part", "layer"),
            coords={"part": ("A", "b"), "layer": tuple(range(len(self.bias)))}, name="length of a translator", unit="norm",
            provenance=dict(self.provenance),
        )  # fmt: skip

    def translated(self, x: Float[Tensor, "*batch d"], layer: int) -> Float[Tensor, "*batch d"]:
        """The stream before block `layer` as it would be at the end; `layer` = the number of layers: the end itself."""
        if layer == len(self.weight):
            return x
        weight, bias = self.weight[layer].to(x.device), self.bias[layer].to(x.device)
        wide = x.to(weight.dtype)
        return wide + wide @ weight.T + bias

    def layer_of(self, site: str) -> int:
        """Which translator is a site's. Raises BadArguments: a place between attention and MLP, which none was trained for."""
        where = Site.parse(site)
        if where.name not in ("resid_pre", "resid_post") or where.layer is None:
            raise BadArguments(
                "a tuned lens reads the stream before and after blocks",
                received=site, allowed="resid_post, resid_pre", fix="leave the lens out there",
            )  # fmt: skip
        return where.layer + (where.name == "resid_post")

    def check(self, model: Model) -> None:
        """Raises WrongModel: a model of other sizes. One that was tuned on from the lens's own may be read."""
        own, asked = tuple(self.bias.shape), (model.n_layers, model.d_model)
        if own != asked:
            raise WrongModel(
                "the lens is of a model of other sizes", received=f"{own[0]} layers, d_model {own[1]}",
                allowed=f"{model.name}: {asked[0]} layers, d_model {asked[1]}",
            )  # fmt: skip

    def view(self) -> View:
        """How far either lens is from the run's own next token, by layer; how training went; how large the translators are."""
        layers = list(range(len(self.weight)))
        shown: list[View] = []
        if self.kl is not None:
            lines = [Line(name, self.kl.select(lens=name).values.tolist()) for name in self.kl.coords["lens"]]
            shown.append(
                Curve(
                    layers,
                    lines,
                    title="KL from the run's own next token, held out",
                    x_title="before block",
                    unit="nats",
                )
            )
        if len(self.loss):
            steps = list(range(len(self.loss)))
            lines = [Line("training", self.loss.tolist())]
            shown.append(Curve(steps, lines, title="KL while training", x_title="step", unit="nats"))
        sizes = [Line(part, self._sizes.select(part=part).values.tolist()) for part in ("A", "b")]
        shown.append(Curve(layers, sizes, title="Length of each translator", x_title="before block", unit="norm"))
        return Grid(shown, columns=1, title="Tuned lens")

    def __repr__(self) -> str:
        said = f"TunedLens({len(self.weight)} layers, d_model {self.bias.shape[1]}"
        if self.kl is None:
            return said + ")"
        plain, tuned = (float(self.kl.select(lens=name).values.mean()) for name in self.kl.coords["lens"])
        return f"{said}: KL {tuned:.3f} nats held out, the plain lens {plain:.3f})"
