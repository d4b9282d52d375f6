"""What a graph's features do elsewhere: in prompts that fit their meaning, and in texts that have nothing to do with it."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from residscope.corpus.reading import Reader
from residscope.corpus.text import Source
from residscope.engine.model import Prompt
from residscope.graph.graph import Graph
from residscope.graph.validation.asked import Asked, active_in, kept_in, nodes_of
from residscope.graph.validation.cuts import by_level, cut
from residscope.graph.validation.measure import TOGETHER, measured
from residscope.graph.validation.report import Elsewhere, InContext
from residscope.model.prompts import Batch
from residscope.progress import Cancel, Progress, stage

SPREAD = 10  # windows to choose among, for each text that is taken


@dataclass(frozen=True, eq=False)
class Read:
    """Of each prompt: where features may be taken out, how many of the nodes' are active, and its likeliest next token."""

    keep: Bool[Tensor, "row pos"]
    active: Int[Tensor, " row"]
    likeliest: list[int]


def read(asked: Asked, batch: Batch, *, what: str, progress: Progress, cancel: Cancel) -> Read:
    """One plain run of each prompt, a few at a time. Raises Cancelled."""
    model, levels, chosen = asked.setting.model, asked.setting.levels, asked.everywhere()
    sites = {site for level in levels for site in (level.read_site, level.write_site)}
    wanted = [*sites, *model.sites.expand("resid_pre"), *model.sites.expand("resid_post")]
    keeps, counts, likeliest = [], [], []
    with stage(what, len(batch), progress, cancel) as tell:
        for first in range(0, len(batch), TOGETHER):
            rows = range(first, min(first + TOGETHER, len(batch)))
            some = batch.take(rows).trimmed()
            record = model.run(some, capture=wanted, edits=asked.setting.background)
            keep = kept_in(record, levels)
            counts.append(active_in(record, levels, chosen, keep))
            keeps.append(pad(keep, (0, batch.ids.shape[1] - keep.shape[1])))
            likeliest += record.logits_at(-1).argmax(-1).tolist()
            tell(rows.stop)
    return Read(torch.cat(keeps), torch.cat(counts), likeliest)


def in_contexts(
    asked: Asked, contexts: Prompt, *, memory: int | None, progress: Progress, cancel: Cancel
) -> tuple[InContext, ...]:
    """Each other prompt by its own likeliest next token, with the nodes' features taken out wherever they are active."""
    setting = asked.setting
    model, batch = setting.model, setting.model.batch(contexts)
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    own = read(asked, batch, what="Reading other prompts", **watch)
    cells = [cut(model, setting.levels, asked.everywhere(), own.keep)]
    found = measured(
        model, batch, cells, own.likeliest, background=setting.background, memory=memory,
        what="Taking the features out of other prompts", **watch,
    )  # fmt: skip
    return tuple(
        InContext(
            prompt="".join(model.token_texts(batch.ids[row, : batch.lengths[row]].tolist())),
            token=model.token_texts([own.likeliest[row]])[0],
            before=float(found.before[row]),
            after=float(found.log_prob[0, row]),
            kl=float(found.kl[0, row]),
            active=int(own.active[row]),
        )
        for row in range(len(batch))
    )


def elsewhere(
    asked: Asked,
    graph: Graph,
    texts: Source,
    circuits: Sequence[Sequence[str]],
    *,
    n: int,
    length: int,
    seed: int,
    memory: int | None,
    progress: Progress,
    cancel: Cancel,
) -> Elsewhere:
    """KL of the next token in each of n windows of a text: without the nodes' features, and without ever more circuits."""
    setting = asked.setting
    model = setting.model
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    prompts, origin = windows(asked, texts, n=n, length=length, seed=seed, **watch)
    batch = model.batch(prompts)
    own = read(asked, batch, what="Reading unrelated texts", **watch)
    so_far = [[id for path in circuits[: i + 1] for id in path] for i in range(len(circuits))]
    sets = [asked.everywhere(), *(by_level(nodes_of(graph, ids), placed=False) for ids in so_far)]
    cells = [cut(model, setting.levels, features, own.keep) for features in sets]
    found = measured(
        model, batch, cells, own.likeliest, background=setting.background, memory=memory,
        what="Taking the features out of unrelated texts", **watch,
    )  # fmt: skip
    return Elsewhere(origin, found.kl[0], own.active, found.kl[1:])


def windows(
    asked: Asked, texts: Source, *, n: int, length: int, seed: int, progress: Progress, cancel: Cancel
) -> tuple[list[list[int]], str]:
    """n windows of one length, drawn from the beginning of a text; fewer where it has no more. Raises EmptyCorpus: none."""
    model = asked.setting.model
    reader, found, length = Reader(model, texts), [], min(length, model.context)
    with stage("Drawing unrelated texts", n * SPREAD, progress, cancel) as tell:
        for row in reader.rows(length=length, tokens=n * SPREAD * length, least=length, tell=tell):
            found.append([*row.ids])
            tell(len(found))
    chosen = random.Random(seed).sample(found, min(n, len(found)))
    return chosen, f"{len(chosen)} windows of {length} tokens"
