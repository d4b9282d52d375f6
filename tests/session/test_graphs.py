"""What the Graph tab asks of a session: every number is the Python function's, and what is named stays named."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import residscope as rs
from residscope import errors
from residscope.directions import EncoderDictionary
from residscope.graph import Graph
from residscope.graph.parts import heads
from residscope.graph.pruning.prune import prune
from residscope.graph.shown.picture import network_of, strongest
from residscope.graph.shown.proposals import proposals
from residscope.session import Session
from residscope.session.read import graph_runs
from session import worlds
from session.asked import start

PROMPT, N = "the 12 paragraph", 24


def sae(site: str, seed: int) -> EncoderDictionary:
    model, draw = worlds.model(), torch.Generator().manual_seed(seed)
    write = torch.nn.functional.normalize(torch.randn(N, model.d_model, generator=draw), dim=1)
    zero = torch.zeros(model.d_model)
    parts: dict[str, Any] = {"mean": zero, "bias": torch.zeros(N), "base": zero}
    return EncoderDictionary("sae", site, write, write, **parts, activation="topk", k=4)


@pytest.fixture(scope="module")
def live() -> Any:
    """A session with two dictionaries, an atlas of the first, and a graph between them that a job made."""
    patch = pytest.MonkeyPatch()
    patch.setattr("residscope.world.loaded.shipped", lambda model: worlds.components(model))
    with worlds.session() as session:
        session.intent("set_prompt", {"text": PROMPT})
        for seed, name in enumerate(("low", "high")):
            session.keep(name, sae(f"resid_post.{seed}", seed))
        assert session.wait(60)
        ids = [id for id, d in session.state.model.dictionaries.items() if d.name == "sae"]
        text = {"kind": "typed", "name": "t.txt", "text": "\n\n".join(f"the {n} paragraph" for n in range(200))}
        start(session, "atlas", name="atlas", corpus=text, dictionary=ids[0], tokens=1000, k=3)
        start(session, "causal-graph", name="graph", prompt={"kind": "live"}, dictionaries=ids, tokens=3)
        assert session.wait(120)
        yield session
    patch.undo()


@pytest.fixture
def graph(live: Session) -> Graph:
    found: Graph = live.items["graph"]
    return found


@pytest.fixture
def copy(live: Session, graph: Graph) -> Any:
    """Another of the same, to be changed."""
    name = live.keep("copy", replace(graph))
    yield name
    live.take_off(name)


def names(graph: Graph) -> list[str]:
    return [node.id for node in graph.nodes]


@pytest.mark.parametrize(
    "how", [{}, {"least": 0.05}, {"per_level": 5, "influence": 0.9}, {"top": 6, "path": 1}], ids=str
)
def test_what_is_shown_is_what_pruning_leaves(live: Session, graph: Graph, how: dict[str, Any]) -> None:
    told = live.query("graph", {"item": "graph", **how})
    less = prune(graph, **how) if how else graph
    assert told["view"] == network_of(strongest(less)).to_dict()
    assert told["left"] == [len(less.nodes), len(less.weight)]
    assert [told["of_nodes"], told["of_edges"]] == [len(graph.nodes), len(graph.weight)]
    assert [node["id"] for node in told["nodes"]] == [node["id"] for node in told["view"]["nodes"]]
    for edge in told["edges"]:
        source, target = (told["nodes"][edge[end]]["id"] for end in ("source", "target"))
        token = graph.logits[graph.numbers[source], int(target[5:])] if target.startswith("next/") else None
        assert edge["weight"] == pytest.approx(less.edge(source, target) if token is None else float(token))
    tokens = [node for node in told["nodes"] if not node["members"]]
    assert [node["id"] for node in tokens] == [f"next/{i}" for i in range(len(graph.tokens))]
    assert [node["label"] for node in tokens] == [*graph.tokens]
    for node in told["nodes"][: -len(tokens)]:
        assert node["label"] == f"sae {node['index']}" if node["index"] >= 0 else node["label"] == "error"
        number = graph.numbers[node["id"]]
        assert node["members"] == [node["id"]]
        assert node["activation"] == graph.nodes[number].activation
        assert node["effect"] == pytest.approx(float(graph.logits[number, 0]))


def test_it_says_what_it_is_of(live: Session, graph: Graph) -> None:
    told = live.query("graph", {"item": "graph"})
    assert told["ids"] == list(live.state.prompt.ids)
    assert told["prompt"] == [token.text for token in live.state.prompt.tokens]
    assert told["positions"] == graph.provenance["positions"]
    assert told["tokens"] == [*graph.tokens]
    assert told["range"] == [float(graph.weight.abs().min()), float(graph.weight.abs().max())]
    assert [one["missing"] for one in told["dictionaries"]] == [None, None]
    assert {live.state.model.dictionary(one["here"]).hash for one in told["dictionaries"]} == {
        placed.hash for placed in graph.placed
    }
    assert "rs.causal_graph(" in told["code"]
    assert "prune(result, least=0.1)" in live.query("graph", {"item": "graph", "least": 0.1})["code"]
    with pytest.raises(errors.NotFound, match="no causal graph"):
        live.query("graph", {"item": "atlas"})
    with pytest.raises(errors.MalformedJSON):
        live.query("graph", {"item": "graph", "influence": 2})


@pytest.mark.parametrize("number", [0, -1], ids=["strongest", "weakest"])
def test_an_edge_is_run_again_and_says_how_the_next_token_moves(live: Session, graph: Graph, number: int) -> None:
    ids = names(graph)
    source, target = ids[int(graph.source[number])], ids[int(graph.target[number])]
    told = live.query("graph_edge", {"item": "graph", "source": source, "target": target})
    weight = float(graph.weight[number])
    assert told["weight"] == weight
    assert told["measured"] == pytest.approx(weight, abs=1e-5)
    assert told["base"] - told["without"] == pytest.approx(weight, abs=1e-5)
    # by the library's own edit, at the positions that the graph uses
    node = graph.nodes[graph.numbers[source]]
    model, prompt = live.model, list(live.state.prompt.ids)
    if node.is_error:
        return
    edit = rs.edits.feature(
        live.state.model.dictionaries[f"{node.dictionary}"], node.index, 0.0, pos=graph.provenance["positions"]
    )
    base, without = (model.run(prompt, edits=e).logits_at()[0].float().softmax(-1) for e in ((), (edit,)))
    for token in told["tokens"]:
        assert token["base"] == pytest.approx(float(base[token["id"]]), abs=1e-5)
        assert token["without"] == pytest.approx(float(without[token["id"]]), abs=1e-5)
    assert {int(i) for i in base.topk(10).indices} <= {token["id"] for token in told["tokens"]}
    assert told["kl"] == pytest.approx(float((base * (base / without).log()).sum()), abs=1e-5)


def test_a_next_token_is_a_target_too(live: Session, graph: Graph) -> None:
    told = live.query("graph_edge", {"item": "graph", "source": names(graph)[0], "target": "next/1"})
    assert told["weight"] == float(graph.logits[0, 1])
    assert told["measured"] == pytest.approx(float(graph.logits[0, 1]), abs=1e-5)
    assert told["base"] == pytest.approx(float(graph.base[1]), abs=1e-5)
    with pytest.raises(errors.NotFound):
        live.query("graph_edge", {"item": "graph", "source": names(graph)[0], "target": "next/9"})


def test_a_node_has_its_numbers_and_its_page(live: Session, graph: Graph) -> None:
    number = next(
        i for i, node in enumerate(graph.nodes) if not node.is_error and node.dictionary == graph.placed[0].id
    )
    node = graph.nodes[number]
    told = live.query("graph_node", {"item": "graph", "node": node.id})
    assert [one["value"] for one in told["effects"]] == graph.logits[number].tolist()
    outs = {
        names(graph)[int(graph.target[e])]: float(graph.weight[e]) for e in (graph.source == number).nonzero()[:, 0]
    }
    assert {one["id"]: one["weight"] for one in told["targets"]} == outs
    sizes = [abs(one["weight"]) for one in told["targets"]]
    assert sizes == sorted(sizes, reverse=True)
    atlas = live.items["atlas"]
    assert told["atlas"] == "atlas"
    assert told["address"] == atlas.address(node.index)
    assert told["examples"]["kind"] == "contexts"
    write = live.state.model.dictionaries[node.dictionary].write[node.index]
    cosines = torch.nn.functional.normalize(live.model.W_U.float().T, dim=1) @ (write / write.norm())
    best = told["raised"][0]
    assert best["value"] <= float(cosines.max()) + 1e-4 or best["text"]
    error = next(node for node in graph.nodes if node.is_error)
    told = live.query("graph_node", {"item": "graph", "node": error.id})
    assert told["index"] == -1
    assert told["raised"] == []
    with pytest.raises(errors.NotFound, match="no such node"):
        live.query("graph_node", {"item": "graph", "node": "nonsense"})


def test_names_and_groups_are_kept_on_the_item_and_taken_back(live: Session, graph: Graph, copy: str) -> None:
    ids = [node.id for node in graph.nodes if not node.is_error][:3]
    live.intent("name_node", {"item": copy, "node": ids[0], "name": " openings "})
    assert live.items[copy].labels == {ids[0]: "openings"}
    changes = [item["changes"] for item in live.snapshot()[1]["items"]["items"] if item["name"] == copy]
    assert changes == [1]
    live.intent("group_nodes", {"item": copy, "nodes": ids[:2], "name": "pair"})
    shown = live.query("graph", {"item": copy})
    (drawn,) = [node for node in shown["nodes"] if node["group"] == "pair"]
    assert drawn["members"] == ids[:2]
    assert shown["groups"] == [{"name": "pair", "nodes": ids[:2]}]
    live.intent("rename_group", {"item": copy, "name": "pair", "to": "couple"})
    assert live.items[copy].groups[0].name == "couple"
    with pytest.raises(errors.GraphError, match="two or more"):
        live.intent("group_nodes", {"item": copy, "nodes": ids[2:], "name": "one"})
    with pytest.raises(errors.NotFound, match="no such node"):
        live.intent("name_node", {"item": copy, "node": "nonsense", "name": "x"})
    live.intent("ungroup_nodes", {"item": copy, "name": "couple"})
    assert live.items[copy].groups == ()
    for _ in range(4):
        live.intent("undo_graph", {"item": copy})
    assert live.items[copy] == graph
    assert live.query("graph", {"item": copy})["can_undo"] is False
    live.intent("undo_graph", {"item": copy})
    live.intent("name_node", {"item": copy, "node": ids[0], "name": ""})
    assert live.items[copy] == graph, "its own name is no name that was given"
    with pytest.raises(errors.NotFound, match="no causal graph"):
        live.intent("name_node", {"item": "atlas", "node": ids[0], "name": "x"})


def test_a_group_s_edge_takes_all_of_it_out(live: Session, graph: Graph, copy: str) -> None:
    last = graph.placed[-1].id
    ids = [node.id for node in graph.nodes if not node.is_error and node.dictionary != last][:2]
    live.intent("group_nodes", {"item": copy, "nodes": ids, "name": "pair"})
    shown = live.query("graph", {"item": copy})
    (group,) = [node for node in shown["nodes"] if node["group"]]
    target = next(node.id for node in graph.nodes if not node.is_error and node.dictionary == last)
    told = live.query("graph_edge", {"item": copy, "source": group["id"], "target": target})
    assert told["weight"] == pytest.approx(sum(graph.edge(id, target) for id in ids), abs=1e-6)
    low, high = (live.state.model.dictionaries[placed.id] for placed in graph.placed)
    at, node = graph.provenance["positions"], graph.nodes[graph.numbers[target]]
    chosen = [graph.nodes[graph.numbers[id]].index for id in ids]
    edit = rs.edits.feature(low, chosen, 0.0, pos=at)
    x, y = (live.model.run(list(live.state.prompt.ids), [high.site], edits=e)[high.site][0, -1:] for e in ((), (edit,)))
    change = (high.encode(x) - high.encode(y))[0, node.index]
    assert told["measured"] == pytest.approx(float(change), abs=1e-5)


def test_names_survive_another_start(tmp_path: Path, graph: Graph) -> None:
    id = names(graph)[0]
    with worlds.session(folder=tmp_path) as session:
        session.keep("kept", replace(graph))
        session.intent("name_node", {"item": "kept", "node": id, "name": "mine"})
        session.intent("group_nodes", {"item": "kept", "nodes": names(graph)[:2], "name": "pair"})
    with worlds.session(folder=tmp_path) as session:
        found = session.items["kept"]
        assert found.labels == {id: "mine"}
        assert found.groups[0].nodes == tuple(names(graph)[:2])
        assert found.weight.equal(graph.weight)


def test_a_dictionary_that_is_gone_is_named(live: Session, graph: Graph) -> None:
    placed = (replace(graph.placed[0], hash="0" * 64), *graph.placed[1:])
    name = live.keep("stray", replace(graph, placed=placed))
    try:
        told = live.query("graph", {"item": name})
        assert "is not loaded" in told["dictionaries"][0]["missing"]
        assert told["dictionaries"][1]["missing"] is None
        with pytest.raises(errors.NotFound, match="not loaded"):
            live.query("graph_edge", {"item": name, "source": names(graph)[0], "target": names(graph)[-1]})
        node = next(node for node in graph.nodes if node.dictionary == placed[0].id)
        assert "not loaded" in live.query("graph_node", {"item": name, "node": node.id})["missing"]
        assert len(live.query("graph_proposals", {"item": name})["missing"]) == 1
    finally:
        live.take_off(name)


def test_proposals_are_the_function_s(live: Session, graph: Graph) -> None:
    made = {placed.id: live.state.model.dictionaries[placed.id] for placed in graph.placed}
    told = live.query("graph_proposals", {"item": "graph", "least": 0.3})
    found = proposals(graph, made, least=0.3)
    assert found
    assert [one["nodes"] for one in told["groups"]] == [[*one.nodes] for one in found]
    assert [one["likeness"] for one in told["groups"]] == [one.likeness for one in found]
    assert "at least 0.3" in told["rule"]


def test_the_newest_edge_of_a_page_is_the_one_that_is_run(
    live: Session, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()
    whole, seen = graph_runs._run, []

    def slow(setting: Any, of: Any, out: Any, into: Any, token: Any) -> Any:
        seen.append(out)
        entered.set()
        assert leave.wait(30)
        return whole(setting, of, out, into, token)

    monkeypatch.setattr(graph_runs, "_run", slow)
    answers: dict[str, Any] = {}
    ids = names(graph)

    def ask(name: str, source: str, asker: str) -> threading.Thread:
        def run() -> None:
            try:
                asked = {"item": "graph", "source": source, "target": ids[-1], "asker": asker}
                answers[name] = live.query("graph_edge", asked)
            except errors.ResidscopeError as error:
                answers[name] = error

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [ask("first", ids[0], "page")]
    assert entered.wait(30)
    threads += [ask("second", ids[1], "page"), ask("gone", ids[2], "leaver")]
    while "leaver" not in live.graph_runs._askers._asked:
        pass
    assert live.query("graph_left", {"asker": "leaver"}) == {"left": False}
    leave.set()
    for thread in threads:
        thread.join(30)
    assert isinstance(answers["first"], errors.Cancelled)
    assert isinstance(answers["gone"], errors.Cancelled)
    assert answers["second"]["source"] == ids[1]
    assert [ids[2]] not in seen


def test_the_model_s_own_heads_need_no_dictionary_here(live: Session) -> None:
    made = [heads(live.model, 1), sae("resid_post.1", 1)]
    drawn = rs.causal_graph(live.model, list(live.state.prompt.ids), made, tokens=0, errors=False, progress=False)
    name = live.keep("of heads", drawn)
    try:
        told = live.query("graph", {"item": name})
        assert [(one["here"] is None, one["missing"]) for one in told["dictionaries"]] == [(True, None), (False, None)]
        ids, (a, b) = [node.id for node in drawn.nodes], (int(drawn.source[0]), int(drawn.target[0]))
        run = live.query("graph_edge", {"item": name, "source": ids[a], "target": ids[b]})
        assert run["measured"] == pytest.approx(float(drawn.weight[0]), abs=1e-5)
    finally:
        live.take_off(name)


def test_every_node_is_found_by_its_id_its_name_and_its_token(live, graph, copy):
    for node in graph.nodes:
        told = live.query("graph_find", {"item": "graph", "text": node.id})
        first = told["nodes"][0]
        assert first["id"] == node.id
        assert first["members"] == [node.id]
        assert first["activation"] == node.activation
        effect = float(graph.logits[graph.numbers[node.id], 0])
        assert first["effect"] == (effect if effect == effect else None)
    error = live.query("graph_find", {"item": "graph", "text": "ERROR"})
    assert {node["id"] for node in error["nodes"]} == {node.id for node in graph.nodes if node.is_error}
    some = live.query("graph_find", {"item": "graph", "text": "sae", "count": 3})
    assert (len(some["nodes"]), some["total"]) == (3, sum("sae" in node.id for node in graph.nodes))
    live.intent("name_node", {"item": copy, "node": graph.nodes[2].id, "name": "a plain name"})
    named = live.query("graph_find", {"item": copy, "text": "Plain NAME"})
    assert [(node["id"], node["label"], node["named"]) for node in named["nodes"]] == [
        (graph.nodes[2].id, "a plain name", True)
    ]
    assert live.query("graph_find", {"item": "graph", "text": "nothing of the kind"})["nodes"] == []
