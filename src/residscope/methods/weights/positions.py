"""Positions: how they get in, what the position embedding is made of, and how much of each head's scores they explain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import pi
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model, Prompt
from residscope.engine.parameters import plain_weight
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import PromptError
from residscope.methods._lib.by_head import wide
from residscope.methods._lib.heads.score_shares import PARTS, ScoreShares, centred
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Curve, Grid, HeatMap, Line, Table, View

COMPONENTS = 16  # of the spectrum that are listed
OFFSETS = 24  # of the profile
WAYS = {
    "rotary": "rotary: queries and keys are turned by their position, so a score depends on the offset",
    "added": "learned, added to the stream: scores depend on places through what queries and keys read",
    "slopes": "slopes on the scores (ALiBi): each head's scores fall with the offset at its own rate",
    "beside": "learned, added to what queries and keys read, never to the stream",
}


@dataclass(frozen=True, eq=False, repr=False)
class Positions(Report):
    """How much of the variance of each head's scores goes with position, and what a learned position embedding is made of.

    shares[part, layer, head]: of the variance around each query's mean, what the offset explains, what the key's place in the
    prompt adds (the same in all prompts; 0 of one prompt, where place and content cannot be told apart), what the key adds, and
    what is left, the pair's own. chance: the same with each query's keys shuffled; of the place, with its sign changed from
    prompt to prompt. offset_alone[layer, head]: what of the offset's share no place and no key could explain as well.
    profile[layer, head, offset]: the mean score less its query's; NaN where no pair has the offset.

    spectrum[component]: singular values of the position embedding less its mean, where there is one; power: their shares of the
    variance; random: the first one's share of a random matrix of that shape. period[term]: tokens in one period of the
    strongest Fourier term of the component over places, peak: that term's share. wavelengths: of the rotary pairs.
    """

    kind: ClassVar[str] = "report:positions"
    main: ClassVar[str] = "shares"
    how: str
    shares: Result
    chance: Result
    offset_alone: Result
    profile: Result
    spectrum: Result | None
    power: Float[Tensor, " component"]
    period: Float[Tensor, " term"]
    peak: Float[Tensor, " term"]
    random: float
    wavelengths: Float[Tensor, " pair"]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def blanks(self) -> int:
        """Heads all of whose scores are alike."""
        return int(self.shares.values.isnan().sum())

    def few(self, share: float = 0.9) -> int:
        """How many components hold so much of the position embedding's variance; 0 where there is none."""
        return 0 if self.spectrum is None else int((self.power.cumsum(0) < share).sum()) + 1

    def top(self, part: str = "offset", n: int = 10) -> list[tuple[int, int, float]]:
        """The heads of which a part explains most: layer, head and share."""
        values = self.shares.select(part=part).values.nan_to_num(-1)
        best = values.flatten().topk(min(n, values.numel()))
        return [(*divmod(int(i), values.shape[1]), float(v)) for i, v in zip(best.indices, best.values, strict=True)]

    def view(self) -> View:
        """A map of the heads for each part; the heads that go by offset most, with the offsets they like; the spectrum."""
        layers, heads = self.shares.values.shape[1:]
        maps: list[View] = [
            HeatMap(
                values, range(layers), range(heads), title=f"Explained by the {part}" if part != "pair" else "Of the pair alone",
                row_title="layer", column_title="head", unit="share", scale="sequential", limit=1.0, bottom_up=True,
                note=f"by chance {float(chance.nanmean()):.1%} in the mean",
            )
            for part, values, chance in zip(PARTS, self.shares.values, self.chance.values, strict=True)
        ]  # fmt: skip
        rows = [
            [f"{a}.{b}", *(float(x) for x in self.shares.values[:, a, b]), self._liked(a, b)] for a, b, _ in self.top()
        ]
        shown: list[View] = [
            Grid(maps),
            Table(["head", *PARTS, "offsets it likes most"], rows, title="Heads that go by the offset"),
        ]
        if self.spectrum is not None:
            line = Line("share", self.power.tolist())
            note = f"{self.few()} of {len(self.power)} components hold 90 %; the first of a random matrix holds {self.random:.1%}"
            shown.append(
                Curve([*range(len(self.power))], [line], title="Position embedding", x_title="component", note=note)
            )
            waves = [[i, *map(float, x)] for i, x in enumerate(zip(self.power, self.period, self.peak, strict=False))]
            shown.append(
                Table(["component", "share", "period, tokens", "of its variance"], waves, title="Fourier terms")
            )
        return Grid(shown, columns=1, title=f"Positions, {self.how}")

    def _liked(self, layer: int, head: int) -> str:
        values = self.profile.values[layer, head].nan_to_num(-float("inf"))
        return ", ".join(str(int(i)) for i in values.topk(min(3, len(values))).indices)

    def __repr__(self) -> str:
        mean = self.shares.values.nanmean((1, 2))
        said = ", ".join(f"{part} {float(x):.0%}" for part, x in zip(PARTS, mean, strict=True))
        return f"Positions({self.how.split(':')[0]}; of the scores' variance {said}, heads' mean)"


