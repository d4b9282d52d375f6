"""Edits that provably cannot change the result, with the reason. Silence proves nothing."""

from collections.abc import Sequence

from residscope.model.sites import KINDS, Site, SiteTable
from residscope.session.specs import EditSpec, Freeze, Scale, Steer

GROUPS = ("norms", "patterns")
_RANK = {name: rank for rank, name in enumerate(KINDS)}
_RANK |= {"q_scale": _RANK["q"], "k_scale": _RANK["q"]}  # the norm of a query comes before the query
_READ_BY_OTHERS = {"resid_pre", "attn_scale", "attn_in", "k", "v", "k_scale"}  # what other positions' attention reads


def find_inert(active: Sequence[EditSpec], sites: SiteTable, *, n_pos: int) -> dict[str, str]:
    """Why each edit that cannot matter cannot, by id.

    A freeze holds a site at its unedited value, so it needs an effective edit upstream. An edit is overwritten by a
    later one that replaces the whole site. In the last layer, what attention does not read stays at its own position.
    """
    found: dict[str, str] = {}
    for i, spec in enumerate(active):
        reason = _neutral(spec) or _overwritten(spec, active[i + 1 :], sites) or _too_late(spec, sites, n_pos)
        if reason:
            found[str(spec.id)] = reason
    for spec in sorted((s for s in active if isinstance(s, Freeze)), key=lambda s: _depth(_span(s, sites)[1], sites)):
        effective = [s for s in active if str(s.id) not in found and s is not spec]
        if str(spec.id) not in found and not any(_reaches(other, spec, active, sites) for other in effective):
            found[str(spec.id)] = "nothing upstream of it is edited, so it already has its unedited value"
    return found


def _neutral(spec: EditSpec) -> str | None:
    if isinstance(spec, Scale) and spec.factor == 1:
        return "it multiplies by one"
    if isinstance(spec, Steer) and spec.strength == 0:
        return "its strength is zero"
    return None


def _overwritten(spec: EditSpec, later: Sequence[EditSpec], sites: SiteTable) -> str | None:
    if spec.site in GROUPS:
        return None
    here = sites.canonical(spec.site)
    for other in later:
        whole = other.kind in ("ablate", "freeze") and other.pos is other.head is other.kv_head is other.neuron is None
        if whole and other.site not in GROUPS and sites.canonical(other.site) == here:
            return f"the {other.kind} after it replaces all of {other.site}"
    return None


def _too_late(spec: EditSpec, sites: SiteTable, n_pos: int) -> str | None:
    if spec.site in GROUPS:
        return None
    site = sites.canonical(spec.site)
    last_layer = site.layer == sites.sizes.n_layers - 1 and site.name not in _READ_BY_OTHERS
    if (
        spec.pos is None
        or "pos" not in site.kind.axes
        or not (last_layer or (not site.kind.layered and site.name.startswith("final")))
    ):
        return None
    asked = [spec.pos] if isinstance(spec.pos, int) else spec.pos
    if any(pos % n_pos == n_pos - 1 for pos in asked):
        return None
    return "it is in the last layer and leaves the last position, which makes the next token, as it was"


def _reaches(edit: EditSpec, freeze: EditSpec, active: Sequence[EditSpec], sites: SiteTable) -> bool:
    """Whether an edit may change what the freeze holds: it comes earlier in the pass, or in the stack."""
    mine, theirs = _depth(_span(freeze, sites)[1], sites), _depth(_span(edit, sites)[0], sites)
    return theirs < mine or (theirs == mine and (edit.site != freeze.site or active.index(edit) < active.index(freeze)))


def _span(spec: EditSpec, sites: SiteTable) -> tuple[Site, Site]:
    """The first and the last place of an edit."""
    last = sites.sizes.n_layers - 1
    if spec.site in GROUPS:
        return {"norms": (Site("attn_scale", 0), Site("final_scale"))}.get(
            spec.site, (Site("pattern", 0), Site("pattern", last))
        )
    return sites.canonical(spec.site), sites.canonical(spec.site)


def _depth(site: Site, sites: SiteTable) -> tuple[int, int]:
    if site.layer is None:
        return (-1, 0) if site.name in ("embed", "pos_embed") else (sites.sizes.n_layers, _RANK[site.name])
    return site.layer, _RANK[site.name]
