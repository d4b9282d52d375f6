"""circuit-tracer's graphs as it saves them itself (`Graph.to_pt`), read without running anything that is in the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from residscope.errors import FileNotThere
from residscope.graph.exchange import neuronpedia_in
from residscope.graph.exchange.reading import refused
from residscope.graph.graph import Graph
from residscope.incoming import regular, torch_values

MOST_EDGES = 200_000  # of a matrix of all, the strongest


class Inert(tuple[Any, ...]):
    """What stands for any class that a file names: it holds what it was given, and does nothing."""

    def __new__(cls, *parts: Any) -> "Inert":
        return tuple.__new__(cls, parts)


def read(path: Path) -> Graph:
    """The graph of a `.pt`: its features, errors, tokens and logits, and the strongest of its edges.

    Its tokens' texts are not in the file: they are their ids. Raises FileNotThere, DamagedFile.
    """
    if not regular(path):
        raise FileNotThere(f"there is no file {path.name}", received=str(path), allowed="a file that exists")
    with refused(path.name):
        told = as_json(_tensors(path))
    return neuronpedia_in.read(told, path.name)


def _tensors(path: Path) -> Mapping[str, Any]:
    """The file's mapping; classes of circuit-tracer's and TransformerLens' in it are inert. Raises as torch does."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(Inert, name) for name in named]):
            told = torch_values(path)
    except Exception as error:  # whatever torch makes of a damaged pickle
        raise ValueError(str(error)) from error
    if not isinstance(told, Mapping):
        raise TypeError(f"it holds a {type(told).__name__}, not a graph")
    return told


def as_json(told: Mapping[str, Any]) -> dict[str, Any]:
    """The same in Neuronpedia's form. Nodes: features, errors by layer and position, tokens, logits.

    adjacency[target, source]. The number of layers is what the matrix' size leaves for errors.
    """
    matrix, tokens = told["adjacency_matrix"].float(), [int(t) for t in told["input_tokens"]]
    chosen = told["selected_features"].long()
    features = told["active_features"][chosen].tolist()
    values = told["activation_values"][chosen].float().tolist()
    targets = _targets(told)
    n_pos, n = len(tokens), len(matrix)
    n_layers, rest = divmod(n - len(features) - n_pos - len(targets), max(1, n_pos))
    if rest or n_layers < 0 or matrix.shape != (n, n):
        raise ValueError(
            f"its matrix is {tuple(matrix.shape)}, which is not that of {len(features)} features of {n_pos} tokens"
        )
    nodes = [
        _node(f"{layer}_{index}_{pos}", index, layer, pos, neuronpedia_in.FEATURE, activation=value)
        for (layer, pos, index), value in zip(features, values, strict=True)
    ]
    nodes += [
        _node(f"{layer}_-1_{pos}", -1, layer, pos, neuronpedia_in.MLP_ERROR)
        for layer in range(n_layers)
        for pos in range(n_pos)
    ]
    nodes += [_node(f"E_{token}_{pos}", pos, "E", pos, "embedding") for pos, token in enumerate(tokens)]
    chances = told["logit_probabilities"].float().tolist()
    nodes += [
        _node(f"{n_layers + 1}_{token}_{n_pos - 1}", token, n_layers + 1, n_pos - 1, "logit", clerp=shown, token_prob=p)
        for (token, shown), p in zip(targets, chances, strict=True)
    ]
    links = [
        {"source": nodes[source]["node_id"], "target": nodes[target]["node_id"], "weight": weight}
        for target, source, weight in _strongest(matrix)
    ]
    used = {end for link in links for end in (link["source"], link["target"])}
    scan = told.get("scan_name") or told.get("scan") or "unknown"
    return {
        "metadata": {
            "slug": "circuit-tracer", "scan": scan if isinstance(scan, str) else "-".join(map(str, scan)),
            "prompt_tokens": [f"[{token}]" for token in tokens], "prompt": str(told.get("input_string", "")),
        },
        "qParams": {},
        "nodes": [node for node in nodes if node["node_id"] in used or node["feature_type"] != neuronpedia_in.MLP_ERROR],
        "links": links,
    }  # fmt: skip


def _targets(told: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The logits' tokens: ids, in newer files with their texts."""
    given = told.get("logit_targets", told.get("logit_tokens"))
    if isinstance(given, Tensor):
        return [(int(id), f"[{int(id)}]") for id in given]
    if given is None:
        raise KeyError("logit_targets")
    return [(int(id), str(shown) or f"[{int(id)}]") for shown, id in given]


def _strongest(matrix: Tensor) -> list[tuple[int, int, float]]:
    """(target, source, weight) of the entries that are not zero, at most so many."""
    size = matrix.abs()
    if not size.isfinite().all():
        raise ValueError("its matrix has entries that are not finite")
    least = 0.0
    if int(size.count_nonzero()) > MOST_EDGES:
        least = float(size.flatten().kthvalue(size.numel() - MOST_EDGES).values)
    target, source = (size > least).nonzero(as_tuple=True)
    return [*zip(target.tolist(), source.tolist(), matrix[target, source].tolist(), strict=True)]


def _node(id: str, feature: int, layer: int | str, pos: int, kind: str, **more: Any) -> dict[str, Any]:
    told = {"node_id": id, "feature": feature, "layer": str(layer), "ctx_idx": pos, "feature_type": kind, "clerp": ""}
    return told | more
