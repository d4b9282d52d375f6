"""Evidence beside a claim: everything that is known of one direction, and two badges, one for each thing it may mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Annotated, Any, ClassVar

from residscope import fields
from residscope.corpus.chunks import chunks
from residscope.corpus.examples import Examples, Readings
from residscope.corpus.held_out import held_out
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source, called, opened
from residscope.corpus.vectors import check_direction
from residscope.declare.methods import method
from residscope.directions import Direction
from residscope.engine.model import Model
from residscope.errors import Cancelled, CorpusError, NotFitted, ResidscopeError, TooFewVectors, ZeroDirection
from residscope.methods._lib import badges
from residscope.methods._lib.badges import Badge
from residscope.methods._lib.own_tokens import OwnTokens, own_tokens
from residscope.methods.evidence.dose_response import DOSES, DoseResponse, dose_response
from residscope.methods.evidence.null_directions import Null, NullDirections
from residscope.methods.evidence.removal_cost import RemovalCost, removal_cost
from residscope.methods.evidence.stability import Blocks, Stability, fit_of, stability_of
from residscope.progress import Cancel, Progress, within
from residscope.reports import Report
from residscope.views import Grid, View

FIRST_PROMPTS = 2  # of the first look
FIRST_DOSES = (-4.0, -2.0, 0.0, 2.0, 4.0)


@dataclass(frozen=True, eq=False, repr=False)
class Evidence(Report):
    """What is known of a direction. `missing` says, of each part that is None, why (nothing: it is still to come).

    preliminary: of each badge ("correlates", "used") whose parts are a first look's, what they were taken of; what comes later
    takes their place. first: what the first look said of it, which stays.
    """

    kind: ClassVar[str] = "report:evidence"
    direction: str
    place: str
    tokens: OwnTokens | None = None
    examples: Examples | None = None
    null: NullDirections | None = None
    stability: Stability | None = None
    dose: DoseResponse | None = None
    removal: RemovalCost | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    fitted: bool = False
    preliminary: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, bool | None] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def named(self) -> str:
        """The direction and where it stands, said once."""
        return self.direction if self.place in self.direction else f"{self.direction} at {self.place}"

    @property
    def correlates(self) -> Badge:
        """Its coordinate tells something of the text beyond what random directions' tell."""
        return self._told("correlates", badges.correlates(self.null, self.stability, fitted=self.fitted))

    @property
    def used(self) -> Badge:
        """The model's predictions depend on it beyond what they do on random directions."""
        return self._told("used", badges.used(self.dose, self.removal, why=self.missing))

    def _told(self, name: str, badge: Badge) -> Badge:
        """The badge with how far it may still change, or that it did."""
        if (of := self.preliminary.get(name)) is not None:
            return badges.preliminary(badge, of)
        return badges.after(badge, self.first[name]) if name in self.first else badge

    def view(self) -> Grid:
        """Both badges, then each part's own pictures."""
        shown: list[View] = [self.correlates.view(), self.used.view()]
        if self.tokens is not None:
            shown += self.tokens.view().views
        if self.null is not None:
            shown += [self.null.histogram("token identity"), self.null.histogram("position")]
        if self.dose is not None:
            shown += self.dose.curves()
        if self.removal is not None:
            shown += self.removal.view().views
        if self.stability is not None:
            shown.append(self.stability.view())
        if self.examples is not None:
            shown += self.examples.view().views
        return Grid(shown, columns=2, title=f"Evidence for {self.named}")

    def __repr__(self) -> str:
        summary = f"correlates {self.correlates.said}, is used {self.used.said}"
        return f"Evidence({self.named}: {summary})"


