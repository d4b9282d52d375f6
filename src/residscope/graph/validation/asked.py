"""What a validation is of: a graph's prompt run again, its dictionaries, the nodes and the target, each known to fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from residscope.directions import Dictionary
from residscope.edits.features import joined
from residscope.engine.model import Model, Prompt
from residscope.engine.protocols import LeastEdit
from residscope.engine.recording import Recording
from residscope.engine.sinks import kept
from residscope.errors import GraphError, NoFeatures, ResidscopeError, WrongModel
from residscope.graph.graph import Graph
from residscope.graph.nodes import Level, Node, named
from residscope.graph.setting import Setting
from residscope.graph.validation.cuts import Chosen, by_level


@dataclass(frozen=True, eq=False)
class Asked:
    """One graph's setting, the nodes that are tried, which of their features are active in it, and the target's id."""

    setting: Setting
    nodes: tuple[Node, ...]
    chosen: Chosen
    active: Chosen
    target: int

    @property
    def levels(self) -> list[Level]:
        """The dictionaries that the nodes are of."""
        return [level for level in self.setting.levels if level.id in self.chosen]

    def everywhere(self) -> Chosen:
        """The nodes' features without their positions, as other texts have them."""
        return by_level(self.nodes, placed=False)


def asked(
    model: Model,
    graph: Graph,
    dictionaries: Any,
    *,
    prompt: Prompt | None,
    nodes: Sequence[str] | None,
    target: str | int | None,
    background: Sequence[LeastEdit],
) -> Asked:
    """Raises WrongModel; GraphError: dictionaries or nodes that are not the graph's, a prompt that is not known; NoFeatures."""
    check(model, graph, dictionaries, nodes=nodes)
    ids = prompt if prompt is not None else [prompt_of(model, graph)]
    setting = Setting.of(model, ids, matched(graph, dictionaries), background)
    if (texts := tuple(model.token_texts(setting.batch.ids[0].tolist()))) != graph.prompt:
        raise GraphError(
            "the graph is of another prompt", received=repr("".join(texts)), allowed=repr("".join(graph.prompt))
        )
    chosen_nodes = tuple(nodes_of(graph, nodes))
    chosen = by_level(chosen_nodes)
    active = {id: [one for one in of if _is_active(setting, id, *one)] for id, of in chosen.items()}
    if not any(active.values()):
        raise NoFeatures(
            "none of the nodes is active in the prompt", received=", ".join(n.id for n in chosen_nodes)[:200],
            fix="choose others: an inactive feature does nothing when it is taken out",
        )  # fmt: skip
    return Asked(setting, chosen_nodes, chosen, active, target_of(model, graph, setting.record, target))


def check(model: Model, graph: Any, dictionaries: Any, *, nodes: Sequence[str] | None = None, **_: Any) -> None:
    """Refuse what is no graph of this model and of these dictionaries, and nodes that it does not have."""
    if not isinstance(graph, Graph):
        raise GraphError("only a causal graph can be validated", received=type(graph).__name__, allowed="a Graph")
    made_on = graph.provenance.get("hash")
    if made_on and made_on != model.provenance["hash"]:
        raise WrongModel("the graph is of another model", received=str(made_on)[:12], allowed=model.name)
    matched(graph, dictionaries)
    nodes_of(graph, nodes)


def matched(graph: Graph, dictionaries: Any) -> dict[str, Dictionary]:
    """The graph's dictionaries by its own names, found among those given by what they contain; of what has none, nothing."""
    given = {dictionary.hash: dictionary for _, dictionary in named(dictionaries)}
    real = [placed for placed in graph.placed if placed.features]
    lacking = [placed for placed in real if placed.hash not in given]
    if lacking:
        raise GraphError(
            "the graph is of dictionaries that were not given",
            received=", ".join(d.hash[:12] for d in given.values()),
            allowed=", ".join(f"{placed.id} ({placed.hash[:12]})" for placed in lacking),
            fix="give those that it was drawn with",
        )
    return {placed.id: given[placed.hash] for placed in real}


