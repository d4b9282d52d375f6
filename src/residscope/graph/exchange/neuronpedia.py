"""Neuronpedia's JSON of attribution graphs, out and in; circuit-tracer writes the same.

    metadata {slug, scan, prompt_tokens, prompt ...}      qParams {pinnedIds, supernodes [[name, id, ...]] ...}
    nodes [{node_id "LAYER_INDEX_POS", feature, layer, ctx_idx, feature_type, jsNodeId, clerp ...}]
    links [{source, target, weight}]

Theirs: `apps/webapp/app/api/graph/graph-schema.json` of github.com/hijohnnylin/neuronpedia, and `Node` in circuit-tracer's
`frontend/graph_models.py`. Next tokens are nodes there; here they are `Graph.tokens`, with what each node adds to them in
`Graph.logits`. Under the key `residscope` a file keeps what their format has no place for.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from residscope.errors import GraphError
from residscope.graph.exchange.neuronpedia_in import EMBED, FEATURE, MLP_ERROR, read
from residscope.graph.exchange.own import plain_row
from residscope.graph.exchange.reading import write_text
from residscope.graph.graph import Graph
from residscope.graph.nodes import Node
from residscope.json_values import to_plain

__all__ = ["node_ids", "read", "to_neuronpedia", "write"]


def write(graph: Graph, path: Path) -> None:
    """Raises FileNotThere, GraphError."""
    told = json.dumps(to_neuronpedia(graph), ensure_ascii=False, allow_nan=False, indent=1)
    write_text(path, told + "\n")


def to_neuronpedia(graph: Graph, *, slug: str = "", scan: str = "") -> dict[str, Any]:
    """The graph as Neuronpedia has it. slug: its name there; scan: the model, and so where features are looked up.

    A feature that was taken out at all positions stands at the last one. Where several dictionaries are of one layer, each is a
    layer of its own. Raises GraphError: two nodes would have one id.
    """
    ids = node_ids(graph)
    layer = layers(graph)
    about = graph.provenance
    own = {node.id: ids[i] for i, node in enumerate(graph.nodes)}
    supernodes = [[group.name, *(own[id] for id in group.nodes if id in own)] for group in graph.groups]
    pinned = dict.fromkeys(
        [*(id for _, *members in supernodes for id in members), *(own[id] for id in graph.labels if id in own)]
    )
    kept = {
        "dictionaries": [plain_row(placed) for placed in graph.placed],
        "provenance": to_plain(dict(about), name="the provenance"),
        "partial": graph.partial,
    }
    known = about.get("feature_details")
    tops = _tops(graph, layer)
    return {
        "metadata": {
            "slug": slug or str(about.get("slug") or _slug(graph)),
            "scan": scan or str(about.get("scan") or about.get("model") or "unknown"),
            "transcoder_list": [], "prompt_tokens": [*graph.prompt], "prompt": "".join(graph.prompt), "schema_version": 1,
            "info": {"generator": {"name": "Residscope", "version": version("residscope")}},
            **({"feature_details": dict(known)} if isinstance(known, Mapping) else {}), "residscope": kept,
        },
        "qParams": {"pinnedIds": [*pinned], "supernodes": supernodes, "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [_node(graph, i, ids[i], layer) for i in range(len(graph.nodes))] + tops,
        "links": [
            {"source": ids[a], "target": ids[b], "weight": w, "residscope": {"at": at, **exact}}
            for a, b, w, at, exact in zip(
                graph.source.tolist(), graph.target.tolist(), graph.weight.tolist(), graph.of.tolist(), _exact(graph), strict=True
            )
        ] + [
            {"source": ids[i], "target": tops[token]["node_id"], "weight": nats}
            for i, row in enumerate(graph.logits.tolist())
            for token, nats in enumerate(row)
            if math.isfinite(nats)
        ],
    }  # fmt: skip


def _exact(graph: Graph) -> list[dict[str, float | None]]:
    """Of an estimated graph, what each edge is exactly."""
    return [{"exact": _finite(x)} for x in graph.exact.tolist()] if len(graph.exact) else [{}] * len(graph.weight)


def node_ids(graph: Graph) -> list[str]:
    """The id there of each node: "LAYER_INDEX_POS", of an error "LAYER_-1_POS". Raises GraphError: two would have one."""
    layer = layers(graph)
    ids = [f"{layer[node.dictionary]}_{node.index}_{_position(graph, node)}" for node in graph.nodes]
    if len({*ids}) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise GraphError(
            "Neuronpedia has one node for each feature and position",
            received=f"two that would be {twice}",
            fix="save it as .json",
        )
    return ids


def layers(graph: Graph) -> dict[str, str]:
    """What a dictionary's layer is called there: its own number where no other has it, else its place in the forward."""
    numbers: dict[str, int | None] = {placed.id: placed.layer for placed in graph.placed}
    inner = [number for id, number in numbers.items() if id != EMBED]
    if None in inner or len({*inner}) < len(inner):
        numbers |= {id: i for i, id in enumerate(id for id in numbers if id != EMBED)}
    return {id: "E" if id == EMBED else str(number) for id, number in numbers.items()}


