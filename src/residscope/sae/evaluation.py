"""How well a dictionary stands for what it reads: measured on text that it was not trained on."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import fields
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.declare.methods import method
from residscope.directions import Dictionary, EncoderDictionary
from residscope.engine.model import Model
from residscope.engine.protocols import At
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept, streams
from residscope.errors import BadArguments, EmptyCorpus
from residscope.model.sites import Site, SiteTable
from residscope.progress import Cancel, Progress, asking, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.sae.metrics import Fidelity, Spliced
from residscope.views import Curve, Grid, Line, Table

ROWS = 8  # of a run
LOSS = 4  # one batch in so many is run with the reconstruction in place
BASELINES = ("zero", "mean")
UNITS = {"change of loss": "nats a token", "L0": "features a token"}


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Report):
    """A dictionary's measures on a text: see `sae.metrics.Fidelity` and `sae.metrics.Spliced`.

    measured: over measure. edges, counts: how many features have each density, by powers of ten. density, strength: of each
    feature, the share of tokens at which it is active and its mean activation there. held_out: whether the text lies beyond
    what it was trained on, in words.
    """

    kind: ClassVar[str] = "report:sae_evaluation"
    main: ClassVar[str | None] = "measured"
    dictionary: str
    place: str
    measured: Result
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    density: Float[Tensor, " n"]
    strength: Float[Tensor, " n"]
    held_out: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, measure: str) -> float:
        """A measure by its name, such as "FVU"."""
        return float(self.measured.select(measure=measure).values)

    def view(self) -> Grid:
        names = self.measured.coords["measure"]
        rows: list[Sequence[Any]] = [[name, self[name], UNITS.get(name, "")] for name in names]
        note = f"{self.provenance['tokens']:,} tokens of {self.provenance['corpus']}; {self.held_out}"
        table = Table(["measure", "value", "unit"], rows, title=f"{self.dictionary} at {self.place}", note=note)
        counts = Line("features", [float(n) for n in self.counts])
        dead = int((self.density == 0).sum())
        curve = Curve(
            [low + 0.25 for low in self.edges[:-1]], [counts], title="How often features are active",
            x_title="log10 of the share of tokens", y_title="features", note=f"{dead} more at no token",
        )  # fmt: skip
        return Grid([table, curve], columns=2, title=f"How well {self.dictionary} stands for {self.place}")

    def __repr__(self) -> str:
        return (
            f"Evaluation({self.dictionary} at {self.place}: FVU {self['FVU']:.3f}, L0 {self['L0']:.1f}, "
            f"recovers {self['CE recovered (zero)']:.1%} of the loss)"
        )


@dataclass(frozen=True, eq=False)
class InPlace:
    """An edit: these values at a site, at these tokens."""

    site: Site
    values: Float[Tensor, "row pos d"]
    where: Bool[Tensor, "row pos"]
    needs_unedited: ClassVar[bool] = False

    def places(self, table: SiteTable) -> list[Site]:
        return [table.canonical(self.site)]

    def reads(self, table: SiteTable) -> list[Site]:
        return []

    def prepare(self, model: Model) -> "InPlace":
        return self

    def apply(self, value: Tensor, at: At) -> Tensor:
        return torch.where(self.where[..., None].to(value.device), self.values.to(value), value)


@method("sae-evaluate", title="Evaluate a dictionary", group="directions", tokens="tokens")
def evaluate(
    model: Model,
    dictionary: Annotated[Dictionary, fields.dictionary()],
    corpus: Annotated[Source, fields.text(title="text")] = "english",
    *,
    tokens: Annotated[int, fields.count(low=100)] = 20_000,
    skip: Annotated[
        int | None, fields.count(help="tokens that go by before; those that it was trained on unless said")
    ] = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Evaluation:
    """How well a dictionary gives back what it reads, and what the model's loss becomes with that in its place.

        FVU = sum |y - y'|^2 / sum |y - mean y|^2        CE recovered = (baseline - spliced) / (baseline - clean)

    y' = reconstruct(x) takes y's place at every token that statistics are taken of (not the first of a row, nor attention sinks),
    for the loss in one batch of four; the baselines put zero, or the mean of y, at the same tokens. Text that it was trained on
    goes by first, where its provenance says how much of this text that was; where too little is left, the report says so.

        rs.sae.evaluate(model, dictionary, "english").view()

    Raises:
        BadArguments: a dictionary of one head. WrongWidth, CorpusError, Cancelled.
    """
    if dictionary.head is not None:
        raise BadArguments("what one head writes has no place of its own in a run", received=f"head {dictionary.head}")
    reader = Reader(model, corpus)
    passed, held_out = _passed(dictionary, reader, skip)
    site, written = (model.sites.parse(text) for text in (dictionary.site, dictionary.write_site))
    capture = {site, written, *streams(model, site), *streams(model, written), model.sites.parse("final_norm")}
    sums = Fidelity.empty(len(dictionary), model.sites.width(written))
    losses = _Losses()
    with stage("Reading held-out text", tokens, progress, cancel) as tell:
        read = 0
        for number, batch in enumerate(_batches(reader, tokens, passed, tell)):
            with asking(tell, cancel):
                record = model.run(batch, capture)
                x, y = record[site], record[written]
                keep = (kept(record, site) & kept(record, written)).to(x.device)
                given = _reconstructed(dictionary, x)
                sums.add(y[keep].float(), given[keep].float(), dictionary.encode(x[keep]))
                if number % LOSS == 0 and sums.tokens:
                    mean = (sums.total / sums.tokens).to(y)
                    losses.add(model, record, written, keep, given, mean)
            read += sum(map(len, batch))
            tell(read)
    if not sums.tokens:
        raise EmptyCorpus(
            "every token of the text is left out", received=f"beyond {passed:,} tokens", fix="give longer texts"
        )
    about = {**model.provenance, "method": "sae-evaluate", **reader.about, "tokens": sums.tokens, "skip": passed}
    about |= {"dictionary": dictionary.hash, "tokens of the loss": losses.tokens}
    spliced = losses.result()
    measures = {
        "FVU": sums.fvu, "L0": sums.l0, "dead": sums.dead, "cosine": sums.cosine, "shrinkage": sums.shrinkage,
        "slope": sums.slope, "loss": spliced.clean, "change of loss": spliced.change,
        "CE recovered (zero)": spliced.recovered("zero"), "CE recovered (mean)": spliced.recovered("mean"),
    }  # fmt: skip
    measured = Result(
        torch.tensor([*measures.values()]),
        ("measure",),
        coords={"measure": tuple(measures)},
        name="fidelity",
        unit="each measure's own",
        provenance=about,
    )
    edges, counts = sums.histogram()
    return Evaluation(
        dictionary.name,
        _place(dictionary),
        measured,
        edges,
        counts,
        sums.density.float(),
        sums.strength.float(),
        held_out,
        about,
    )


@dataclass
class _Losses:
    """Sums of the next token's loss, as it is and with something in a value's place."""

    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("clean", "spliced", *BASELINES), 0.0))
    tokens: int = 0

    def add(self, model: Model, record: Recording, site: Site, keep: Tensor, given: Tensor, mean: Tensor) -> None:
        self.sums["clean"] += _loss(record)
        self.tokens += sum(length - 1 for length in record.batch.lengths)
        for name, values in (("spliced", given), ("zero", torch.zeros_like(given)), ("mean", mean.expand_as(given))):
            run = model.run(record.batch, ["final_norm"], edits=InPlace(site, values, keep))
            self.sums[name] += _loss(run)

    def result(self) -> Spliced:
        return Spliced(**{name: x / max(self.tokens, 1) for name, x in self.sums.items()}, tokens=self.tokens)


def _loss(record: Recording) -> float:
    """The sum of -log p of each next token, over the tokens that are there, a row at a time."""
    total = 0.0
    for x, ids, length in zip(record["final_norm"], record.tokens, record.batch.lengths, strict=True):
        with torch.no_grad():
            logits = record.unembed(x[: length - 1]).float()
        total += float(torch.nn.functional.cross_entropy(logits, ids[1:length].to(logits.device), reduction="sum"))
    return total


def _reconstructed(dictionary: Dictionary, x: Float[Tensor, "row pos d"]) -> Tensor:
    if isinstance(dictionary, EncoderDictionary):
        return dictionary.reconstruct(x)
    return dictionary.decode(dictionary.encode(x))


def _batches(reader: Reader, tokens: int, skip: int, tell: Any) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for row in reader.rows(length=LENGTH, tokens=tokens, skip=skip, tell=tell):
        batch.append(row.ids)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _passed(dictionary: Dictionary, reader: Reader, skip: int | None) -> tuple[int, str]:
    """How many of the text's tokens go by, and whether what follows is held out, in words."""
    told = dictionary.provenance
    same = told.get("corpus") == reader.about["corpus"]
    if skip is not None:
        return skip, f"beyond its first {skip:,} tokens"
    if not same:
        return 0, f"it was trained on {told.get('corpus', 'a text that it does not name')}"
    if int(told.get("passes", 1)) > 1:
        return 0, "not held out: it was trained on all of this text"
    read = int(told.get("read", told.get("tokens", 0)))
    if not _has(reader, read):
        return 0, "not held out: it was trained on all of this text"
    return read, f"held out: beyond the {read:,} tokens that it was trained on"


def _has(reader: Reader, read: int) -> bool:
    try:
        return next(reader.rows(length=LENGTH, tokens=1, skip=read), None) is not None
    except EmptyCorpus:
        return False


def _place(dictionary: Dictionary) -> str:
    return (
        dictionary.site if dictionary.site == dictionary.write_site else f"{dictionary.site} to {dictionary.write_site}"
    )
