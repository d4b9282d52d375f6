"""The vectors of a site over a text: one a token, of one head where the site has heads."""

from collections.abc import Iterator, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from residscope.corpus.chunks import chunks
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.directions import Direction, place
from residscope.engine.model import Model
from residscope.errors import CorpusError, DirectionError, NoVectors, TooFewVectors, UnknownHead, WrongWidth
from residscope.model.sites import KINDS, Site
from residscope.progress import Cancel, Progress

ROWS = 8  # of a run
PLAIN = (("d_model",), ("d_mlp",))
OF_HEADS = (("head", "d_model"), ("head", "d_head"))
PLACES = tuple(
    name for name, kind in KINDS.items() if kind.axes[:2] == ("batch", "pos") and kind.axes[2:] in PLAIN + OF_HEADS
)
"""The sites with one vector a token, or one a token of each head."""
STREAM = "stream"


def price(model: Model, *, site: str, tokens: int = 20_000, **_: Any) -> float:
    """Tokens that go through the whole model to read a site over a text: of its forwards, the layers up to it."""
    layer = model.sites.parse(site).layer
    return tokens * (1.0 if layer is None else (layer + 1) / model.n_layers)


def price_of_sites(model: Model, *, sites: Sequence[str] = (STREAM,), tokens: int = 20_000, **_: Any) -> float:
    """As `price`, of several sites in one pass: of its forwards, the layers up to the last of them."""
    return max(price(model, site=site, tokens=tokens) for site in named_sites(model, sites))


def named_sites(model: Model, sites: Sequence[str]) -> list[str]:
    """Sites by name; `"stream"` among them is `resid_pre.0` and every resid_post."""
    stream = ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(model.n_layers))]
    return [name for site in sites for name in (stream if site == STREAM else [site])]


def check_place(model: Model, *, site: str, head: int | None = None, n: int | None = None, **_: Any) -> None:
    """What a fit at a site refuses before any text is read.

    Raises:
        UnknownSite, UnknownLayer, AbsentSite, UnknownHead, NoVectors: see `one_vector`. DirectionError: more directions than
        the place has dimensions.
    """
    where = one_vector(model, site, head)
    if n is not None:
        check_size(n, model.sites.width(where), what="directions")


def check_direction(model: Model, direction: Direction, site: str | None = None) -> Site:
    """The place of a direction, or another that it is asked at. Raises what `one_vector` does; WrongWidth."""
    where = one_vector(model, site or direction.site, direction.head)
    if len(direction.read) != (width := model.sites.width(where)):
        raise WrongWidth(
            f"{direction.name} does not fit {where}", received=str(len(direction.read)), allowed=str(width)
        )
    return where


def check_places(model: Model, *, sites: Sequence[str] = (STREAM,), **more: Any) -> None:
    """`check_place` of each of several sites."""
    for site in named_sites(model, sites):
        check_place(model, site=site, **more)


def vectors_of(
    model: Model,
    corpus: Source | Reader,
    sites: Sequence[str | Site],
    *,
    head: int | None = None,
    tokens: int = 20_000,
    length: int = LENGTH,
    what: str = "Reading the text",
    progress: Progress = None,
    cancel: Cancel = None,
) -> Iterator[dict[Site, Float[Tensor, "n d"]]]:
    """The vectors at several sites, a batch of texts at a time, until `tokens` tokens have been read; one run for all sites.

    Position 0 is left out, and so are attention sinks: tokens at which the stream at the site, or before or after the site's
    block, is over ten times its row's median length (`engine.sinks.kept`). They would take the first directions for themselves.

    Raises:
        UnknownSite, UnknownLayer, AbsentSite, UnknownHead, NoVectors: see `one_vector`. CorpusError: the text cannot be used.
        Cancelled: `cancel` said so.
    """
    places = [one_vector(model, site, head) for site in sites]
    if tokens < 1:
        raise CorpusError("no tokens to read", received=f"tokens={tokens}", allowed="1 or more")
    for chunk in chunks(
        model, corpus, places, tokens=tokens, length=length, size=ROWS, what=what, progress=progress, cancel=cancel
    ):
        yield {site: chunk.vectors(site, head) for site in places}


def one_vector(model: Model, text: str | Site, head: int | None = None) -> Site:
    """The site, if it has one vector a token: of the stream's width, the neurons', or one head's.

    Raises:
        UnknownSite, UnknownLayer, AbsentSite: no such site. NoVectors: a site of another shape.
        UnknownHead: a site of heads without one, a head that is not there, or a head where there are none.
    """
    site = model.sites.parse(text)
    axes = site.kind.axes
    if axes[:2] != ("batch", "pos") or axes[2:] not in PLAIN + OF_HEADS:
        raise NoVectors(
            f"{site} has no vector at each token that directions could lie in",
            received=f"{site}, [{site.kind.dims}]",
            allowed="the stream, what reads it or adds to it, the neurons (mlp_post), or with a head result, z and q",
        )
    if head is not None:
        model.sites.check_index(site, "head", (head,))
    elif axes[2:] in OF_HEADS:
        last = (model.sites.size(site, "head") or 0) - 1
        raise UnknownHead(
            f"{site} has a vector for every head: say which", received="no head", allowed=f"head 0 to {last}"
        )
    return site


def check_size(n: int, width: int, *, what: str) -> None:
    """Refuse more directions than the width, or none."""
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= width:
        raise DirectionError(f"so many {what} there are not", received=f"n={n}", allowed=f"1 to {width}")


def check_count(count: int, least: int, *, site: Site, head: int | None) -> None:
    if count < least:
        raise TooFewVectors(
            f"the text gives too few vectors at {place(str(site), head)}",
            received=f"{count}",
            allowed=f"{least} or more",
            fix="give a longer text or more tokens, or ask for fewer directions",
        )
