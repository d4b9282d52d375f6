"""Edits that provably cannot change the result, with the reason. Silence proves nothing."""

from collections.abc import Sequence
from typing import Any

from residscope.model.sites import KINDS, Site, SiteTable

_RANK = {name: rank for rank, name in enumerate(KINDS)}
_RANK |= {"q_scale": _RANK["q"], "k_scale": _RANK["q"]}  # the norm of a query comes before the query
_READ_BY_OTHERS = {"resid_pre", "attn_scale", "attn_in", "k", "v", "k_scale"}  # what other positions' attention reads
Active = Sequence[tuple[str, Any]]


def find_inert(active: Active, sites: SiteTable, *, n_pos: int) -> dict[str, str]:
    """Why each edit that cannot matter cannot, by id; `active` are ids and edits in order.

    A freeze holds a site at its unedited value, so it needs an effective edit upstream. An edit is overwritten by a
    later one that replaces the whole site. In the last layer, what attention does not read stays at its own position.
    """
    reasons: dict[str, str] = {}
    for i, (id, edit) in enumerate(active):
        later = [other for _, other in active[i + 1 :]]
        reason = edit.idle or _overwritten(edit, later, sites) or _too_late(edit, sites, n_pos)
        if reason:
            reasons[id] = reason
    freezes = [(id, edit) for id, edit in active if edit.needs_unedited]
    for id, freeze in sorted(freezes, key=lambda each: _depth(_span(each[1], sites)[1], sites)):
        effective = [edit for other, edit in active if other not in reasons and edit is not freeze]
        order = [edit for _, edit in active]
        if id not in reasons and not any(_reaches(edit, freeze, order, sites) for edit in effective):
            reasons[id] = "nothing upstream of it is edited, so it already has its unedited value"
    return reasons


def _overwritten(edit: Any, later: Sequence[Any], sites: SiteTable) -> str | None:
    here = edit.places(sites)
    if len(here) != 1:
        return None
    for other in later:
        if other.replaces and other.places(sites) == here:
            return f"the {other.kind} after it replaces all of {other.site}"
    return None


def _too_late(edit: Any, sites: SiteTable, n_pos: int) -> str | None:
    places = edit.places(sites)
    if edit.pos is None or len(places) != 1:
        return None
    (site,) = places
    last_layer = site.layer == sites.sizes.n_layers - 1 and site.name not in _READ_BY_OTHERS
    at_the_end = not site.kind.layered and site.name.startswith("final")
    if "pos" not in site.kind.axes or not (last_layer or at_the_end):
        return None
    if any(pos % n_pos == n_pos - 1 for pos in edit.pos):
        return None
    return "it is in the last layer and leaves the last position, which makes the next token, as it was"


def _reaches(edit: Any, freeze: Any, order: Sequence[Any], sites: SiteTable) -> bool:
    """Whether an edit may change what the freeze holds: it comes earlier in the pass, or in the stack."""
    mine, theirs = _depth(_span(freeze, sites)[1], sites), _depth(_span(edit, sites)[0], sites)
    if theirs != mine:
        return theirs < mine
    return edit.places(sites) != freeze.places(sites) or order.index(edit) < order.index(freeze)


def _span(edit: Any, sites: SiteTable) -> tuple[Site, Site]:
    """The first and the last place of an edit."""
    places = sorted(edit.places(sites), key=lambda site: _depth(site, sites))
    return (places[0], places[-1]) if places else (Site("embed"), Site("embed"))


def _depth(site: Site, sites: SiteTable) -> tuple[int, int]:
    if site.layer is None:
        return (-1, 0) if site.name in ("embed", "pos_embed") else (sites.sizes.n_layers, _RANK[site.name])
    return site.layer, _RANK[site.name]
