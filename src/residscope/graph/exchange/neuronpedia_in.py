"""Neuronpedia's JSON read: of Neuronpedia, of circuit-tracer, or what `to_neuronpedia` made."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from residscope.graph.exchange.reading import number, refused, text
from residscope.graph.graph import Graph, Group, Placed
from residscope.graph.nodes import ERROR, Node
from residscope.json_values import from_plain, made

FEATURE, MLP_ERROR, EMBED = "cross layer transcoder", "mlp reconstruction error", "embed"
SITES = {FEATURE: ("transcoder", "mlp_in", "mlp_out"), "lorsa": ("lorsa", "attn_in", "attn_out")}
ERRORS = {MLP_ERROR: FEATURE, "lorsa error": "lorsa"}
_TOKEN = re.compile(r"""output:? ["'](.*)["'] \(p=[\d.e-]+\)""", re.IGNORECASE | re.DOTALL)


def read(told: Mapping[str, Any], name: str) -> Graph:
    """The graph of a file: every node is one of its `nodes`, or of its `tokens`; supernodes are its groups, clerps its labels.

    Weights are the file's. In theirs an effect on a next token is direct and on its logit; one that they left out is 0.

    Raises:
        DamagedFile: what does not make a graph: truncated, links or supernodes of nodes that are not there, no finite weights.
    """
    with refused(name):
        metadata, nodes = told["metadata"], told["nodes"]
        kept = metadata.get("residscope") or {}
        tokens = [node for node in nodes if node["feature_type"] == "logit"]
        inner = [node for node in nodes if node["feature_type"] != "logit"]
        rows = [_Read(node, metadata, kept) for node in inner]
        ids, hidden = _numbered(inner, tokens)
        links = told["links"]
        ends = _ends(links, ids, hidden)
        weights = torch.tensor([number(link["weight"], "a weight") for link in links], dtype=torch.float32)
        if any(a >= len(rows) for a, _ in ends):
            raise ValueError("a link leads from a next token")
        logits = torch.full((len(rows), len(tokens)), math.nan if kept else 0.0)
        edges = []
        for (a, b), weight, link in zip(ends, weights.tolist(), links, strict=True):
            own = link.get("residscope") or {} if kept else {}
            if b >= len(rows):
                logits[a, b - len(rows)] = weight
            else:
                edges.append((weight, a, b, own.get("at", rows[b].place), own.get("exact"), "exact" in own))
        edges.sort(key=lambda edge: (-abs(edge[0]), *edge[1:4]))
        weight, source, target, of, exact, measured = zip(*edges, strict=True) if edges else ((), (), (), (), (), ())
        exact = tuple(math.nan if x is None else number(x, "an exact value") for x in exact) if any(measured) else ()
        return made(Graph, {
            "prompt": tuple(text(token, "a token of the prompt") for token in metadata["prompt_tokens"]),
            "nodes": tuple(row.node for row in rows), "source": _whole(source), "target": _whole(target),
            "weight": torch.tensor(weight, dtype=torch.float32), "of": _whole(of),
            "exact": torch.tensor(exact, dtype=torch.float32),
            "placed": _placed(rows, kept), "tokens": tuple(_token(node) for node in tokens),
            "base": torch.tensor([_base(node) for node in tokens], dtype=torch.float32), "logits": logits,
            "partial": text(kept.get("partial", ""), "partial"), "labels": {row.node.id: row.name for row in rows if row.name},
            "groups": _groups(told.get("qParams") or {}, {**ids, **_by_js(inner)}, rows),
            "provenance": _provenance(told, rows, tokens, kept, hidden),
        })  # fmt: skip


class _Read:
    """One of a file's nodes as a node here: `name` is what people called it, `place` its position."""

    def __init__(self, node: Mapping[str, Any], metadata: Mapping[str, Any], kept: Mapping[str, Any]) -> None:
        self.type = text(node["feature_type"], "feature_type")
        self.place, where = int(node["ctx_idx"]), str(node["layer"])
        if not 0 <= self.place < len(metadata["prompt_tokens"]):
            raise ValueError(
                f"{node['node_id']!r:.60} stands at token {self.place:.20g}, which the prompt does not have"
            )
        own = node.get("residscope") if kept else None
        error = self.type in ERRORS or self.type.endswith(" error")
        kind = ERRORS.get(self.type, self.type.removesuffix(" error"))
        label, self.read, self.written = SITES.get(kind, (kind, "", ""))
        self.read, self.written = (f"{site}.{where}" if site else "" for site in (self.read, self.written))
        self.dictionary = EMBED if kind == "embedding" else f"{label}@{self.read or where}"
        index = ERROR if error else _index(node, where, metadata)
        clerp = text(node.get("clerp") or "", "clerp")
        if kind == "embedding":
            shown, self.read, self.written = repr(metadata["prompt_tokens"][self.place]), "", EMBED
        else:
            shown = "error" if error else f"{label} {index}"
        id, pos = f"{self.dictionary}/{'error' if error else index}@{self.place}", self.place
        if own:
            id, shown, pos = text(own["id"], "an id"), text(own["label"], "a label"), own["pos"]
            self.dictionary = id.rpartition("/")[0]
        made_here = re.match(r"(Emb|Err): ", clerp) or (own and clerp == shown)
        self.name = "" if made_here else clerp
        value = node.get("activation")
        activation = math.nan if value is None else number(value, "an activation")
        self.node = made(Node, {
            "id": id, "dictionary": self.dictionary, "index": index, "pos": pos, "activation": activation, "label": shown,
        })  # fmt: skip


def _index(node: Mapping[str, Any], where: str, metadata: Mapping[str, Any]) -> int:
    """Which feature: as its id says, else as `feature` does, which may hold the layer too, by Cantor's pairing."""
    parts = str(node["node_id"]).split("_")
    if len(parts) == 3 and parts[0] == where and parts[1].isdigit():
        return int(parts[1])
    feature = node["feature"]
    if feature is None:
        raise ValueError(f"{node['node_id']!r:.60} says neither in its id nor in its feature which it is")
    if metadata.get("schema_version") == 1 and where.isdigit():
        row = (math.isqrt(8 * int(feature) + 1) - 1) // 2
        return int(feature) - row * (row + 1) // 2
    return int(feature)


def _numbered(
    inner: Sequence[Mapping[str, Any]], tokens: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, int], dict[str, int]]:
    """The number of each node by its id; and of errors that have the id of a feature: circuit-tracer 0.5 calls the error of a
    layer 0_LAYER_POS, as if it were a feature of layer 0."""
    numbers: dict[str, int] = {}
    hidden: dict[str, int] = {}
    every = [*inner, *tokens]
    for i, node in enumerate(every):
        id = text(node["node_id"], "node_id")
        if id not in numbers:
            numbers[id] = i
            continue
        errors = [n for n in (numbers[id], i) if every[n]["feature_type"].endswith("error")]
        if len(errors) != 1 or id in hidden:
            raise ValueError(f"two nodes have the id {id!r:.60}")
        hidden[id] = errors[0]
        numbers[id] = numbers[id] + i - errors[0]
    return numbers, hidden