def nodes_of(graph: Graph, ids: Sequence[str] | None) -> list[Node]:
    """The nodes of these ids, or of groups of these names; all features of the graph where none are said.

    Errors and embeddings are no features."""
    if ids is None:
        found = [graph.nodes[graph.numbers[id]] for id in features_of(graph)]
    else:
        groups = {group.name: group.nodes for group in graph.groups}
        wanted = [id for one in ([ids] if isinstance(ids, str) else ids) for id in groups.get(one, (one,))]
        strange = [id for id in wanted if id not in graph.numbers]
        if strange:
            raise GraphError(
                "the graph has no such nodes", received=", ".join(map(str, strange))[:200],
                allowed=", ".join(node.id for node in graph.nodes[:8]) + (" ..." if len(graph.nodes) > 8 else ""),
            )  # fmt: skip
        found = [graph.nodes[graph.numbers[id]] for id in dict.fromkeys(wanted)]
        features = {*features_of(graph)}
        if others := [node.id for node in found if node.id not in features]:
            raise GraphError(
                "errors and embeddings are no features", received=", ".join(others), allowed="nodes of features"
            )
    if not found:
        raise GraphError(
            "there are no nodes to validate", received=repr(graph), fix="give a graph that has some features"
        )
    return found


def features_of(graph: Graph) -> list[str]:
    """The ids of the nodes that are features of a dictionary."""
    real = {placed.id for placed in graph.placed if placed.features}
    return [node.id for node in graph.nodes if not node.is_error and node.dictionary in real]


def prompt_of(model: Model, graph: Graph) -> list[int]:
    """The ids of the graph's prompt: those that it was drawn with, or its text's own, where they are the same tokens."""
    ids = graph.provenance.get("ids")
    if ids is not None:
        return [int(id) for id in ids]
    for bos in (True, False):
        try:
            ids = model.encode("".join(graph.prompt[int(bos) :]), bos=bos)
        except ResidscopeError:
            continue
        if tuple(model.token_texts(ids)) == graph.prompt:
            return ids
    raise GraphError(
        "the graph does not say the ids of its prompt", received=repr("".join(graph.prompt)), fix="give them as prompt="
    )


def target_of(model: Model, graph: Graph, record: Recording, target: str | int | None) -> int:
    """The id of the target; where none is said, of the likeliest of the graph's tokens, or of all. Raises UnknownToken."""
    if target is not None:
        return model.token_id(target)
    likely = record.top(200)
    wanted = graph.tokens or (likely[0][0],)
    return next((id for text, id, _ in likely if text in wanted), likely[0][1])


def kept_in(record: Recording, levels: Sequence[Level]) -> Bool[Tensor, "row pos"]:
    """Where features of the levels are taken out: not at the first token, special ones and attention sinks."""
    sites = {site for level in levels for site in (level.read_site, level.write_site)}
    return torch.stack([kept(record, site) for site in sites]).all(0).cpu()


def active_in(record: Recording, levels: Sequence[Level], chosen: Chosen, keep: Tensor) -> Int[Tensor, " row"]:
    """How many of the chosen features are active at any kept position of each row."""
    count = torch.zeros(len(keep), dtype=torch.int64)
    for level in levels:
        index = list(dict.fromkeys(i for i, _ in chosen.get(level.id, ())))
        if index:
            x = joined(level.dictionary, record[level.read_site])
            a = level.dictionary.encode(x, model=record.model, indices=index).cpu()
            count += ((a != 0) & keep[..., None]).any(1).sum(1)
    return count


def _is_active(setting: Setting, id: str, index: int, pos: int | None) -> bool:
    level = next(level for level in setting.levels if level.id == id)
    here = level.coordinates[:, index] if pos is None else level.coordinates[pos : pos + 1, index]
    keep = setting.keep if pos is None else setting.keep[pos : pos + 1]
    return bool((here.cpu()[keep] != 0).any())
