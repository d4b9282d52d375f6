"""A mix, from the wire's reference to one direction, and to the Python that gives it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import DICTIONARY_HASH, Dictionary, Direction, EncoderDictionary
from residscope.directions.mixes import mix
from residscope.errors import NotFound, UnknownSite, WrongWidth
from residscope.fields.directions import DictionaryTerm, MixRef, PcaRef
from residscope.world.dictionaries import SAVED
from residscope.world.loaded import Loaded

Directions = Mapping[str, Direction]
PREFIX = f"{SAVED}:"
SINGLE = re.compile(r"(?P<id>.+)/(?P<index>[0-9]{1,6})")


@dataclass(frozen=True)
class Term:
    """One direction of a mix: of a dictionary, by id and index, or saved, by name (index None)."""

    source: str
    index: int | None
    weight: float

    @property
    def source_id(self) -> str:
        """What `dictionary_of` takes: a saved direction is a dictionary of one."""
        return PREFIX + self.source if self.index is None else self.source


def saved_direction(name: str, saved: Directions) -> Direction:
    """Raises NotFound."""
    if name not in saved:
        raise NotFound("no direction of that name", received=name, allowed=", ".join(saved) or "none is imported yet")
    return saved[name]


def dictionary_of(name: str, loaded: Loaded, saved: Directions) -> Dictionary:
    """A dictionary by id; `saved:NAME` is a saved direction as one of a single component. Raises NotFound.

    Of the mean that a centred one was fitted with its offset is all that is known: the shortest vector m with read . m = offset.
    """
    if not name.startswith(PREFIX):
        return loaded.dictionary(name)
    d = saved_direction(name.removeprefix(PREFIX), saved)
    read, offset = d.read.float(), torch.tensor([d.offset], device=d.read.device)
    return Dictionary(
        SAVED,
        d.site,
        read[None],
        d.write.float()[None],
        read * (d.offset / read.square().sum()) if d.space == "centred" else torch.zeros_like(read),
        sd=None if d.scale is None else torch.tensor([d.scale]),
        provenance=d.provenance,
        head=d.head,
        space=d.space,
        offset=offset if d.space == "lens" else None,
        names=(d.name,),
    )


class Reads(NamedTuple):
    """Read vectors: whose they are, which of its directions, and the vectors."""

    source: str
    indices: Sequence[int]
    read: Float[Tensor, "n d"]


def reads(name: str, loaded: Loaded, saved: Directions) -> Reads:
    """The read vectors of a dictionary, by id, of one of its directions, `ID/INDEX`, or of a saved one, `saved:NAME`.

    Raises:
        NotFound, DirectionError.
    """
    single = None if name.startswith(PREFIX) else SINGLE.fullmatch(name)
    if single is None:
        read = dictionary_of(name, loaded, saved).read
        return Reads(name, range(len(read)), read)
    dictionary, index = loaded.dictionary(single["id"]), int(single["index"])
    dictionary.check_index(index)
    return Reads(single["id"], [index], dictionary.read[index][None])


def terms_of(ref: PcaRef | MixRef) -> list[Term]:
    """The terms that have a weight, each direction once."""
    found: dict[tuple[str, int | None], float] = {}
    if isinstance(ref, PcaRef):
        found = {(f"pca@{ref.site}", int(index)): weight for index, weight in ref.weights.items()}
    else:
        for term in ref.terms:
            key = (term.dictionary, term.index) if isinstance(term, DictionaryTerm) else (term.saved, None)
            found[key] = found.get(key, 0.0) + term.weight
    return [Term(source, index, weight) for (source, index), weight in found.items() if weight]


def resolve_mix(ref: PcaRef | MixRef, loaded: Loaded, saved: Directions) -> Direction:
    """The direction; one term alone at its own place is itself, in its own units, or its negative. Of more, the standard
    deviation is known of uncorrelated terms, the components of one PCA:

        sd = sqrt(sum_i w_i^2 sd_i^2) / L

    Raises:
        NotFound, DirectionError, WrongWidth, ZeroDirection, SiteError.
    """
    if isinstance(ref, PcaRef):
        _check_site(ref.site, loaded)
    terms = terms_of(ref)
    parts = [(term.weight, _direction(term, loaded, saved)) for term in terms]
    knower = mean_source(ref, loaded, saved)
    site = ref.site if isinstance(ref, MixRef) else None
    found = mix(parts, site=site, mean=None if knower is None else loaded.dictionary(knower).mean)
    sites = loaded.model.sites
    width = sites.width(sites.parse(found.site))
    if len(found.read) != width:
        raise WrongWidth(
            f"the mix does not fit {found.site}", received=f"width {len(found.read)}", allowed=f"width {width}"
        )
    one = one_dictionary(terms, loaded)
    if alone(ref):
        weight, part = parts[0]
        own = part if weight > 0 else -part
        about = found.provenance
        if weight > 0 and terms[0].index is not None:
            about = {**about, DICTIONARY_HASH: loaded.dictionary(terms[0].source).hash}
        return replace(own, name=found.name, provenance=about)
    if len(parts) > 1 and one is not None and one.name == "pca" and one.sd is not None:
        weights = torch.tensor([term.weight for term in terms], dtype=torch.float64)
        index = [term.index for term in terms]
        length = (weights @ one.read[index].double().cpu()).norm()
        found = replace(found, scale=float((weights * one.sd[index].double().cpu()).norm() / length))
    return found


def alone(ref: PcaRef | MixRef) -> bool:
    """Whether a mix is of one term, at its own place."""
    return len(terms_of(ref)) == 1 and (isinstance(ref, PcaRef) or ref.site is None)


def one_dictionary(terms: list[Term], loaded: Loaded) -> Dictionary | None:
    """The dictionary that all terms are of, where it is one."""
    sources = {(term.source, term.index is None) for term in terms}
    ((source, named),) = sources if len(sources) == 1 else (("", True),)
    return None if named else loaded.dictionary(source)


def mean_source(ref: PcaRef | MixRef, loaded: Loaded, saved: Directions) -> str | None:
    """The dictionary whose mean is that of the mix's place, where its terms do not all know it themselves."""
    terms = terms_of(ref)
    parts = [_direction(term, loaded, saved) for term in terms]
    if not parts or any(part.space != "centred" for part in parts):
        return None
    if encoders(terms, loaded):  # whose zero is their bias, and no mean's
        return None
    moved = isinstance(ref, MixRef) and ref.site not in (None, parts[0].site)
    if not moved and all(part.place == parts[0].place for part in parts):
        return None
    site = ref.site if moved and isinstance(ref, MixRef) and ref.site else parts[0].site
    loaded.model.sites.parse(site)
    known = loaded.means.knower(site, None if moved else parts[0].head)
    return None if known is None else known[0]


def encoders(terms: Sequence[Term], loaded: Loaded) -> list[EncoderDictionary]:
    """The encoders that terms are of, each once: a picture of one is its activation, a direction what comes before."""
    sources = dict.fromkeys(term.source for term in terms if term.index is not None)
    found = [loaded.dictionary(source) for source in sources]
    return [dictionary for dictionary in found if isinstance(dictionary, EncoderDictionary)]


def _direction(term: Term, loaded: Loaded, saved: Directions) -> Direction:
    """One direction, which keeps the hash of its dictionary: whatever goes by its id later is not it."""
    if term.index is None:
        return saved_direction(term.source, saved)
    dictionary = loaded.dictionary(term.source)
    found = dictionary[term.index]
    return replace(found, provenance={**found.provenance, "hash": dictionary.hash})


def _check_site(site: str, loaded: Loaded) -> None:
    if f"pca@{site}" not in loaded.dictionaries:
        loaded.model.sites.parse(site)
        known = [d.site for d in loaded.dictionaries.values() if d.name == "pca" and d.head is None]
        raise UnknownSite(
            f"no components are fitted at {site}",
            received=site,
            allowed=f"{known[0]} to {known[-1]}" if known else "none: this model ships without components",
        )
