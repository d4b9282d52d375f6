"""Basis meter: are a site's own axes special, or would any rotation of them do as well?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.sinks import kept
from residscope.errors import BadArguments, PromptError
from residscope.methods._lib.intervals import bootstrap
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, Line, Table, View

SITES = ("resid_pre", "resid_mid", "resid_post", "q", "k", "v", "z", "attn_out", "mlp_pre", "mlp_post", "mlp_out")
USUAL = ("resid_post", "mlp_post", "z")
OUTLIERS = 3  # axes listed of each place


@dataclass(frozen=True, eq=False, repr=False)
class BasisMeter(Report):
    """How heavy the tails are of each token's coordinates in a site's own axes, beside those in random axes.

    kurtosis[site, layer]: the mean over prompts of the mean over their tokens, with its interval. rotated: the same in randomly
    rotated axes, its interval the range of the draws. axes[site, layer, n]: the axes of largest mean square (of sites with heads,
    counted through head after head), share: their parts of the whole. Sites with heads are rotated within each head.
    """

    kind: ClassVar[str] = "report:basis_meter"
    main: ClassVar[str] = "kurtosis"
    kurtosis: Result
    rotated: Result
    axes: Int[Tensor, "site layer n"]
    share: Float[Tensor, "site layer n"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def privileged(self, site: str) -> tuple[int, ...]:
        """The layers at which the interval in a site's own axes lies above every random rotation."""
        own, other = self.kurtosis.select(site=site), self.rotated.select(site=site)
        assert own.low is not None
        assert other.high is not None
        return tuple(int(layer) for layer in (own.low > other.high).nonzero()[:, 0])

    def view(self) -> View:
        """A curve over layers for each site, its own axes beside rotated ones; the axes that hold most."""
        layers = [*self.kurtosis.coords["layer"]]
        shown: list[View] = []
        for site in map(str, self.kurtosis.coords["site"]):
            lines = []
            for name, result in (("own axes", self.kurtosis), ("random rotations", self.rotated)):
                one = result.select(site=site)
                assert one.low is not None
                assert one.high is not None
                lines.append(Line(name, one.values.tolist(), low=one.low.tolist(), high=one.high.tolist()))
            held = len(self.privileged(site))
            note = f"own axes above every rotation in {held} of {len(layers)} layers; of normal coordinates it is 3"
            shown.append(Curve(layers, lines, title=site, x_title="layer", y_title="kurtosis", note=note))
        rows = [
            [f"{site}.{layer}", *(f"{int(a)}: {float(p):.1%}" for a, p in zip(axes, share, strict=True))]
            for s, site in enumerate(self.kurtosis.coords["site"])
            for layer, axes, share in zip(layers, self.axes[s], self.share[s], strict=True)
        ]
        columns = ["site", *(f"axis {i + 1}" for i in range(self.axes.shape[-1]))]
        shown.append(Table(columns, rows, title="The axes that hold most of the mean square"))
        return Grid(shown, columns=1, title="Is the basis privileged?")

    def __repr__(self) -> str:
        said = (
            f"{site} in {len(self.privileged(str(site)))} of {self.kurtosis.sizes['layer']} layers"
            for site in self.kurtosis.coords["site"]
        )
        return f"BasisMeter(privileged: {', '.join(said)})"


