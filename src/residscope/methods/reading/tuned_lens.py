"""A tuned lens trained on a text: each layer's stream translated so that the model's own end reads it best."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope import fields
from residscope.corpus.chunks import Chunk, captured, recorded
from residscope.corpus.held_out import held_out
from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.declare.methods import method
from residscope.engine.model import Model
from residscope.errors import TextTooShort
from residscope.methods._lib.translators import Translators, distance, lens_logits
from residscope.methods._lib.tuned import TunedLens
from residscope.progress import Cancel, Progress, stage
from residscope.results import Result

LENSES = ("logit lens", "tuned lens")
LENGTH, ROWS = 64, 4  # tokens of a row, rows of a run
WINDOWS = 6  # held out


def price(model: Model, *, tokens: int = 10_000, steps: int = 40, batch: int = 32, **_: Any) -> float:
    """Tokens through the whole model: those that are read, and what unembedding each layer's stream costs beside them."""
    unembedded = model.n_layers * (3 * steps * batch + 2 * WINDOWS * LENGTH)
    weights = sum(x.numel() for x in model.hf.parameters())
    return tokens + steps * ROWS * LENGTH + unembedded * model.W_U.numel() / weights


@method("tuned-lens", title="Tuned lens", group="reading", tokens=price)
def tuned_lens(
    model: Model,
    corpus: Annotated[Source, fields.text(title="text")],
    *,
    tokens: Annotated[int, fields.count(low=1, help="read for the least squares")] = 10_000,
    steps: Annotated[int, fields.count(low=0, high=100_000, help="of Adam, on the text that follows")] = 40,
    batch: Annotated[int, fields.count(low=1, high=ROWS * LENGTH, title="tokens of a step")] = 32,
    rate: Annotated[float, fields.number(over=0, help="of Adam's first step; it falls to 0")] = 4e-4,
    seed: Annotated[int, fields.seed()] = 0,
    progress: Progress = None,
    cancel: Cancel = None,
) -> TunedLens:
    """A tuned lens: of each layer a translator of its stream, trained so that the model's end reads the run's own next token.

        logits(layer) = cap(scale · W_U norm(x + A x + b))          least KL(run || softmax logits(layer)), at the mean

    Belrose et al. (2023), "Eliciting latent predictions from transformers with the tuned lens". A and b begin where x + A x + b
    is nearest to the stream's end, by ridge regression over the first `tokens` tokens; then Adam lowers the KL itself on the text
    that follows, in coordinates with unit deviation along each axis. Neither sees the first token of a row, special tokens or
    attention sinks (`engine.sinks`): what such a lens says there means nothing. `kl` is measured on text that neither read.

        lens = rs.tuned_lens(model, "english")
        rs.logit_lens(model, "The capital of France is", lens=lens)

    Raises:
        CorpusError: the text cannot be used. TextTooShort: it ends before the last step, or nothing is left to measure on.
        TrainingDiverged, QuantisedModel, Cancelled.
    """
    model.require_exact_weights("training a tuned lens")
    sites = [*(f"resid_pre.{layer}" for layer in range(model.n_layers)), f"resid_post.{model.n_layers - 1}"]
    reader, whole = Reader(model, corpus), tokens + steps * ROWS * LENGTH
    rows = reader.batches(length=LENGTH, tokens=whole, size=ROWS, tell=lambda *_: None)
    read = recorded(model, rows, captured(model, sites))
    trained = _least_squares(read, sites, tokens, progress, cancel)
    drawn, losses = torch.Generator().manual_seed(seed), list[float]()
    with stage("Lowering the KL", steps, progress, cancel) as tell:
        for step, chunk in zip(range(steps), read, strict=False):
            *streams, end = _vectors(chunk, sites)
            some = torch.randperm(len(end), generator=drawn)[:batch].to(end.device)
            losses.append(trained.step(model, [x[some] for x in streams], end[some], rate * (1 - step / steps)))
            tell(step + 1)
    if len(losses) < steps:
        raise TextTooShort(
            "the text ends before the last step", received=f"{len(losses)} steps of {steps}",
            fix="take fewer tokens or steps, or give a longer text",
        )  # fmt: skip
    A, b = trained.folded()
    measured, about = _measured(model, reader.source, whole, sites, TunedLens(A, b), seed, progress, cancel)
    about = {**model.provenance, **reader.about, **about, "method": "tuned_lens", "tokens": tokens, "steps": steps}
    about |= {"batch": batch, "rate": rate, "seed": seed}
    coords = {"lens": LENSES, "layer": tuple(range(model.n_layers))}
    kl = Result(measured, ("lens", "layer"), coords, name="KL from the run's own", unit="nats", provenance=about)
    return TunedLens(A, b, kl, torch.tensor(losses), about)


def _least_squares(
    read: Iterator[Chunk], sites: Sequence[str], tokens: int, progress: Progress, cancel: Cancel
) -> Translators:
    """Translators by ridge regression over so many tokens of what is read. Raises TextTooShort."""
    trained, done = None, 0
    with stage("Least squares over the text", tokens, progress, cancel) as tell:
        for chunk in read:
            *streams, end = _vectors(chunk, sites)
            if len(end) > 1:
                trained = trained or Translators(streams)
                trained.add(streams, end)
            done += sum(chunk.record.lengths)
            tell(done)
            if done >= tokens:
                break
    if trained is None:
        raise TextTooShort(
            "the text gives no two tokens to train on", received=f"{done} tokens", fix="give a longer one"
        )
    trained.solve()
    return trained


def _vectors(chunk: Chunk, sites: Sequence[str]) -> list[Float[Tensor, "n d"]]:
    """At each site, those of the tokens that are kept at all of them."""
    keep = torch.stack([chunk.keep(site) for site in sites]).all(0)
    return [chunk.at(site)[keep.to(chunk.at(site).device)] for site in sites]


def _measured(
    model: Model,
    corpus: Source,
    skip: int,
    sites: Sequence[str],
    lens: TunedLens,
    seed: int,
    progress: Progress,
    cancel: Cancel,
) -> tuple[Float[Tensor, "lens layer"], dict[str, Any]]:
    """The mean KL of the plain lens and of this one at each layer, on text that was not read, and which."""
    held = held_out(model, corpus, skip=skip, n=WINDOWS, length=LENGTH, seed=seed, progress=progress, cancel=cancel)
    record = model.run([[*prompt] for prompt in held.prompts], captured(model, sites))
    *streams, end = _vectors(Chunk(0, record), sites)
    kl = torch.zeros(2, len(streams))
    with stage("Measuring on held-out text", len(streams), progress, cancel) as tell, torch.no_grad():
        said = lens_logits(model, end).log_softmax(-1)
        for layer, x in enumerate(streams):
            for row, read in enumerate((x, lens.translated(x, layer))):
                kl[row, layer] = distance(said, lens_logits(model, read)).mean()
            tell(layer + 1)
    return kl, {"held out": held.origin, "held-out tokens": len(end)}
