"""Induction and anti-induction: heads that look at what followed before, and whether they raise it or lower it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import BadSweep
from residscope.methods._lib.attention_scores import attention_scores
from residscope.methods._lib.direct import direct_effects, direct_sites
from residscope.methods._lib.intervals import bootstrap
from residscope.methods.heads.head_scores import repeated_tokens
from residscope.model.prompts import Batch
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, Tell, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.views import Grid, HeatMap, Scatter, Table

Head = tuple[int, int]
LOOKS = 0.1  # the least mean attention that counts as looking
SHARE = 0.1  # of the largest effect of a head that looks: what is less is no role
MOST = 4  # sequences read together


@dataclass(frozen=True, eq=False, repr=False)
class InductionHeads(Report):
    """Where each head looks on repeated tokens, and what it does to the token that comes next.

    attention[layer, head]: to the tokens that follow earlier copies. effect[layer, head]: what the head adds directly to the
    logit of the token that comes next, less what it adds on average to those of the sequence's tokens; with bootstrap intervals
    over sequences. induction, anti_induction: heads that look there (a mean attention of 0.1), whose effect's interval is above
    zero, or below, and whose effect is a tenth of the largest of those that look; the strongest first.
    """

    kind: ClassVar[str] = "report:induction_heads"
    main: ClassVar[str] = "effect"
    attention: Result
    effect: Result
    induction: tuple[Head, ...]
    anti_induction: tuple[Head, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> Grid:
        """Attention against effect, one point a head; the heads found, and the effect as a map with them framed."""
        n = self.effect.values.shape[1]
        names = [f"{i // n}.{i % n}" for i in range(self.effect.values.numel())]
        groups = {f"{layer}.{head}": "induction" for layer, head in self.induction}
        groups |= {f"{layer}.{head}": "anti-induction" for layer, head in self.anti_induction}
        scatter = Scatter(
            self.attention.values.flatten(), self.effect.values.flatten(), groups=[groups.get(name, "neither") for name in names],
            title="Where heads look, and what they do", x_title="attention, share", y_title="effect, logits", texts=names,
        )  # fmt: skip
        rows: list[list[Any]] = [
            [name, f"{layer}.{head}", *(round(float(x.values[layer, head]), 3) for x in (self.attention, self.effect))]
            for name, heads in (("induction", self.induction), ("anti-induction", self.anti_induction))
            for layer, head in heads
        ]
        layers = range(len(self.effect.values))
        shown = HeatMap(
            self.effect.values, layers, range(n), title="Effect on the next token's logit", row_title="layer",
            column_title="head", unit="logits", marks=(*self.induction, *self.anti_induction), bottom_up=True,
        )  # fmt: skip
        return Grid(
            [scatter, Table(["what", "head", "attention", "effect"], rows, title="The heads"), shown], columns=1
        )

    def __repr__(self) -> str:
        found = (", ".join(f"{a}.{b}" for a, b in heads) or "none" for heads in (self.induction, self.anti_induction))
        return "InductionHeads({}; anti-induction: {})".format(*found)


@dataclass(frozen=True)
class _Next:
    """The logit of the token that follows a position, less the mean of those of the prompt's tokens from `first` on."""

    pos: int
    first: int
    linear: ClassVar[bool] = True
    sites: ClassVar[tuple[str, ...]] = ("logits",)

    def __call__(self, recording: Recording) -> Tensor:
        ids = self.columns(recording.model, recording.batch)
        return self.of(recording.logits_at(self.pos, ids), ids, recording.model, recording.batch)

    def columns(self, model: Any, batch: Batch) -> tuple[int, ...]:
        return tuple(sorted({*batch.ids[:, self.first :].flatten().tolist()}))

    def of(self, logits: Tensor, ids: tuple[int, ...] | None, model: Any, batch: Batch) -> Float[Tensor, "batch"]:
        assert ids is not None
        place = {token: column for column, token in enumerate(ids)}
        columns = torch.tensor(
            [[place[int(token)] for token in row] for row in batch.ids[:, self.first :]], device=logits.device
        )
        own = logits.gather(1, columns)
        return own[:, self.pos + 1 - self.first] - own.mean(1)