def _ends(
    links: Sequence[Mapping[str, Any]], ids: Mapping[str, int], hidden: Mapping[str, int]
) -> list[tuple[int, int]]:
    """The nodes that each link joins. Of an id that a feature and an error have, links lead to the feature, which alone is
    affected; the first from it to a node is the feature's, a second the error's."""
    seen: set[tuple[Any, Any]] = set()
    found = []
    for link in links:
        pair = (link["source"], link["target"])
        second = pair in seen and pair[0] in hidden
        found.append((hidden[pair[0]] if second else _end(ids, pair[0]), _end(ids, pair[1])))
        seen.add(pair)
    return found


def _by_js(inner: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """By jsNodeId, as some files' supernodes have it, where one node alone has that."""
    found = [str(node.get("jsNodeId")) for node in inner]
    counted = Counter(found)
    own = {str(node["node_id"]) for node in inner}
    return {id: i for i, id in enumerate(found) if counted[id] == 1 and id not in own}


def _end(numbers: Mapping[str, int], id: Any) -> int:
    if id not in numbers:
        raise ValueError(f"a link or a supernode names a node that is not there: {id!r:.60}")
    return numbers[id]


def _groups(asked: Mapping[str, Any], ids: Mapping[str, int], rows: Sequence[_Read]) -> tuple[Group, ...]:
    """Supernodes; next tokens in one are left out, which cannot be in a group here."""
    groups = []
    for name, *members in asked.get("supernodes") or []:
        numbers = [_end(ids, member) for member in members]
        groups.append(Group(text(name, "a supernode's name"), tuple(rows[i].node.id for i in numbers if i < len(rows))))
    return tuple(groups)


def _placed(rows: Sequence[_Read], kept: Mapping[str, Any]) -> tuple[Placed, ...]:
    """The dictionaries in the order of the forward. What theirs do not say: no hash, at least as many features as are named."""
    if kept:
        unknown = {"unexplained": math.nan}
        return tuple(
            made(Placed, {name: unknown.get(name) if x is None else x for name, x in row.items()})
            for row in kept["dictionaries"]
        )
    first = {row.dictionary: row for row in reversed(rows)}
    largest: dict[str, int] = {}
    for row in rows:
        largest[row.dictionary] = max(largest.get(row.dictionary, 0), row.node.index + 1)
    active = Counter(row.dictionary for row in rows if not row.node.is_error)

    def when(id: str) -> tuple[int, int, str]:
        layer = id.rpartition(".")[2].rpartition("@")[2]
        return (-1 if id == EMBED else int(layer) if layer.isdigit() else 1 << 30), not id.startswith("lorsa"), id

    return tuple(
        Placed(id, "", first[id].read, first[id].written, largest[id], active[id], math.nan)
        for id in sorted(first, key=when)
    )


def _token(node: Mapping[str, Any]) -> str:
    """A next token's text."""
    own = node.get("residscope")
    if own:
        return text(own["token"], "a token")
    clerp = text(node.get("clerp") or "", "clerp")
    match = _TOKEN.fullmatch(clerp)
    return match[1] if match else clerp or str(node["node_id"])


def _base(node: Mapping[str, Any]) -> float:
    own = node.get("residscope")
    if own and own["base"] is not None:
        return number(own["base"], "a log-probability")
    chance = number(node.get("token_prob") or 0.0, "token_prob")
    return math.log(chance) if chance > 0 else math.nan


def _provenance(
    told: Mapping[str, Any],
    rows: Sequence[_Read],
    tokens: Sequence[Mapping[str, Any]],
    kept: Mapping[str, Any],
    shared: Mapping[str, int],
) -> dict[str, Any]:
    if kept:
        return {**from_plain(kept["provenance"])}
    metadata = told["metadata"]
    about: dict[str, Any] = {
        "method": "neuronpedia", "effects": "direct", "unit": "direct effect on the target",
        **{name: text(metadata[name], name) for name in ("scan", "slug")},
        "token_ids": [node["feature"] if isinstance(node["feature"], int) else i for i, node in enumerate(tokens)],
        "feature_types": {row.dictionary: _types(row.type) for row in rows},
        "pinned": [str(id) for id in (told.get("qParams") or {}).get("pinnedIds") or []],
    }  # fmt: skip
    if shared:
        about["shared_ids"] = sorted({*shared})
    details = metadata.get("feature_details")
    source = details.get("neuronpedia_source_set") if isinstance(details, Mapping) else None
    if isinstance(source, str):
        about |= {
            "feature_details": {"neuronpedia_source_set": source},
            "link": f"https://www.neuronpedia.org/{quote(about['scan'], safe='')}/{{layer}}-{quote(source, safe='')}/{{index}}",
            "linked": sorted({row.dictionary for row in rows if row.type == FEATURE}),
        }
    return about


def _types(of: str) -> list[str]:
    """What a dictionary's features and what its errors are called there."""
    feature = ERRORS.get(of, of.removesuffix(" error"))
    return [feature, next((error for error, kind in ERRORS.items() if kind == feature), f"{feature} error")]


def _whole(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)