@method("positions", title="Positions", group="weights")
def positions(
    model: Model,
    prompts: Annotated[Prompt, fields.prompts()],
    *,
    tokens: Annotated[int, fields.count(low=4, high=256, help="of each prompt, from its start")] = 64,
    draws: Annotated[int, fields.count(low=1, high=50, help="shuffled controls")] = 3,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Positions:
    """How positions come in, and how much of each head's attention scores goes with them, over some prompts.

        s(q, k) = a(q) + f(q - k) + p(k) + g(key) + rest

    fitted by least squares to the scores before the softmax, one offset f, one place p and one key g after the other, so that
    each explains what those before it leave over: shares of the variance around a(q), the mean of a query, of which a softmax
    knows nothing. A head that looks at the token before has its variance in the offset; one that looks for some words in the key;
    one that looks for copies in the rest. A linear trend over places is one over offsets too, and is counted there. Keys and
    queries left out: first tokens, special ones, attention sinks of any layer, and what a mask hides. Give several prompts, of
    some 40 tokens or more: `chance` says what as many numbers explain of shuffled keys.

        rs.positions(model, ["The cat sat on the mat because it was warm.", "It rained all day, so we stayed."]).top("offset")

    It is a description of runs, not an intervention. A learned position embedding is read by itself: singular values, and the
    Fourier terms of its components over places.

    Raises:
        PromptError: no query with two keys. QuantisedModel: a position embedding that is not at hand. Cancelled.
    """
    batch = model.batch(prompts)
    lengths = [min(n, tokens) for n in batch.lengths]
    order = sorted(range(len(batch)), key=lambda row: -lengths[row])  # the longest tells which layers see alike
    draw = torch.Generator().manual_seed(seed)
    profile = _Profile(model.n_layers, model.n_heads)
    groups: list[list[int]] = []
    found: list[ScoreShares] = []
    with stage("Reading scores", len(order), progress, cancel) as tell:
        for done, row in enumerate(order, 1):
            ids = batch.ids[row : row + 1, : lengths[row]].tolist()
            rec = model.run(ids, ["scores", "resid_pre", f"resid_post.{model.n_layers - 1}"])
            masks = _pairs(rec)
            if not groups:
                groups = _alike(model, masks)
                heads = [model.heads_at(own[0]).n_heads for own in groups]
                found = [
                    ScoreShares(lengths[row], len(order), len(own) * n, draws, draw)
                    for own, n in zip(groups, heads, strict=True)
                ]
            for own, into in zip(groups, found, strict=True):
                pairs = masks[own[0]]
                if bool(pairs.any()):
                    scores = torch.stack([rec["scores", layer][0].double().cpu() for layer in own])
                    into.add(scores.flatten(0, 1), pairs)
                    profile.add(own, scores, pairs)
            tell(done)
    if not all(into.added for into in found):
        raise PromptError(
            "no query has two keys to tell apart", received=f"{max(lengths)} tokens at most",
            allowed="tokens that are neither first, nor special, nor attention sinks", fix="give longer prompts",
        )  # fmt: skip
    read = torch.full((2 * len(PARTS) + 1, model.n_layers, model.n_heads), torch.nan, dtype=torch.float64)
    with stage("Sharing out their variance", len(groups), progress, cancel) as tell:
        for done, (own, into) in enumerate(zip(groups, found, strict=True), 1):
            shares, chance, alone = into.shares()
            table = torch.cat([shares, chance, alone[None]]).reshape(len(read), len(own), -1)
            read[:, own] = wide(table, model.n_heads, 2)
            tell(done)
    about = {
        **model.provenance, "method": "positions", "prompts": len(batch), "tokens": tokens, "draws": draws, "seed": seed,
    }  # fmt: skip

    def result(
        values: Tensor, name: str, unit: str = "share", first: tuple[str, ...] = (), last: tuple[str, ...] = ()
    ) -> Result:
        coords = {"part": PARTS} if first else {}
        return Result(values.float(), (*first, "layer", "head", *last), coords, name=name, unit=unit, provenance=about)

    n = len(PARTS)
    return Positions(
        WAYS[model.layout.family.positions],
        result(read[:n], "share of the scores' variance", first=("part",)),
        result(read[n : 2 * n], "share by chance", first=("part",)),
        result(read[-1], "share of the offset alone"),
        result(profile.means(), "mean score less its query's", "score", last=("offset",)),
        *_spectrum(model, about, draw), _wavelengths(model), about,
    )  # fmt: skip


def _pairs(rec: Recording) -> list[Bool[Tensor, "query key"]]:
    """Of each layer the pairs that count: both tokens kept at every layer, and not hidden by its mask; queries of two or more."""
    layers = range(rec.model.n_layers)
    keep = torch.stack([kept(rec, Site("scores", layer))[0].cpu() for layer in layers]).all(0)
    found = []
    for layer in layers:
        scores = rec["scores", layer][0].cpu()
        seen = (scores > torch.finfo(scores.dtype).min / 4).all(0) & keep[:, None] & keep[None]
        found.append(seen.tril() & (seen.tril().sum(1, keepdim=True) > 1))
    return found


def _alike(model: Model, masks: Sequence[Bool[Tensor, "query key"]]) -> list[list[int]]:
    """Layers whose masks are the same, and that have as many heads, together."""
    groups: dict[tuple[bytes, int], list[int]] = {}
    for layer, mask in enumerate(masks):
        groups.setdefault((mask.numpy().tobytes(), model.heads_at(layer).n_heads), []).append(layer)
    return [*groups.values()]


class _Profile:
    """Mean scores by offset, less each query's mean; NaN where no pair has the offset."""

    def __init__(self, layers: int, heads: int) -> None:
        self.sums = torch.zeros(layers, heads, OFFSETS, dtype=torch.float64)
        self.counts = torch.zeros(layers, 1, OFFSETS, dtype=torch.float64)

    def add(self, layers: Sequence[int], scores: Float[Tensor, "layer head query key"], pairs: Tensor) -> None:
        query, key = pairs.nonzero().unbind(1)
        values = centred(scores[:, :, query, key].permute(2, 0, 1), query)
        near = (query - key) < OFFSETS
        at = (query - key)[near]
        added = torch.zeros(OFFSETS, *values.shape[1:]).double().index_add_(0, at, values[near]).permute(1, 2, 0)
        self.sums[[*layers]] += wide(added, self.sums.shape[1], 1)
        self.counts[[*layers]] += torch.bincount(at, minlength=OFFSETS)

    def means(self) -> Float[Tensor, "layer head offset"]:
        return self.sums / self.counts


def _spectrum(
    model: Model, about: Mapping[str, Any], draw: torch.Generator
) -> tuple[Result | None, Tensor, Tensor, Tensor, float]:
    """Of the position embedding less its mean: singular values, their shares, the Fourier terms, and a random matrix's first."""
    nothing = torch.zeros(0)
    if model.layout.pos_embed is None:
        return None, nothing, nothing, nothing, 0.0
    W = plain_weight(model.layout.pos_embed).detach().float().cpu()
    W = W[max(0, len(W) - model.layout.sizes.context) :]  # OPT's first rows are of no place
    period, peak, S = fourier(W)
    power = S.square() / S.square().sum().clamp_min(1e-30)
    noise = torch.randn(W.shape, generator=draw)
    other = torch.linalg.svdvals(noise - noise.mean(0)).square()
    values = Result(
        S, ("component",), name="singular values of the position embedding", unit="length", provenance=about
    )
    return values, power, period, peak, float(other[0] / other.sum())


def fourier(
    W: Float[Tensor, "place d_model"],
) -> tuple[Float[Tensor, " some"], Float[Tensor, " some"], Float[Tensor, " component"]]:
    """Of the first components over places the period of the strongest Fourier term and its share; all singular values."""
    U, S, _ = torch.linalg.svd(W - W.mean(0), full_matrices=False)
    power = torch.fft.rfft(U[:, :COMPONENTS].double(), dim=0).abs().square()[1:]
    top = power.max(0)
    return (len(W) / (top.indices + 1)).float(), (top.values / power.sum(0).clamp_min(1e-30)).float(), S


def _wavelengths(model: Model) -> Float[Tensor, " pair"]:
    """Tokens in one turn of each rotary pair, over all bases that layers have; none without."""
    if model.layout.family.positions != "rotary":
        return torch.zeros(0)
    found = [
        2 * pi / value.detach().double().cpu()
        for module in model.layout.hf.modules()
        for name, value in module.named_buffers(recurse=False)
        if name.endswith("inv_freq") and "original" not in name
    ]
    return torch.unique(torch.cat(found)).float() if found else torch.zeros(0)