@method("basis-meter", title="Is the basis privileged?", group="reading")
def basis_meter(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    *,
    sites: Annotated[Sequence[str] | None, fields.site(title="places", several=True, every=True, only=SITES)] = None,
    draws: Annotated[int, fields.count(low=2, high=100, help="random rotations")] = 5,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> BasisMeter:
    """Whether a site's own axes stand out: the kurtosis of each token's coordinates, and the same in random axes.

        kurtosis(x) = mean_i (x_i - m)^4 / (mean_i (x_i - m)^2)^2        m = mean_i x_i

    of the coordinates x_i of one token's vector. In axes that mean nothing they are spread as normal numbers, with 3 (a little
    less where there are few); of a vector along one of d axes it is about d. Each draw turns all tokens of a place by one random
    rotation, of the Haar measure, which changes no length and no angle: the same question put to axes that nobody chose.

    sites: unless said, resid_post, mlp_post and z, those that are there. Left out: first tokens, special ones, sinks.
    Intervals: a bootstrap over prompts; with one prompt over its tokens, which is too narrow, for they are not independent.

    A high value says that some axes are special, not that they mean something: a few outlier axes, which an optimizer like Adam
    leaves in the stream, are enough.

        rs.basis_meter(model, ["The cat sat.", "It rained all day."]).privileged("mlp_post")

    Raises:
        BadArguments: a site that is no vector of axes. AbsentSite: one that the family lacks. PromptError: no token to ask.
        Cancelled.

    Elhage, Lasenby and Olah 2023, Privileged Bases in the Transformer Residual Stream.
    """
    names = [name for name in USUAL if name not in model.sites.absent] if sites is None else [*sites]
    strange = [name for name in names if name not in SITES]
    if not names or strange or len({*names}) < len(names):
        raise BadArguments("no such sites, once each", received=str(strange or names)[:80], allowed=", ".join(SITES))
    for name in names:
        model.sites.expand(name)
    batch, draw = model.batch(prompts), torch.Generator().manual_seed(seed)
    places = [f"{name}.{layer}" for name in names for layer in range(model.n_layers)]
    held: dict[str, list[Tensor]] = {place: [] for place in places}
    with stage("Reading activations", len(batch), progress, cancel) as tell:
        for row in range(len(batch)):
            rec = model.run(batch.take([row]).trimmed(), capture=places)
            for place in places:
                held[place].append(rec[place][0][kept(rec, place)[0]].float().cpu())
            tell(row + 1)
    if not all(any(len(x) for x in rows) for rows in held.values()):
        raise PromptError(
            "there is no token to ask", received=f"{len(batch)} prompts",
            allowed="a token that is neither first, nor special, nor an attention sink", fix="give longer prompts",
        )  # fmt: skip
    own, turned, axes, share = [], [], [], []
    with stage("Turning the axes", len(places), progress, cancel) as tell:
        for number, place in enumerate(places):
            rows = [x for x in held.pop(place) if len(x)]
            x = torch.cat(rows)
            own.append(_by_prompt(kurtosis(x), [*map(len, rows)]))
            turned.append(torch.stack([kurtosis(rotated(x, draw)).mean() for _ in range(draws)]))
            power = x.square().mean(0).flatten()
            top = power.topk(min(OUTLIERS, len(power)))
            axes.append(top.indices)
            share.append(top.values / power.sum().clamp_min(1e-30))
            tell(number + 1)
    about = {
        **model.provenance, "method": "basis_meter", "prompts": len(batch), "draws": draws, "seed": seed,
        "interval": "bootstrap over prompts" if len(rows) > 1 else "bootstrap over tokens",
    }  # fmt: skip
    ends = [bootstrap(values, seed=seed) for values in own]
    shape = (len(names), model.n_layers)

    def result(values: Sequence[Tensor], low: Sequence[Tensor], high: Sequence[Tensor], name: str) -> Result:
        parts = [torch.stack([*x]).float().reshape(shape) for x in (values, low, high)]
        return Result(
            parts[0], ("site", "layer"), {"site": names}, low=parts[1], high=parts[2], name=name, unit="kurtosis",
            provenance=about,
        )  # fmt: skip

    return BasisMeter(
        result([x.mean() for x in own], [a for a, _ in ends], [b for _, b in ends], "kurtosis of a token's coordinates"),
        result([x.mean() for x in turned], [x.amin() for x in turned], [x.amax() for x in turned], "in random axes"),
        _table(axes, shape), _table(share, shape), about,
    )  # fmt: skip


def kurtosis(x: Float[Tensor, "token *head axis"]) -> Float[Tensor, " token"]:
    """Of the coordinates of each token's vector, heads averaged; of a constant vector 0."""
    wide = x.double()
    square = (wide - wide.mean(-1, keepdim=True)).square()
    spread = square.mean(-1)
    found = torch.where(spread > 0, square.square().mean(-1) / spread.square().clamp_min(1e-300), 0.0)
    return found.flatten(1).mean(1) if found.ndim > 1 else found


def rotated(x: Float[Tensor, "token *head axis"], draw: torch.Generator) -> Float[Tensor, "token *head axis"]:
    """All tokens turned by one random rotation, of each head its own.

    Where x^T = B R with orthonormal columns in B, x Q is R^T (B^T Q), and B^T Q are some orthonormal rows at random.
    """
    wide = x.double().movedim(0, -2)  # [*head token axis]
    _, R = torch.linalg.qr(wide.mT)
    frame, signs = torch.linalg.qr(torch.randn(wide.mT.shape, generator=draw, dtype=torch.float64))
    frame = frame * signs.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]  # uniform over all frames (Mezzadri 2007)
    return (R.mT @ frame.mT).movedim(-2, 0).to(x.dtype)


def _by_prompt(values: Float[Tensor, " token"], lengths: Sequence[int]) -> Float[Tensor, " row"]:
    """The mean of each prompt; of one prompt its tokens themselves."""
    return torch.stack([part.mean() for part in torch.split(values, [*lengths])]) if len(lengths) > 1 else values


def _table(rows: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
    """One table, as wide as the narrowest row."""
    n = min(map(len, rows))
    return torch.stack([row[:n] for row in rows]).reshape(*shape, n)
