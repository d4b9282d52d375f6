"""A run's edits made ready: sources resolved, contradictions refused, and those joined that mean something together."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from residscope.engine.protocols import Edit, LeastEdit, whole
from residscope.model.sites import Site, SiteTable


def prepare(model: Any, edits: Iterable[LeastEdit], lengths: tuple[int, ...]) -> tuple[Edit, ...]:
    """Edits as a pass takes them, for prompts of these lengths. Raises ClashingEdits, and what an edit itself refuses."""
    return join([edit.prepare(model) for edit in edits], model.sites, lengths)


_sources: ContextVar[dict[Any, tuple[Any, Any]] | None] = ContextVar("residscope_sources", default=None)


@contextmanager
def sources_kept() -> Iterator[None]:
    """While many cells are prepared, a prompt that several of them take values from is run once."""
    token = _sources.set({})
    try:
        yield
    finally:
        _sources.reset(token)


def source_run(model: Any, prompt: Any, sites: Sequence[Site]) -> Any:
    """A recording that holds these sites of a prompt that an edit takes values from."""
    runs = _sources.get()
    if runs is None:
        return model.run(prompt, capture=sites)
    key = prompt if isinstance(prompt, str) else id(prompt)
    if key not in runs:
        runs[key] = prompt, model.run(prompt, capture=[*model.sites.expand("resid_pre"), *sites])
    return runs[key][1]


def join(edits: Sequence[LeastEdit], table: SiteTable, lengths: tuple[int, ...]) -> tuple[Edit, ...]:
    """Prepared edits in their order, each seen with those before it that change a site of its own.

    `Edit.refuse` raises where a later one contradicts it at the sites they share; `Edit.joined` gives one edit for both, which
    stands where the earlier stood, or None.
    """
    joined: list[Edit] = []
    here: dict[Site, list[int]] = {}
    for edit in [part for given in map(whole, edits) for part in given.parts or (given,)]:
        sites = edit.places(table)
        place = len(joined)
        for i in sorted({i for site in sites for i in here.get(site, ())}):
            shared = [site for site in sites if i in here.get(site, ())]
            joined[i].refuse(edit, shared, lengths)
            if (both := joined[i].joined(edit)) is not None:
                joined[i], place = both, i
                break
        if place == len(joined):
            joined.append(edit)
        for site in sites:
            if place not in here.setdefault(site, []):
                here[site].append(place)
    return tuple(joined)
