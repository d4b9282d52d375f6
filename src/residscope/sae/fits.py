"""Whether a dictionary is hooked where it says: what it leaves unexplained there, and at places it may have been meant for."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from residscope import fields
from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.declare.methods import method
from residscope.directions import Dictionary, EncoderDictionary
from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept, streams
from residscope.errors import DirectionError, Misplaced, SiteError
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress, asking, stage
from residscope.reports import Report
from residscope.results import Result
from residscope.sae import folding
from residscope.views import Table

TOKENS = 1000
LENGTH = 128
CLEARLY = 0.9
"""Another reading fits clearly better where it leaves less than this share of what the stated one leaves, once for each thing in
which it is another: place, centring, normalisation, BOS."""
STREAM = ("resid_pre", "resid_mid", "resid_post")
CENTRED = ("embed", "pos_embed", *STREAM, "attn_out", "mlp_out", "attn_raw", "mlp_raw")
"""The sites whose values lose their mean in a model with `center_writing_weights`."""


@dataclass(frozen=True)
class Reading:
    """One way of reading a text: where, whether without the mean, how normalised, whether rows begin with BOS."""

    site: str
    written: str
    centred: bool
    normalise: str
    bos: bool

    @property
    def words(self) -> str:
        place = self.site if self.written == self.site else f"{self.site} to {self.written}"
        how = [place, "centred"] if self.centred else [place]
        how += [] if self.normalise == "none" else [self.normalise.replace("_", " ")]
        return ", ".join([*how, "with BOS" if self.bos else "without BOS"])


@dataclass(frozen=True, eq=False, repr=False)
class FitCheck(Report):
    """The fraction of variance unexplained (FVU) of each reading; the first is the one that the dictionary states.

        FVU = sum |y - xhat|^2 / sum |y - mean(y)|^2

    fvu: over reading, with the columns site, written, centred, normalise, bos; first tokens and sinks left out. whole: with them.
    best: the reading that fits best: the stated one, unless another leaves less than 0.9 of what that leaves, for each thing in
    which it differs (place, centring, normalisation, BOS). fits: whether that is the stated one, and it is not over 1.
    """

    kind: ClassVar[str] = "report:fit_check"
    main: ClassVar[str] = "fvu"
    fvu: Result
    whole: Result
    best: str
    fits: bool
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stated(self) -> str:
        return str(self.fvu.coords["reading"][0])

    @property
    def least(self) -> float:
        return float(self.fvu.select(reading=self.best).values)

    def view(self) -> Table:
        rows = [
            [reading, float(x), float(y)]
            for reading, x, y in zip(self.fvu.coords["reading"], self.fvu.values, self.whole.values, strict=True)
        ]
        verdict = "It fits where it is hooked." if self.fits else f"It fits {self.best} better."
        title = "Where the dictionary fits"
        note = f"{verdict} Left out: {self.provenance['left out']} of {self.provenance['tokens']} tokens, first ones and sinks."
        return Table(["reading", "FVU", "FVU with first tokens and sinks"], rows, title=title, note=note)

    def __repr__(self) -> str:
        own = float(self.fvu.values[0])
        return f"FitCheck({self.stated}: FVU {own:.3g}; {'fits' if self.fits else f'{self.best}: {self.least:.3g}'})"


@method("fit-check", title="Where a dictionary fits", group="evidence", tokens="tokens")
def fit_check(
    model: Model,
    dictionary: Annotated[Dictionary, fields.dictionary()],
    corpus: Annotated[Source, fields.text(title="text")] = "english",
    *,
    tokens: Annotated[int, fields.count(low=100, high=100_000)] = TOKENS,
    bos: bool | None = None,
    uncentred: EncoderDictionary | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> FitCheck:
    """What a dictionary leaves unexplained where it is hooked, and at the places that it is commonly mistaken for.

    The stream before, within and after the block, and one layer up and down (of other sites the same one a layer up and down, and
    the stream about it); then, there and where it fits best, with the mean taken off or left, otherwise normalised, with BOS or
    without. One pass over the text for all sites, one more without BOS or with it.

        rs.sae.fit_check(model, sae).view()

    bos: whether its texts began with BOS, where that is neither what its files say nor the model's habit. uncentred: the same
    dictionary before the centring of its model was folded in, where it was. Raises as `corpus` does;
    DirectionError for what is no encoder.
    """
    if not isinstance(dictionary, EncoderDictionary):
        raise DirectionError("this checks encoders: SAEs and transcoders", received=repr(dictionary)[:200])
    stated = _stated(dictionary, model, bos)
    rows = _rows(model, corpus, tokens)
    values = _Values(model, rows, _places(dictionary, model), progress, cancel)
    measured: dict[Reading, tuple[float, float]] = {}
    most = len(_places(dictionary, model)) + 2 * len([*_variants(stated, dictionary, model, folded=True)])
    with stage("Measuring the fit", most, progress, cancel) as tell:

        def measure(readings: Iterator[Reading]) -> None:
            for reading in readings:
                if reading not in measured:
                    measured[reading] = _fvu(dictionary, uncentred, stated, reading, values)
                    tell(min(len(measured), most - 1))

        measure(iter([stated, *(replace(stated, site=a, written=b) for a, b in _places(dictionary, model))]))
        best = min(measured, key=lambda reading: measured[reading][0])
        for place in dict.fromkeys((stated, best)):
            measure(_variants(place, dictionary, model, folded=uncentred is not None))
        tell(most)
    return _report(dictionary, model, measured, stated, values, corpus)


def refuse_misplaced(
    dictionary: EncoderDictionary,
    model: Model,
    *,
    uncentred: EncoderDictionary | None = None,
    bos: bool | None = None,
    **watch: Any,
) -> EncoderDictionary:
    """The dictionary, with what the check found in its provenance. Raises Misplaced where it does not fit as it states."""
    found = fit_check(model, dictionary, uncentred=uncentred, bos=bos, **watch)
    own = float(found.fvu.values[0])
    if not found.fits:
        raise Misplaced(
            f"the dictionary does not fit where it is hooked: {found.stated} leaves {own:.3g} of the variance unexplained",
            received=f"{found.stated}, FVU {own:.3g}",
            allowed=f"FVU up to 1, and no other reading under {CLEARLY} of it; "
            + (f"{found.best} has {found.least:.3g}" if found.best != found.stated else "no place near it does better"),
            fix=_way_out(found),
        )
    told = {"FVU": round(own, 6), "reading": found.stated, "least": found.best, "least FVU": round(found.least, 6)}
    told |= {key: found.provenance[key] for key in ("corpus", "tokens", "left out")}
    return replace(dictionary, provenance={**dictionary.provenance, "fit": told})


def _way_out(found: FitCheck) -> str:
    """What to say when it is loaded, for each thing in which the best reading is another."""
    if found.best == found.stated:
        return "look whether it is of this model and of this text; check=False, where that is meant"
    at = found.fvu.coords["reading"].index(found.best)
    said = []
    for column in ("site", "written", "centred", "bos"):
        own, other = (found.fvu.coords[column][i] for i in (0, at))
        if own != other:
            said.append(f"{column}={other!r}" if column in ("site", "written") else f"{column}={bool(other)}")
    if found.fvu.coords["normalise"][0] != found.fvu.coords["normalise"][at]:
        said.append(f"scale={found.provenance['scale']:.6g}" if "unit mean" in found.best else "another normalisation")
    return f"load it with {', '.join(said)}; or check=False, where it is meant as it is"


def _stated(dictionary: EncoderDictionary, model: Model, bos: bool | None) -> Reading:
    said = dictionary.provenance.get("bos") if bos is None else bos
    begins = bool(model.bos if said is None else said) and _begin(model) is not None
    centred = bool(dictionary.provenance.get("centred"))
    return Reading(dictionary.site, dictionary.write_site, centred, dictionary.normalise, begins)


def _begin(model: Model) -> int | None:
    found = None if model.tokenizer is None else model.tokenizer.bos_token_id
    return None if found is None else int(found)


def _places(dictionary: EncoderDictionary, model: Model) -> list[tuple[str, str]]:
    """(read, write) of the places near by, each tensor once, its own first."""
    site, written = (model.sites.parse(x) for x in (dictionary.site, dictionary.write_site))
    layers = (0,) if site.layer is None else (0, -1, 1)
    pairs = [(_moved(site, by), _moved(written, by)) for by in layers]
    if site == written:
        others = STREAM if not dictionary.flat and model.sites.width(site) == model.d_model else ()
        pairs += [(Site(name, (site.layer or 0) + by),) * 2 for by in layers for name in others]
    else:
        reads = ("mlp_in", *STREAM[:2], "attn_in") if model.sites.width(site) == model.d_model else ()
        writes = ("mlp_out", "attn_out", "resid_post") if model.sites.width(written) == model.d_model else ()
        pairs += [(Site(name, site.layer), written) for name in reads]
        pairs += [(site, Site(name, written.layer)) for name in writes]
    found: dict[tuple[Site, Site], tuple[str, str]] = {}
    for read, write in pairs:
        try:
            tensors = model.sites.canonical(read), model.sites.canonical(write)
        except SiteError:
            continue
        found.setdefault(tensors, (str(read), str(write)))
    return [*found.values()]


def _moved(site: Site, by: int) -> Site:
    return site if site.layer is None else Site(site.name, max(site.layer + by, 0))


def _variants(place: Reading, dictionary: EncoderDictionary, model: Model, *, folded: bool) -> Iterator[Reading]:
    """The same place read otherwise, one thing at a time."""
    named = Site.parse(place.site).name
    if named in CENTRED and dictionary.normalise == "none" and (folded or not place.centred):
        yield replace(place, centred=not place.centred)
    others = ("layer_norm", "unit_mean_norm") if place.site == place.written else ("layer_norm",)
    for how in others if dictionary.normalise == "none" else ("none",):
        yield replace(place, normalise=how)
    if _begin(model) is not None:
        yield replace(place, bos=not place.bos)


def _rows(model: Model, corpus: Source, tokens: int) -> list[list[int]]:
    """Rows of the text without BOS, one token shorter than the context, so that there is room for it."""
    begin, room = _begin(model), min(LENGTH, model.context) - 1
    rows = (row.ids for row in Reader.of(model, corpus).rows(length=room, tokens=tokens))
    return [ids[1:] if ids[0] == begin else ids for ids in rows]


class _Values:
    """What stands at the sites, with BOS and without, each from one pass."""

    def __init__(
        self, model: Model, rows: list[list[int]], places: list[tuple[str, str]], progress: Progress, cancel: Cancel
    ) -> None:
        self.model = model
        self.sites = {str(model.sites.canonical(site)) for pair in places for site in pair}
        self._runs: dict[bool, Recording] = {}
        begin = _begin(model)
        ways = [False] if begin is None else [False, True]
        with stage("Reading the text", len(ways), progress, cancel) as tell:
            for bos in ways:
                with asking(tell, cancel):
                    self._runs[bos] = self._read([[begin, *row] for row in rows] if bos and begin is not None else rows)
                tell(len(self._runs))

    def _read(self, rows: list[list[int]]) -> Recording:
        capture = {self.model.sites.parse(site) for site in self.sites}
        capture |= {stream for site in self.sites for stream in streams(self.model, site)}
        return self.model.run(rows, capture)

    def at(
        self, reading: Reading, *, flat: bool
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n e"], Bool[Tensor, "n"]]:
        """x, y and which of the tokens are neither first nor sinks."""
        record = self._runs[reading.bos]
        real = record.batch.real
        keep = kept(record, reading.site) & kept(record, reading.written)
        x, y = (record[site] for site in (reading.site, reading.written))
        x, y = (value.flatten(-2) if flat else value for value in (x, y))
        return x[real].float(), y[real].float(), keep[real]


def _fvu(
    dictionary: EncoderDictionary,
    uncentred: EncoderDictionary | None,
    stated: Reading,
    reading: Reading,
    values: _Values,
) -> tuple[float, float]:
    """The FVU without first tokens and sinks, and with them."""
    x, y, keep = values.at(reading, flat=dictionary.flat)
    own = dictionary
    if reading.centred != stated.centred:
        own = uncentred if uncentred is not None and not reading.centred else _changed(dictionary, folding.centred)
    own = replace(own, site=reading.site, written=None if reading.written == reading.site else reading.written)
    if reading.normalise == "unit_mean_norm":
        s = scale_of(x[keep])
        own = _changed(own, lambda parts: folding.scaled(parts, s))
    elif reading.normalise != own.normalise:
        own = replace(own, normalise=reading.normalise)
    if reading.centred and Site.parse(reading.written).name in CENTRED:
        y = y - y.mean(-1, keepdim=True)
    remade = torch.cat([own.reconstruct(block) for block in torch.split(x, 512)])
    return share(y[keep], remade[keep]), share(y, remade)


def scale_of(x: Float[Tensor, "n d"]) -> float:
    """sqrt(d) over the mean length: what `expected_average_only_in` multiplies by."""
    return float(x.shape[-1] ** 0.5 / x.norm(dim=-1).mean())


def share(y: Float[Tensor, "n d"], remade: Float[Tensor, "n d"]) -> float:
    """The fraction of variance unexplained: sum |y - xhat|^2 / sum |y - mean(y)|^2."""
    rest = (y - remade).double().square().sum()
    return float(rest / (y - y.mean(0)).double().square().sum().clamp_min(torch.finfo(torch.float64).tiny))


def _changed(dictionary: EncoderDictionary, change: Any) -> EncoderDictionary:
    names = ("read", "write", "mean", "bias", "base", "threshold", "gate_bias", "gate_scale", "skip", "normalise")
    return replace(dictionary, **change({name: getattr(dictionary, name) for name in names}))


def _report(
    dictionary: EncoderDictionary,
    model: Model,
    measured: dict[Reading, tuple[float, float]],
    stated: Reading,
    values: _Values,
    corpus: Source,
) -> FitCheck:
    readings = [*measured]
    best = min(readings, key=lambda reading: measured[reading][0] / CLEARLY ** _departures(stated, reading))
    x, _, keep = values.at(best, flat=dictionary.flat)
    columns = ("site", "written", "centred", "normalise", "bos")
    told = {column: [_plain(getattr(reading, column)) for reading in readings] for column in columns}
    coords = {"reading": [reading.words for reading in readings], **told}
    provenance = {
        **Reader.of(model, corpus).about, "model": model.hash, "dictionary": dictionary.hash, "tokens": len(keep),
        "left out": int((~keep).sum()), "scale": scale_of(x[keep]), "rule": f"FVU <= 1, none under {CLEARLY} of it a difference",
    }  # fmt: skip
    fvu, whole = (
        Result(
            torch.tensor([measured[reading][i] for reading in readings], dtype=torch.float64), ("reading",), coords=coords,
            along=dict.fromkeys(columns, "reading"), name=name, unit="of the variance", provenance=provenance,
        )
        for i, name in enumerate(("FVU", "FVU with first tokens and sinks"))
    )  # fmt: skip
    return FitCheck(fvu, whole, best.words, best == stated and measured[stated][0] <= 1, provenance)


def _departures(stated: Reading, other: Reading) -> int:
    """In how many things a reading is another than the stated one."""
    places = (other.site, other.written) != (stated.site, stated.written)
    return places + sum(getattr(other, one) != getattr(stated, one) for one in ("centred", "normalise", "bos"))


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value
