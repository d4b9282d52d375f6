"""`rs.causal_graph`: the graph of one prompt, built exactly, or estimated by gradients."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from residscope import fields
from residscope.declare.methods import method
from residscope.directions import Dictionary
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import LeastEdit
from residscope.errors import BadArguments, Cancelled
from residscope.graph.cost import price
from residscope.graph.drawn import Drawn, with_logits
from residscope.graph.estimates import estimated
from residscope.graph.exact import effects_of, sources_of
from residscope.graph.graph import Graph
from residscope.graph.nodes import named
from residscope.graph.setting import Setting, targets_of
from residscope.progress import Cancel, Progress

__all__ = ["Drawn", "Setting", "causal_graph", "effects_of", "targets_of", "with_logits"]

EDGES = 2_000
TOKENS = 5
SAMPLE = 64
BY = ("exact", "gradient", "integrated", "attribution")
WORDS = {"method": BY, "ablate": ("all", "each"), "read": ("last", "all"), "reach": ("next", "later")}
ESTIMATED = ("method", BY[1:])


def check(model: Model, prompt: Any, dictionaries: Any, **given: Any) -> None:
    """Raises BadArguments for a word that is none of the few; GraphError: no dictionaries."""
    for name, allowed in WORDS.items():
        if given.get(name, allowed[0]) not in allowed:
            raise BadArguments(f"{name} is one of a few words", received=repr(given[name]), allowed=", ".join(allowed))
    named(dictionaries)
    if given.get("method", "exact") != "exact":
        model.require_exact_weights("gradients")


@method("causal-graph", title="Causal graph", group="graphs", tokens=price, refuse=check)
def causal_graph(
    model: Model,
    prompt: Annotated[Prompt, fields.prompts(one=True, title="prompt", name="prompt")],
    dictionaries: Annotated[
        Mapping[str, Dictionary] | Sequence[Dictionary] | Dictionary, fields.dictionary(several=True)
    ],
    *,
    ablate: Annotated[
        str, fields.choice("all", "each", help="a feature at all positions at once, or at each by itself")
    ] = "all",
    read: Annotated[str, fields.choice("last", "all", help="features at the last position, or at all")] = "last",
    reach: Annotated[
        str, fields.choice("next", "later", help="edges to the next dictionary, or to every later one")
    ] = "next",
    method: Annotated[
        str, fields.choice(*BY, title="by", help="taking each feature out, or an estimate by gradients")
    ] = "exact",
    scale: Annotated[float, fields.number(help="what a feature is multiplied by")] = 0.0,
    errors: Annotated[bool, fields.flag(help="what each dictionary leaves out is a node too")] = True,
    edges: Annotated[
        int, fields.count(low=1, high=1_000_000, help="kept between two dictionaries, the strongest")
    ] = EDGES,
    tokens: Annotated[int | Sequence[str | int], fields.count(low=0, high=50, title="next tokens")] = TOKENS,
    background: Annotated[Sequence[LeastEdit], fields.edits()] = (),
    exact_sample: Annotated[
        int,
        fields.count(low=0, high=100_000, help="edges of an estimate that are measured exactly too", when=ESTIMATED),
    ] = SAMPLE,
    seed: Annotated[int, fields.seed(help="of the sample", when=ESTIMATED)] = 0,
    memory: int | None = None,
    progress: Progress = None,
    cancel: Cancel = None,
) -> Graph:
    """How far each feature of a run raises each later one: each is taken out by itself, and the rest read again; or an estimate.

        y' = y + (scale - 1) a_i write_i        at the dictionary's write site: the rest of y, its error included, stays
        weight(i -> j) = a_j - a_j'             as the later dictionary encodes what it then reads

    dictionaries: of which sites, in any order. ablate: at "all" positions at once, or at "each" by itself (then nodes have
    positions). read: at the "last" position or at "all". reach: edges to the "next" dictionary in the forward, or to every
    "later" one. scale: what the feature is multiplied by. errors: what each dictionary leaves out is a node too. edges: so many
    are kept between two dictionaries, the strongest. tokens: of how many likely next tokens, or of which, each node's effect
    is measured. background: edits under which all of it happens. The first token and attention sinks are left out, as everywhere.

    method: "exact" takes every feature out. The others are estimates for ranking, of active features alone, by one backward pass
    for each feature that is read: "gradient" to first order; "integrated" with the mean slope on the way to all of a level
    out; "attribution" the direct effects with attention patterns, norms and MLPs held, checked to sum to what each feature reads
    (reach="later" draws all of them; `docs/graph-estimates.md`). exact_sample: so many of their edges, half the strongest, half
    drawn by `seed`, are measured exactly too: `graph.exact`, and in the provenance how the two agree.

    Features that are not active have no effect when they are ablated, and are not tried. One block for each feature, on the
    sweep planner: Udell (2024), "Causal graphs of GPT-2-small's residual stream"; Marks et al. (2024), arXiv:2403.19647.

    Raises:
        GraphError: several prompts, no dictionaries; of an attribution graph those that stand elsewhere. NoFeatures: none is
        active. SiteError, WrongWidth: another model's dictionaries. QuantisedModel, NoGradient, NotAdditive: no estimate is to
        be had. Cancelled: with what there is of the graph as its `partial`.
    """
    check(model, prompt, dictionaries, ablate=ablate, read=read, reach=reach, method=method)
    setting = Setting.of(model, prompt, dictionaries, background)
    watch: dict[str, Any] = {"progress": progress, "cancel": cancel}
    told: dict[str, Any] = {
        "by": method,
        "ablate": ablate,
        "read": read,
        "reach": reach,
        "scale": scale,
        "edges": edges,
    }
    if notes := setting.said():
        told["notes"] = notes
    if method != "exact":
        asked: dict[str, Any] = {"edges": edges, "errors": errors, "tokens": tokens}
        return estimated(setting, told, **asked, sample=exact_sample, seed=seed, memory=memory, **watch)
    at = setting.last if read == "last" else None
    drawn = Drawn(setting, at, each=ablate == "each", edges=edges)
    missing = "it was cancelled before every feature had been taken out"
    try:
        for number, level in enumerate(setting.levels):
            targets = targets_of(setting, number, reach)
            sources = drawn.begin(number, sources_of(level, setting.keep, each=ablate == "each", errors=errors))
            if targets and sources:
                for effect in effects_of(
                    setting,
                    level,
                    sources,
                    targets,
                    at=at,
                    scale=scale,
                    memory=memory,
                    progress=progress,
                    cancel=cancel,
                ):
                    drawn.add(number, effect)
        graph = drawn.graph(told)
        missing = "its edges are whole; it was cancelled before the effects on the next token were read"
        return with_logits(setting, graph, tokens, scale=scale, memory=memory, **watch)
    except Cancelled as stop:
        stop.partial = drawn.graph(told, partial=missing)
        raise
