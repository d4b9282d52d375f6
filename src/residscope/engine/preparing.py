"""A run's edits made ready: sources resolved, contradictions refused, and those joined that mean something together."""

from collections.abc import Iterable, Sequence
from typing import Any

from residscope.engine.protocols import Edit
from residscope.model.sites import Site, SiteTable


def prepare(model: Any, edits: Iterable[Edit], lengths: tuple[int, ...]) -> tuple[Edit, ...]:
    """Edits as a pass takes them, for prompts of these lengths. Raises ClashingEdits, and what an edit itself refuses."""
    return join([edit.prepare(model) for edit in edits], model.sites, lengths)


def join(edits: Sequence[Edit], table: SiteTable, lengths: tuple[int, ...]) -> tuple[Edit, ...]:
    """Prepared edits in their order, each seen with those before it that change a site of its own.

    An edit may have `refuse(later, sites, lengths)`, which raises where a later one contradicts it at the sites they
    share, and `joined(later)`, which gives one edit for both (it stands where the earlier stood) or None.
    """
    done: list[Edit] = []
    here: dict[Site, list[int]] = {}
    for edit in [part for given in edits for part in getattr(given, "parts", (given,))]:
        sites = edit.places(table)
        place = len(done)
        for i in sorted({i for site in sites for i in here.get(site, ())}):
            shared = [site for site in sites if i in here.get(site, ())]
            if (refuse := getattr(done[i], "refuse", None)) is not None:
                refuse(edit, shared, lengths)
            if (joined := getattr(done[i], "joined", None)) is not None and (both := joined(edit)) is not None:
                done[i], place = both, i
                break
        if place == len(done):
            done.append(edit)
        for site in sites:
            if place not in here.setdefault(site, []):
                here[site].append(place)
    return tuple(done)