@method(
    "evidence",
    title="Gather evidence",
    group="evidence",
    steps=lambda *given, **named: gather(*given, **named),
    tokens="tokens",
)
def evidence(
    model: Model,
    direction: Annotated[Direction, fields.direction()],
    corpus: Annotated[Source, fields.text()] = "python-docs",
    *,
    tokens: Annotated[int, fields.count(low=1000, high=200_000)] = 8_000,
    prompts: Annotated[int, fields.count(low=2, high=500)] = 12,
    length: Annotated[int, fields.count(low=4, high=2048)] = 20,
    random: Annotated[int, fields.count(low=9, high=999)] = 39,
    seed: Annotated[int, fields.seed()] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Evidence:
    """Gather what there is to know of a direction: what it correlates with, and whether the model uses it.

    One pass over the text (`tokens` of it) gives examples, the null distribution and the stability of the fit; then steering and
    removal on `prompts` held-out windows of `length` tokens from beyond what was read or fitted, beside `random` directions each.
    A quarter of the text and a few of the prompts come first, and both badges with them, which say that they are preliminary.

        gathered = rs.evidence(model, pca[7])
        print(gathered.correlates.sentence, gathered.used.sentence)

    Raises:
        NoVectors, UnknownHead: no vector a token stands there. CorpusError: the text cannot be used.
        Cancelled: with the evidence so far as its `partial`.
    """
    latest: Evidence | None = None
    stages = gather(
        model, direction, corpus, tokens=tokens, prompts=prompts, length=length, random=random, seed=seed, memory=memory,
        progress=progress, cancel=cancel,
    )  # fmt: skip
    try:
        for known in stages:
            latest = known
    except Cancelled as stop:
        stop.partial = latest
        raise
    assert latest is not None
    return latest


def gather(
    model: Model,
    direction: Direction,
    corpus: Source = "python-docs",
    *,
    tokens: int = 8_000,
    prompts: int = 12,
    length: int = 20,
    random: int = 39,
    seed: int = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[Evidence]:
    """`evidence`, stage by stage: each item has more than the one before."""
    site = check_direction(model, direction)
    corpus = opened(corpus, model)
    if isinstance(corpus, Iterator):
        corpus = list(corpus)  # it is read twice
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    about = {**model.provenance, "method": "evidence", "corpus": called(corpus), "tokens": tokens, "seed": seed}
    gathered = Evidence(direction.name, direction.place, own_tokens(model, direction), provenance=about)
    if gathered.tokens is None:
        gathered = replace(gathered, missing={"tokens": f"nothing linear leads from {site.name} to the logits"})
    nmf = False
    try:
        nmf = fit_of(direction)["dictionary"] == "nmf"
        gathered = replace(gathered, fitted=True)
    except NotFitted as error:
        gathered = _without(gathered, "stability", error)
    yield gathered

    readings, null = Readings([direction], model), Null(direction, model, n=199, seed=seed)
    blocks = Blocks(direction.site, direction.head, model.sites.width(site), seed=seed, vectors=nmf)
    shown: dict[str, Any] = {"k": 10, "intervals": 5, "per_interval": 5, "context": 16, "seed": seed, "about": about}
    options: dict[str, Any] = {"random": random, "seed": seed, "memory": memory}
    draw: dict[str, Any] = {"n": prompts, "length": length, "seed": seed}
    read = 0
    reader = Reader(model, corpus)
    for chunk in chunks(model, reader, [direction.site], tokens=tokens, **watch):
        readings.add(chunk)
        null.add(chunk)
        blocks.add(chunk)
        before, read = read, read + sum(chunk.record.lengths)
        if before < tokens / 4 <= read < tokens:
            gathered = replace(gathered, examples=readings.result(0, **shown))
            yield gathered
            if null.powers is not None:  # else too little was read to draw the random directions from
                first = replace(gathered, null=null.result({**about, **reader.about}))
                look = _Look(read, tokens, draw, options, watch)
                for known in _first_look(model, direction, corpus, first, blocks, look):
                    yield (gathered := known)
    about |= reader.about
    gathered = replace(gathered, examples=readings.result(0, **shown), null=null.result(about), provenance=about)
    if gathered.fitted:
        yield gathered
        gathered = _with_stability(gathered, direction, blocks, about, watch)
    gathered = _settled(gathered, "correlates")
    yield gathered

    skip = _seen(direction, called(corpus), read)
    try:
        windows = held_out(model, corpus, skip=skip, **draw, **watch)
        about = {**about, "held out": windows.origin, "held-out prompts": [list(ids) for ids in windows.prompts]}
        gathered = replace(gathered, provenance=about)
        yield from _edited(
            model, direction, windows.prompts, gathered, {**options, "moments": blocks.joined(), **watch}
        )
    except (ZeroDirection, CorpusError) as error:
        gathered = replace(gathered, dose=None, removal=None)
        yield _settled(_without(_without(gathered, "dose", error), "removal", error), "used")


@dataclass(frozen=True)
class _Look:
    """What a first look is made with: so far read of so many tokens, how held-out prompts are drawn, and how they are edited."""

    read: int
    tokens: int
    draw: Mapping[str, Any]
    options: Mapping[str, Any]
    watch: Mapping[str, Any]


def _first_look(
    model: Model, direction: Direction, corpus: Source, gathered: Evidence, blocks: Blocks, look: _Look
) -> Iterator[Evidence]:
    """Both badges of what has been read by now and of a few prompts and doses, marked as preliminary."""
    watch = {**look.watch, "progress": within(look.watch["progress"], "First look")}
    if gathered.fitted:
        gathered = _with_stability(gathered, direction, blocks, gathered.provenance, watch)
    gathered = _preliminary(gathered, "correlates", f"the first {look.read:,} of {look.tokens:,} tokens")
    yield gathered
    try:
        skip = _seen(direction, called(corpus), look.tokens + LENGTH)  # beyond what will have been read
        windows = held_out(model, corpus, skip=skip, **look.draw, **watch)
        options = {**look.options, "moments": blocks.joined(), **watch}
        few = windows.prompts[:FIRST_PROMPTS]
        of = f"{len(few)} of {len(windows)} prompts and {len(FIRST_DOSES)} of {len(DOSES)} doses"
        gathered = replace(gathered, dose=dose_response(model, direction, few, doses=FIRST_DOSES, **options))
        yield (gathered := _preliminary(gathered, "used", of))
        gathered = replace(gathered, removal=removal_cost(model, direction, few, **options))
    except (ZeroDirection, CorpusError):
        return  # the whole says why
    yield _preliminary(gathered, "used", of)


def _with_stability(
    gathered: Evidence, direction: Direction, blocks: Blocks, about: Mapping[str, Any], watch: Mapping[str, Any]
) -> Evidence:
    missing = {
        part: why for part, why in gathered.missing.items() if part != "stability"
    }  # what a first look says of it
    gathered = replace(gathered, stability=None, missing=missing)
    try:
        return replace(gathered, stability=stability_of(direction, blocks, about=about, **watch))
    except TooFewVectors as error:
        return _without(gathered, "stability", error)


def _preliminary(gathered: Evidence, badge: str, of: str) -> Evidence:
    gathered = replace(gathered, preliminary={**gathered.preliminary, badge: of})
    return replace(gathered, first={**gathered.first, badge: getattr(gathered, badge).shown})


def _settled(gathered: Evidence, badge: str) -> Evidence:
    """The badge's parts are all there: it is preliminary no more."""
    return replace(gathered, preliminary={name: of for name, of in gathered.preliminary.items() if name != badge})


def _edited(
    model: Model,
    direction: Direction,
    prompts: Sequence[Sequence[int]],
    gathered: Evidence,
    options: Mapping[str, Any],
) -> Iterator[Evidence]:
    """What comes of editing along the direction, on held-out prompts."""
    gathered = replace(gathered, dose=dose_response(model, direction, prompts, **options))
    yield gathered
    yield _settled(replace(gathered, removal=removal_cost(model, direction, prompts, **options)), "used")


def _without(gathered: Evidence, part: str, error: ResidscopeError) -> Evidence:
    return replace(gathered, missing={**gathered.missing, part: error.failed})


def _seen(direction: Direction, corpus: str, read: int) -> int:
    """How many of a text's tokens were looked at or fitted: three times a fit's count where it was of another cut of the text."""
    fits = list(_fits(direction.provenance))
    margins = [(1.25 if name == corpus else 3.0) * tokens for name, tokens in fits]
    return max([read, *(ceil(m) for m in margins)])


def _fits(about: Any) -> Iterator[tuple[str, int]]:
    """The text and token count of every fit that a provenance tells of."""
    if isinstance(about, Mapping):
        if isinstance(about.get("tokens"), int):
            yield str(about.get("corpus", "")), about["tokens"]
        for value in about.values():
            yield from _fits(value)
    elif isinstance(about, list | tuple):
        for value in about:
            yield from _fits(value)
