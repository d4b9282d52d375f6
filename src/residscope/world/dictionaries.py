"""The dictionaries of a session: their ids, the rows they read, and the data-set means they know."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import Dictionary, EncoderDictionary, LinearDictionary
from residscope.model.sites import KINDS, Site, SiteTable
from residscope.views.view import Plain

SAVED = "saved"  # the kind of a dictionary that is one saved direction


Space = Annotated[str, Plain(Literal["raw", "centred", "lens"])]


class DictionaryInfo(TypedDict):
    """A dictionary of the model. `id`: such as `pca@resid_post.23`, `nmf@z.3.h2`, `pca@resid_post.23#2`; never given twice."""

    id: str
    hash: Annotated[str, "Of its sites and tensors."]
    site: str
    write_site: str
    linear: Annotated[bool, "Of an encoder false: its coordinates are activations, and no products with a direction."]
    beside_stream: Annotated[
        bool, "Whether it is read against the stream's rows, or against its own site in every layer."
    ]
    activation: Annotated[str | None, "What an encoder's features go through last: relu, topk or jumprelu."]
    head: int | None
    place: Annotated[str, "The site as people say it: `result.9 head 3`."]
    kind: Annotated[str, "pca, svd, nmf, mean_difference, unembedding, or what a file says that it is, such as sae."]
    n: int
    space: Space
    standardised: bool
    fitted_on: str
    tokens: int
    shipped: Annotated[bool, "It came with Residscope, and cannot be forgotten."]
    width: int


def fitted_on(dictionary: Dictionary) -> str:
    """What the text is called; of a mean difference both: `code − prose`."""
    several = dictionary.provenance.get("corpora", {})
    return " − ".join(several.values()) if several else str(dictionary.provenance.get("corpus", ""))


def describe_row(id: str, dictionary: Dictionary, table: SiteTable, *, shipped: bool) -> DictionaryInfo:
    """One entry of `State.model.dictionaries` of the wire."""
    return {
        "id": id,
        "hash": dictionary.hash,
        "site": dictionary.site,
        "write_site": dictionary.write_site,
        "linear": isinstance(dictionary, LinearDictionary),
        "beside_stream": beside_stream(dictionary, table),
        "activation": dictionary.activation if isinstance(dictionary, EncoderDictionary) else None,
        "head": dictionary.head,
        "place": dictionary.place,
        "kind": dictionary.name,
        "n": len(dictionary),
        "space": dictionary.space,
        "standardised": bool(dictionary.provenance.get("standardised", False)),
        "fitted_on": fitted_on(dictionary),
        "tokens": int(dictionary.provenance.get("tokens", 0)),
        "shipped": shipped,
        "width": dictionary.read.shape[1],
    }


def in_stream(site: Site) -> bool:
    """Whether a vector of this site can be laid beside the stream's."""
    return site.kind.axes[-1] == "d_model"


def beside_stream(dictionary: Dictionary, table: SiteTable) -> bool:
    """Whether it reads the stream's rows. An encoder does where its own place is one: elsewhere they give no activation of it."""
    if isinstance(dictionary, LinearDictionary):
        return in_stream(table.parse(dictionary.site))
    return _tensor(dictionary.site, table) in [_tensor(site, table) for site in _stream(table)]


def _stream(table: SiteTable) -> list[str]:
    return ["resid_pre.0", *(f"resid_post.{layer}" for layer in range(table.sizes.n_layers))]


def every_layer(name: str, table: SiteTable) -> list[str]:
    """A site without its layer in every layer; one that no layer has, such as `final_norm`, once."""
    return [f"{name}.{layer}" for layer in range(table.sizes.n_layers)] if KINDS[name].layered else [name]


def row_sites(dictionary: Dictionary | None, table: SiteTable) -> list[str]:
    """What a dictionary is read against: the stream before block 0 and after each; or its own site in each (`beside_stream`)."""
    if dictionary is None or beside_stream(dictionary, table):
        return _stream(table)
    return every_layer(table.parse(dictionary.site).name, table)


def row_names(sites: Sequence[str]) -> list[str]:
    """The rows as the wire calls them: what block 0 reads is `embed`."""
    return ["embed" if site == "resid_pre.0" else site for site in sites]


def fitted_row(dictionary: Dictionary, table: SiteTable) -> int | None:
    """Which of those rows is the dictionary's own place."""
    if dictionary.head is not None and in_stream(table.parse(dictionary.site)):
        return None
    own, rows = _tensor(dictionary.site, table), [_tensor(site, table) for site in row_sites(dictionary, table)]
    return rows.index(own) if own in rows else None


def _tensor(site: str, table: SiteTable) -> Site:
    """One name for one tensor: the embedding is what block 0 reads, unless positions are added to it."""
    found = table.canonical(site)
    return Site("resid_pre", 0) if found == Site("embed") and "pos_embed" in table.absent else found


class Means:
    """Data-set means by place: of what principal components were fitted on, or else of two texts that were compared there."""

    def __init__(self, dictionaries: Mapping[str, Dictionary], table: SiteTable) -> None:
        self._table = table
        self._known: dict[tuple[Site, int | None], dict[str, Dictionary]] = {}
        for kind in ("pca", "mean_difference"):
            for id, dictionary in dictionaries.items():
                if dictionary.name == kind and isinstance(dictionary, LinearDictionary):
                    self._known.setdefault((_tensor(dictionary.site, table), dictionary.head), {})[id] = dictionary

    def knower(self, site: str, head: int | None, like: Dictionary | None = None) -> tuple[str, Dictionary] | None:
        """The dictionary that knows a place's mean: `like` itself, else one fitted on the same text, else the first."""
        known = self._known.get((_tensor(site, self._table), head), {})
        alike: list[tuple[str, Dictionary]] = []
        if like is not None and like.name != "mean_difference":
            alike = [entry for entry in known.items() if fitted_on(entry[1]) == fitted_on(like)]
        itself = [entry for entry in alike if entry[1] is like]
        return next(iter([*itself, *alike, *known.items()]), None)

    def stack(self, sites: Sequence[str], head: int | None, like: Dictionary | None = None) -> Float[Tensor, "row d"]:
        """The mean of each row; NaN where none is known."""
        found = [self.knower(site, head, like) for site in sites]
        width = self._table.width(self._table.parse(sites[0]))
        unknown = torch.full((width,), torch.nan)
        return torch.stack([unknown if known is None else known[1].mean.float().cpu() for known in found])