def _position(graph: Graph, node: Node) -> int:
    return len(graph.prompt) - 1 if node.pos is None else node.pos


def _node(graph: Graph, i: int, id: str, layer: Mapping[str, str]) -> dict[str, Any]:
    node = graph.nodes[i]
    where = layer[node.dictionary]
    types = graph.provenance.get("feature_types")
    plain = ("embedding" if node.dictionary == EMBED else FEATURE, MLP_ERROR)
    kind, error = types.get(node.dictionary, plain) if isinstance(types, Mapping) else plain
    number = node.index if node.is_error else _position(graph, node) if where == "E" else cantor(int(where), node.index)
    return {
        "node_id": id, "feature": number, "layer": where, "ctx_idx": _position(graph, node),
        "feature_type": error if node.is_error else kind,
        "jsNodeId": f"{where}_{node.index}-{_position(graph, node) if node.is_error or where == 'E' else 0}",
        "clerp": graph.labels.get(node.id, "" if _plain(node) else node.label),
        "activation": node.activation if math.isfinite(node.activation) else None,
        "residscope": {"id": node.id, "label": node.label, "pos": node.pos},
    }  # fmt: skip


def _plain(node: Node) -> bool:
    """Whether a label says no more than which feature it is."""
    return node.is_error or node.dictionary == EMBED or node.label.rpartition(" ")[2] == str(node.index)


def _tops(graph: Graph, layer: Mapping[str, str]) -> list[dict[str, Any]]:
    """The next tokens, above all layers."""
    top = 1 + max((int(where) for where in layer.values() if where.isdigit()), default=0)
    ids, at = graph.provenance.get("token_ids"), max(0, len(graph.prompt) - 1)
    numbers = ids if isinstance(ids, Sequence) and len(ids) == len(graph.tokens) else range(len(graph.tokens))
    chances = [math.exp(base) if base == base else 0.0 for base in graph.base.tolist()]
    return [
        {
            "node_id": f"{top}_{number}_{at}", "feature": int(number), "layer": str(top), "ctx_idx": at, "feature_type": "logit",
            "token_prob": p, "is_target_logit": i == 0, "jsNodeId": f"L_{number}-{at}",
            "clerp": f'Output "{token}" (p={p:.3f})', "residscope": {"token": token, "base": _finite(base)},
        }
        for i, (token, number, p, base) in enumerate(zip(graph.tokens, numbers, chances, graph.base.tolist(), strict=True))
    ]  # fmt: skip


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _slug(graph: Graph) -> str:
    """A name of letters, digits and dashes out of the prompt."""
    return re.sub(r"[^a-z0-9]+", "-", "".join(graph.prompt)[-60:].lower()).strip("-") or "graph"


def cantor(layer: int, index: int) -> int:
    """Cantor's pairing, by which their `feature` holds layer and index. `cantor(3, 373)` is 71249."""
    return (layer + index) * (layer + index + 1) // 2 + index
