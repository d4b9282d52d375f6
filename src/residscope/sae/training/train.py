"""Train sparse autoencoders and transcoders, many sites and sizes from one pass over a text."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

from residscope import fields
from residscope.corpus.hub import DataSet
from residscope.corpus.reading import Reader
from residscope.corpus.sources.pieces import Files
from residscope.corpus.text import Source
from residscope.corpus.vectors import PLAIN, one_vector
from residscope.corpus.vectors import price as price_of_reading
from residscope.declare.methods import method
from residscope.directions import EncoderDictionary
from residscope.engine.model import Model
from residscope.errors import BadTraining, Cancelled
from residscope.model.sites import KINDS
from residscope.progress import Cancel, Progress, stage
from residscope.sae.training.plan import KINDS as SORTS
from residscope.sae.training.plan import Plan
from residscope.sae.training.report import Training
from residscope.sae.training.session import Sitting

SITES = tuple(name for name, kind in KINDS.items() if kind.axes[:2] == ("batch", "pos") and kind.axes[2:] in PLAIN)
SMALLEST, LARGEST = 128, 4096  # tokens of a batch, unless said
STEPS = 2000  # at least, where that leaves a batch of `SMALLEST`
Trained = dict[str, EncoderDictionary | Training]


def plans_of(
    sites: Sequence[str | tuple[str, str]],
    *,
    written: Sequence[str] | None = None,
    kind: str | Sequence[str] = "batchtopk",
    features: int | Sequence[int] = 2304,
    k: int = 32,
    prefixes: Sequence[int] = (),
    skip: bool = False,
    lr: float | None = None,
    seed: int = 0,
) -> list[Plan]:
    """A plan for each site, kind and size. Raises BadTraining."""
    if written is not None and len(written) != len(sites):
        raise BadTraining(
            "a transcoder has a site that it reads and one that it writes", received=f"{len(written)} written for {len(sites)}",
            allowed="as many written as sites",
        )  # fmt: skip
    if not sites:
        raise BadTraining("there is no site to learn from", received=repr(sites), allowed="one or more")
    pairs = [(site, site) if isinstance(site, str) else (str(site[0]), str(site[1])) for site in sites]
    if written is not None:
        pairs = [(site, other) for (site, _), other in zip(pairs, written, strict=True)]
    kinds = [kind] if isinstance(kind, str) else [*kind]
    sizes = [features] if isinstance(features, int) else [*features]
    return [
        Plan(sort, site, other, size, k, prefixes=tuple(prefixes), skip=skip and site != other, lr=lr, seed=seed)
        for (site, other), sort, size in product(pairs, kinds, sizes)
    ]


def usual_batch(tokens: int) -> int:
    """Tokens of a step: as many as give `STEPS` steps, a power of two between `SMALLEST` and `LARGEST`."""
    return min(LARGEST, max(SMALLEST, 1 << max(0, (tokens // STEPS).bit_length() - 1)))


def check(model: Model, *, sites: Sequence[str | tuple[str, str]], **given: Any) -> None:
    """What a training refuses before any text is read."""
    known = {name: given[name] for name in ("written", "kind", "features", "k", "prefixes", "skip") if name in given}
    for plan in plans_of(sites, **known):
        for site in (plan.site, plan.written):
            one_vector(model, site)


def price(
    model: Model, *, sites: Sequence[str | tuple[str, str]], tokens: int = 1_000_000, features: Any = 2304, **given: Any
) -> float:
    """Tokens that go through the whole model: those read, up to the last site, and what learning costs in its forwards."""
    plans = plans_of(sites, features=features, k=1, written=given.get("written"), kind=given.get("kind", "batchtopk"))
    reading = max(
        price_of_reading(model, site=site, tokens=tokens) for plan in plans for site in (plan.site, plan.written)
    )
    weights = sum(x.numel() for x in model.hf.parameters())
    return reading + tokens * sum(2 * plan.features * model.d_model for plan in plans) / weights


@method(
    "sae-train",
    title="Train dictionaries",
    group="directions",
    steps=lambda *given, **named: training(*given, **named),
    tokens=price,
    refuse=check,
)
def train(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    sites: Annotated[
        Sequence[str | tuple[str, str]], fields.site(title="places", several=True, only=SITES, usual="resid_post")
    ],
    *,
    kind: Annotated[str | Sequence[str], fields.choice(*SORTS)] = "batchtopk",
    features: Annotated[int | Sequence[int], fields.count(low=2, high=1_000_000)] = 2304,
    k: Annotated[int, fields.count(low=1, high=10_000, help="features active at a token, on average")] = 32,
    tokens: Annotated[int, fields.count(low=1000)] = 1_000_000,
    written: Annotated[
        Sequence[str] | None,
        fields.site(title="written at", several=True, only=SITES, help="a transcoder's, one for each place"),
    ] = None,
    skip: Annotated[bool, fields.flag(help="a transcoder's linear path beside its features")] = False,
    prefixes: Sequence[int] = (),
    lr: float | None = None,
    batch: int | None = None,
    seed: Annotated[int, fields.seed()] = 0,
    folder: str | Path | None = None,
    every: float = 300.0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Trained:
    """Train sparse autoencoders, or transcoders, of several sites, kinds and sizes from one pass over a text.

        loss = mean |y' - y|^2 + 1/32 (what dead features make of the error) + the kind's own penalty

    sites: `resid_post.8` for an autoencoder; ("mlp_in.9", "mlp_out.9"), or `written`, for a transcoder. kind: "batchtopk" (kept
    as JumpReLU), "topk", "jumprelu", "gated", "relu" (L1) or "matryoshka" (BatchTopK with prefixes: of F/16, F/8, F/4, F/2 and
    F features unless said). Every kind is led to k features active at a token on average. features, kind: one, or several.
    tokens: vectors to learn from; a text that is shorter is read again. lr: `plan.usual_rate` unless said.
    batch: vectors a step; a power of two that gives 2,000 steps, 128 to 4,096, unless said. folder: where a checkpoint is kept
    every `every` seconds; a training that was killed goes on from it to the bit. Where torch.distributed is initialised, its
    processes share each batch. Gives each dictionary by what it is, and the curves as "training".

        made = rs.sae.train(model, "english", ["resid_post.8"], features=[512, 2048], tokens=2_000_000)

    Raises:
        SiteError, NoVectors, BadTraining: before anything is read. CorpusError: the text cannot be used. TrainingDiverged,
        CheckpointNotWritten. Cancelled: with what there is as its `partial`.
    """
    *_, made = training(
        model, corpus, sites, kind=kind, features=features, k=k, tokens=tokens, written=written, skip=skip, prefixes=prefixes,
        lr=lr, batch=batch, seed=seed, folder=folder, every=every, progress=progress, cancel=cancel,
    )  # fmt: skip
    assert isinstance(made, dict)
    return made


def training(
    model: Model,
    corpus: Source,
    sites: Sequence[str | tuple[str, str]],
    *,
    tokens: int = 1_000_000,
    batch: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    every: float = 300.0,
    progress: Progress = None,
    cancel: Cancel = None,
    **plan: Any,
) -> Iterator[Training | Trained]:
    """`train`, point by point: the curves so far, and at the end the dictionaries."""
    check(model, sites=sites, **plan)
    if not isinstance(corpus, str | Path | DataSet | Files | Sequence):
        corpus = list(corpus)  # it may be read twice
    sitting = Sitting(
        model, Reader.of(model, corpus), plans_of(sites, seed=seed, **plan), budget=tokens, batch=batch or usual_batch(tokens),
        seed=seed, folder=None if folder is None else Path(folder).expanduser(), every=every,
    )  # fmt: skip
    yield from run(sitting, progress=progress, cancel=cancel)


def run(sitting: Sitting, *, progress: Progress = None, cancel: Cancel = None) -> Iterator[Training | Trained]:
    """A sitting to its end, which is kept in its folder, also where it is stopped."""

    def given() -> Trained:
        return {**sitting.dictionaries(), "training": sitting.training()}

    try:
        with stage("Training", sitting.budget, progress, cancel, yields=True, partial=given) as tell:
            for _ in sitting.run(tell, cancel):
                yield sitting.training()
    except (Cancelled, GeneratorExit):
        sitting.keep()
        raise
    sitting.keep()
    yield given()
