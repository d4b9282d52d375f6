"""How each edge came about: straight through the stream, by each attention head, by the MLPs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from residscope.directions import EncoderDictionary
from residscope.engine.layout import weight_in_out
from residscope.engine.planner import sweep
from residscope.errors import GraphError
from residscope.graph.build import Setting
from residscope.graph.exact import Source, Values, removed
from residscope.graph.graph import Graph
from residscope.graph.nodes import Level, when
from residscope.model.sites import Site
from residscope.progress import Cancel, Progress
from residscope.results import Result

STREAM = ("resid_pre", "resid_mid", "resid_post")
STRAIGHT, NORM = "straight", "norm"


@dataclass(frozen=True)
class Part:
    """One way from a write to a read: through the attention, one head, or the MLP of a block."""

    name: str
    site: Site
    head: int | None = None


def shares(
    setting: Setting,
    graph: Graph,
    edges: Sequence[int] | None = None,
    *,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Result:
    """What carried each edge: the change of the target's inner product with what it reads, split by who wrote it.

        read_j . (x - x')  =  read_j . change  +  sum over heads h of read_j . (result_h - result_h')  +  sum over MLPs  +  norm

    edges: their numbers in the graph; all of them unless said. A `Result` over edge and part: "straight", "9.h3" (head 3 of layer
    9; "9.attn" where a norm follows the heads' sum), "9.mlp", and "norm": what a norm before the read made of it, 0 in the
    stream. The column sum is what the inner product changed by, exactly; the edge's weight is what the activation made of that.

    Raises:
        GraphError: edges read at another position than the last; nodes that are no feature's.
    """
    chosen = list(range(len(graph.weight)) if edges is None else edges)
    levels = {level.id: level for level in setting.levels}
    wanted: dict[tuple[str, str], list[int]] = {}
    for edge in chosen:
        a, b = (graph.nodes[int(ends[edge])] for ends in (graph.source, graph.target))
        if int(graph.of[edge]) != setting.last or b.is_error or a.dictionary not in levels:
            raise GraphError(
                "shares are of edges to features at the last position",
                received=f"{a.id} -> {b.id} at {int(graph.of[edge])}",
                allowed=f"position {setting.last}",
            )
        wanted.setdefault((a.dictionary, b.dictionary), []).append(edge)
    rows: dict[int, dict[str, float]] = {}
    for (one, two), own in wanted.items():
        found = _pair(setting, graph, levels[one], levels[two], own, memory=memory, progress=progress, cancel=cancel)
        rows |= dict(zip(own, found, strict=True))
    names = list(dict.fromkeys(name for edge in chosen for name in rows[edge]))
    values = torch.tensor([[rows[edge].get(name, 0.0) for name in names] for edge in chosen])
    labels = [f"{graph.nodes[int(graph.source[e])].id} > {graph.nodes[int(graph.target[e])].id}" for e in chosen]
    about = {**graph.provenance, "method": "shares"}
    return Result(
        values, ("edge", "part"), {"edge": labels, "part": names}, name="share of the change", provenance=about
    )


def _pair(
    setting: Setting,
    graph: Graph,
    source: Level,
    target: Level,
    edges: Sequence[int],
    *,
    memory: int | None,
    **watch: Any,
) -> list[dict[str, float]]:
    """The parts of some edges between two levels."""
    model, scale = setting.model, float(graph.provenance.get("scale", 0.0))
    sources = list(dict.fromkeys(int(graph.source[edge]) for edge in edges))
    parts = _parts(setting, source, target)
    sites = tuple(dict.fromkeys([*(part.site for part in parts), _stream_of(target, model), target.read_site]))
    cells = [
        removed(source, Source(graph.nodes[i].index, graph.nodes[i].pos), keep=setting.keep, scale=scale)
        for i in sources
    ]
    plan = sweep(model, setting.batch, cells, Values(sites, setting.last), setting.background, memory=memory)
    after = plan.run(what=f"Splitting edges from {source.id} to {target.id}", **watch).values[:, 0, 0]
    base = plan.baseline()[0, 0]
    widths = [_width(site, model) for site in sites]
    change = dict(zip(sites, torch.split(base - after, widths, -1), strict=True))  # of what each site has
    reads = _reads(target).to(base)
    made = []
    for edge in edges:
        row, feature = sources.index(int(graph.source[edge])), graph.nodes[int(graph.target[edge])].index
        read = reads[feature]
        told = {STRAIGHT: float(read @ (-cells[row].change[setting.last].flatten().to(read)))}
        for part in parts:
            told[part.name] = float(read @ _written(part, change[part.site][row], model))
        whole = float(read @ change[target.read_site][row])
        told[NORM] = whole - sum(told.values()) if target.read_site.name not in STREAM else 0.0
        made.append(told)
    return made


def _parts(setting: Setting, source: Level, target: Level) -> list[Part]:
    """Everything that writes into the stream between a write and a read."""
    model, found = setting.model, list[Part]()
    begin, end = when(source.write_site, model), when(_stream_of(target, model), model)
    for layer, block in enumerate(model.layout.blocks):
        attn, mlp = Site("attn_out", layer), Site("mlp_out", layer)
        if begin < when(attn, model) < end:
            if block.attn_post_norm is None and model.quantised is None and setting.model.n_heads:
                found += [
                    Part(f"{layer}.h{head}", Site("z", layer), head) for head in range(model.heads_at(layer).n_heads)
                ]
            else:
                found.append(Part(f"{layer}.attn", attn))
        if begin < when(mlp, model) < end:
            found.append(Part(f"{layer}.mlp", mlp))
    return found


def _stream_of(target: Level, model: Any) -> Site:
    """The stream that a level's site is read from: itself where it is one."""
    site = target.read_site
    if site.name in STREAM or site.layer is None:
        return site
    inside = site.name.startswith("mlp") and "resid_mid" not in model.sites.absent
    found: Site = model.sites.canonical(Site("resid_mid" if inside else "resid_pre", site.layer))
    return found


def _width(site: Site, model: Any) -> int:
    if site.name == "z":
        heads = model.heads_at(site.layer)
        return int(heads.n_heads * heads.d_head)
    return int(model.sites.width(site))


def _written(part: Part, change: Float[Tensor, " width"], model: Any) -> Float[Tensor, " d_model"]:
    """What a part writes into the stream, for a change of its site."""
    if part.head is None:
        return change
    block, d = model.layout.blocks[part.site.layer], model.heads_at(part.site.layer).d_head
    W_O = weight_in_out(block.attn_proj)[part.head * d : (part.head + 1) * d]
    return model.layout.factors.residual * (change[part.head * d : (part.head + 1) * d].to(W_O) @ W_O)


def _reads(level: Level) -> Float[Tensor, "n d"]:
    """The vectors that a dictionary's features read with. Raises GraphError where it normalises what it reads."""
    dictionary = level.dictionary
    if isinstance(dictionary, EncoderDictionary) and dictionary.normalise != "none":
        raise GraphError(
            "a dictionary that normalises what it reads has no one vector for a feature",
            received=f"{level.id}, {dictionary.normalise}",
        )
    return dictionary.read
