"""A graph's own JSON: all of it, exactly, in lines that a version control can compare."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residscope.graph.exchange.reading import GRAPH_JSON, refused, text, write_text
from residscope.graph.graph import Graph, Group, Placed
from residscope.graph.nodes import Node
from residscope.json_values import from_plain, made, to_plain

VERSION = 1
TOLD = {
    "prompt",
    "nodes",
    "source",
    "target",
    "weight",
    "of",
    "exact",
    "placed",
    "tokens",
    "base",
    "logits",
    "labels",
    "groups",
}


def write(graph: Graph, path: Path) -> None:
    """One line for each dictionary, node and edge; the same graph is the same file. Raises FileNotThere, NotPlain."""
    write_text(path, to_json(graph))


def to_json(graph: Graph) -> str:
    """The JSON. Numbers are the shortest that give the same float32 again; null is NaN, "inf" and "-inf" what they say.

    Edges stand in the order of their ids, unless theirs in the graph is another than strongest first.
    """
    ids = [node.id for node in graph.nodes]
    edges = [
        {"from": ids[a], "to": ids[b], "at": at, "weight": _short(w)} | ({"exact": _short(e)} if len(graph.exact) else {})
        for a, b, at, w, e in zip(
            graph.source.tolist(), graph.target.tolist(), graph.of.tolist(), graph.weight.tolist(),
            graph.exact.tolist() if len(graph.exact) else graph.weight.tolist(), strict=True,
        )
    ]  # fmt: skip
    strongest = _order(graph.source, graph.target, graph.weight, graph.of) == [*range(len(edges))]
    if strongest:
        edges.sort(key=lambda edge: (edge["from"], edge["to"], edge["at"]))
    more = {f.name: getattr(graph, f.name) for f in fields(graph) if f.name not in TOLD}
    parts = {
        GRAPH_JSON: VERSION,
        "made by": f"residscope {version('residscope')}",
        "prompt": list(graph.prompt),
        "tokens": [{"text": token, "base": _short(base)} for token, base in zip(graph.tokens, graph.base.tolist(), strict=True)],
        "dictionaries": [plain_row(placed) for placed in graph.placed],
        "nodes": [
            plain_row(node) | {"logits": [_short(x) for x in row]}
            for node, row in zip(graph.nodes, graph.logits.tolist(), strict=True)
        ],
        "order": "strongest first" if strongest else "as written",
        "edges": edges,
        "labels": dict(sorted(graph.labels.items())),
        "groups": [plain_row(group) for group in graph.groups],
        "more": to_plain(more, name="the graph"),
    }  # fmt: skip
    return "{\n" + ",\n".join(f"{_dumped(name)}: {_lines(part)}" for name, part in parts.items()) + "\n}\n"


def read(told: Mapping[str, Any], name: str) -> Graph:
    """Raises DamagedFile: of another version, or what does not make a graph."""
    with refused(name):
        if told[GRAPH_JSON] != VERSION:
            raise ValueError(f"it is of version {told[GRAPH_JSON]!r:.20}, by {told.get('made by', 'another program')!r:.40}; "
                             f"this one reads {VERSION}")  # fmt: skip
        nodes = [_made(Node, row) for row in told["nodes"]]
        numbers = {node.id: i for i, node in enumerate(nodes)}
        if len(numbers) < len(nodes):
            raise ValueError("two nodes have one id")
        source, target = ([_node(numbers, edge[end]) for edge in told["edges"]] for end in ("from", "to"))
        parts = {
            "source": torch.tensor(source, dtype=torch.int64), "target": torch.tensor(target, dtype=torch.int64),
            "weight": _floats(edge["weight"] for edge in told["edges"]),
            "of": torch.tensor([int(edge["at"]) for edge in told["edges"]], dtype=torch.int64),
            "exact": _floats(edge["exact"] for edge in told["edges"] if "exact" in edge),
        }  # fmt: skip
        if len(parts["exact"]) not in (0, len(source)):
            raise ValueError("some edges have an exact value and some have none")
        if told["order"] == "strongest first":
            order = _order(*(parts[name] for name in ("source", "target", "weight", "of")))
            parts = {name: part[order] if len(part) else part for name, part in parts.items()}
        width = len(told["tokens"])
        logits = [_floats(row["logits"]) for row in told["nodes"]]
        if any(len(row) != width for row in logits):
            raise ValueError("a node has effects on more or fewer tokens than there are")
        return made(Graph, {
            "prompt": tuple(text(token, "a token") for token in told["prompt"]),
            "nodes": tuple(nodes), **parts, "placed": tuple(_made(Placed, row) for row in told["dictionaries"]),
            "tokens": tuple(text(token["text"], "a token") for token in told["tokens"]),
            "base": _floats(token["base"] for token in told["tokens"]),
            "logits": torch.stack(logits) if logits else torch.zeros(0, width),
            "labels": dict(told["labels"]), "groups": tuple(_made(Group, row) for row in told["groups"]),
            **from_plain(told["more"]),
        })  # fmt: skip


def _made(kind: type[Any], row: Mapping[str, Any]) -> Any:
    """A record of a line. Null is NaN where a number belongs."""
    floats = {f.name for f in fields(kind) if f.type is float}
    parts = {name: _number(x) if name in floats else tuple(x) if isinstance(x, list) else x for name, x in row.items()}
    return made(kind, {name: x for name, x in parts.items() if name != "logits" or kind is not Node})


def plain_row(record: Any) -> dict[str, Any]:
    """A record of plain fields as a line."""
    plain = {f.name: getattr(record, f.name) for f in fields(record)}
    return {
        name: _word(x) if isinstance(x, float) else list(x) if isinstance(x, tuple) else x for name, x in plain.items()
    }


def _order(source: Tensor, target: Tensor, weight: Tensor, of: Tensor) -> list[int]:
    """Strongest first, then by the nodes' numbers and the position."""
    keys = [*zip((-weight.abs()).tolist(), source.tolist(), target.tolist(), of.tolist(), strict=True)]
    return sorted(range(len(keys)), key=keys.__getitem__)


def _node(numbers: Mapping[str, int], id: Any) -> int:
    if id not in numbers:
        raise ValueError(f"an edge leads to a node that is not there: {id!r:.80}")
    return numbers[id]


def _short(x: float) -> float | str | None:
    """A float32 in as few digits as tell it apart."""
    return float(str(np.float32(x))) if math.isfinite(x) else _word(x)


def _word(x: float) -> float | str | None:
    return x if math.isfinite(x) else None if math.isnan(x) else "inf" if x > 0 else "-inf"


def _number(x: Any) -> float:
    if x is None:
        return math.nan
    if x in ("inf", "-inf"):
        return float(x)
    if isinstance(x, bool) or not isinstance(x, int | float):
        raise TypeError(f"{x!r:.60} is no number")
    return float(x)


def _floats(values: Iterable[Any]) -> Tensor:
    return torch.tensor([_number(x) for x in values], dtype=torch.float32)


def _lines(part: Any) -> str:
    """JSON, of a list of objects each on a line."""
    if isinstance(part, Sequence) and part and all(isinstance(item, Mapping) for item in part):
        return "[\n" + ",\n".join(_dumped(item) for item in part) + "\n]"
    return _dumped(part)


def _dumped(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False, allow_nan=False)