def _price(model: Model, *, n: int = 8, length: int = 25, **_: Any) -> float:
    """Tokens through the whole model: each sequence once."""
    return float(n * (2 * length + model.bos))


@method("induction-heads", title="Induction and anti-induction", group="heads", tokens=_price)
def induction_heads(
    model: Model,
    *,
    n: Annotated[int, fields.count(low=2, high=1000)] = 8,
    length: Annotated[int, fields.count(low=2, high=2000)] = 25,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> InductionHeads:
    """Heads that look at what followed a token before, and raise the logit of that (induction) or lower it (anti-induction).

        attention = mean over i of sum of A[i, j] over j < i with t[j - 1] = t[i]
        effect    = mean over i of d[i] . (W_U[:, t[i + 1]] - mean over k of W_U[:, t[k]])

    over the second halves of sequences of random tokens written twice (`rs.repeated_tokens`); d[i] is what the head writes at i,
    as the final norm passes it on, its divisor held (`rs.direct_attribution`, whose check is made of every sum). Attention sinks
    are left out. The effect is direct: what later parts make of the head's output is not followed.

    n: sequences drawn. length: tokens of each, written twice.

        rs.induction_heads(model).anti_induction

    Raises:
        TooFewWords, PromptTooLong, NotAdditive, QuantisedModel, Cancelled.

    Olsson et al. 2022 (2209.11895); McDougall et al. 2023 (2310.04625) on heads that suppress what they attend to.
    """
    if n < 2:
        raise BadSweep("an interval is over several sequences", received=f"n={n}", allowed="2 or more")
    batch = model.batch(repeated_tokens(model, n=n, length=length, seed=seed))
    attention, effect = [], []
    with stage("Following heads", n * (length - 1), progress, cancel) as tell:
        for first in range(0, n, MOST):
            rows = range(first, min(first + MOST, n))
            looked, done = _followed(model, batch.take(rows), length, first * (length - 1), tell)
            attention.append(looked)
            effect.append(done)
    looks, effects = torch.cat(attention, -1), torch.cat(effect, -1)  # layer head sequence
    low, high = bootstrap(effects.movedim(-1, 0), seed=seed)
    about = {
        **model.provenance,
        "method": "induction heads",
        "sequences": n,
        "length": length,
        "seed": seed,
        "bos": model.bos,
    }
    dims, mean = ("layer", "head"), effects.mean(-1)
    low, high, share = torch.minimum(low, mean), torch.maximum(high, mean), looks.mean(-1)
    looking = share >= LOOKS
    strong = looking & (mean.abs() >= SHARE * (mean.abs() * looking).max())
    return InductionHeads(
        Result(share, dims, name="attention to what followed before", unit="share", provenance=about),
        Result(
            mean, dims, name="effect on the next token's logit", unit="logits", low=low, high=high, provenance=about
        ),
        _ranked(mean, strong & (low > 0)),
        _ranked(-mean, strong & (high < 0)),
        about,
    )


def _followed(
    model: Model, batch: Batch, length: int, before: int, tell: Tell
) -> tuple[Float[Tensor, "layer head row"], Float[Tensor, "layer head row"]]:
    """Attention and effect of every head, of some sequences."""
    run = model.run(batch, [*direct_sites(model), "pattern", "resid_pre"])
    begin = batch.ids.shape[1] - 2 * length
    effects = []
    for done, pos in enumerate(range(begin + length, begin + 2 * length - 1), 1):
        heads = direct_effects(run, _Next(pos, begin + length), pos).heads
        assert heads is not None
        effects.append(heads[..., 0])
        tell(before + done * len(batch))
    keep = torch.stack([kept(run, Site("pattern", layer)).cpu() for layer in range(model.n_layers)])
    use = keep[:, None, :, begin + length : -1]
    each = torch.stack(effects, -1).double().cpu()  # layer head row pos
    looked = attention_scores(run, ("induction",))[0].double().cpu()
    return looked, (each * use).sum(-1) / use.sum(-1)


def _ranked(values: Float[Tensor, "layer head"], chosen: Tensor) -> tuple[Head, ...]:
    """The chosen heads, the largest value first."""
    n = values.shape[1]
    return tuple(
        (i // n, i % n) for i in values.flatten().argsort(descending=True).tolist() if bool(chosen.flatten()[i])
    )
