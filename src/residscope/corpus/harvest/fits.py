"""The moments of several sites from one harvest: what directions are fitted on."""

from collections.abc import Sequence

from residscope.corpus.harvest.run import harvest
from residscope.corpus.harvest.statistics.moments import MomentsOf
from residscope.corpus.moments import Moments
from residscope.corpus.reading import LENGTH, Reader
from residscope.corpus.text import Source
from residscope.corpus.vectors import one_vector
from residscope.engine.model import Model
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress


def moments_of(
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
) -> dict[Site, Moments]:
    """Count, mean and scatter of the vectors at several sites, from one pass; tokens are left out as `vectors_of` has it.

    Raises:
        UnknownSite, UnknownLayer, AbsentSite, UnknownHead, NoVectors: see `one_vector`. CorpusError. Cancelled.
    """
    places = list(dict.fromkeys(one_vector(model, site, head) for site in sites))
    wanted = {site: MomentsOf(str(site), head) for site in places}
    gathered = harvest(
        model, corpus, [*wanted.values()], tokens=tokens, length=length, what=what, progress=progress, cancel=cancel
    )
    found = {site: gathered[one.name].moments for site, one in wanted.items()}
    return {site: Moments(m.count, m.mean.to(model.device), m.scatter.to(model.device)) for site, m in found.items()}
