"""Queries: each answers through every door, changes nothing, and refuses in words what it cannot answer."""

import json
from typing import Any

import pytest
from safetensors.torch import load

from residscope.errors import MalformedJSON, ResidscopeError
from residscope.session import Session
from residscope.session.queries import QUERIES
from session import worlds
from session.asked import declared as declared
from session.asked import result, start
from session.test_probes import ASKED, FILE, NAME

TENSORS = {"stream", "coef", "logits", "lens_grid", "map", "map_layer", "attention", "prompts_coef", "prompts_logits"}


@pytest.fixture(scope="module")
def asked() -> Any:
    """A session that has one of everything, and arguments for each query."""
    patch = pytest.MonkeyPatch()
    patch.setattr("residscope.world.loaded.shipped", lambda model: worlds.components(model))
    with worlds.session() as session, declared(good=lambda model: result()):
        session.intent("set_prompt", {"text": "abcd"})
        start(session, "probe-map", **ASKED)
        job = start(session, "good")
        gathered = start(session, "evidence", direction=ARROW, corpus=TEXT, tokens=1000, prompts=4, length=8, random=19)
        continued = start(session, "continuations", prompt={"kind": "live"}, max_new_tokens=3)
        start(session, "atlas", name="atlas", corpus=TEXT, dictionary="pca@resid_post.1", tokens=1000, k=2)
        pair = ["pca@resid_post.0", "pca@resid_post.1"]
        start(session, "causal-graph", name="graph", prompt={"kind": "live"}, dictionaries=pair, tokens=2)
        assert session.wait(120)
        nodes = [node.id for node in session.items["graph"].nodes if not node.is_error]
        node, other = nodes[0], nodes[-1]
        run = session.snapshot()[1]["current"]["a"]
        drawn = session.intent("draw_prompts", {"text": TEXT, "n": 2, "length": 8})["job"]
        assert session.wait(60)
        page = session.query("prompts", {"own": ["abcd"], "drawn": drawn})["id"]
        args = {
            "manifest": {},
            "glossary": {},
            "stream": {"run": run},
            "coef": {"run": run, "dictionary": "pca@resid_post.1"},
            "strongest": {"run": run, "dictionary": "pca@resid_post.1", "row": 2, "pos": 1, "k": 2},
            "logits": {"run": run, "positive": 5, "negative": 7},
            "tokens": {"text": "ab"},
            "link": {"hash": "another", "prompt": "ab", "edits": [{"kind": "nonsense"}]},
            "lens": {"run": run, "layer": 1, "pos": 2},
            "token_table": {},
            "lens_rows": {"run": run, "pos": 2},
            "lens_grid": {"run": run, "first": 1, "count": 2},
            "map": {"run": run, "positive": 5, "negative": 7},
            "map_stop": {},
            "map_layer": {"run": run, "layer": 1, "positive": 5, "negative": 7},
            "attention": {"run": run, "heads": [[1, 0], [0, 1]], "weighted": True},
            "logit_sum": {"run": run, "positive": 5, "row": 1, "pos": 2},
            "head_sum": {"run": run, "layer": 1, "head": 0, "positive": 5, "negative": 7},
            "score_sum": {"run": run, "layer": 1, "head": 0, "query": 3, "key": 1},
            "dictionary": {"id": "pca@resid_post.1"},
            "gram": {"of": ["pca@resid_post.1", "pca@resid_post.2"]},
            "read_direction": {"direction": ARROW},
            "read_data": {"data": FILE},
            "probe": {"name": NAME},
            "probe_reading": {"name": NAME, "run": run, "pos": 2},
            "probe_prompt": {"name": NAME, "row": 3},
            "job": {"job": job},
            "item": {"name": "Good"},
            "cost": {"method": "pca", "args": {"corpus": TEXT, "site": "resid_post.1"}},
            "python": {"method": "pca", "args": {"corpus": TEXT, "site": "resid_post.1"}},
            "stack": {},
            "stack_json": {},
            "evidence": {"job": gathered},
            "continuations": {"job": continued},
            "atlases": {},
            "features": {"atlas": "atlas"},
            "feature": {"atlas": "atlas", "index": 1},
            "feature_effects": {"atlas": "atlas", "index": 1},
            "feature_effects_left": {},
            "feature_on": {"atlas": "atlas", "index": 1, "run": run},
            "features_on": {"run": run, "atlases": ["atlas"]},
            "features_cost": {"atlas": "atlas"},
            "graph": {"item": "graph", "least": 0.0},
            "graph_node": {"item": "graph", "node": node},
            "graph_edge": {"item": "graph", "source": node, "target": other},
            "graph_find": {"item": "graph", "text": "sae"},
            "graph_left": {},
            "graph_proposals": {"item": "graph", "least": 0.2},
            "prompts": {"own": ["abcd"], "drawn": drawn},
            "prompts_coef": {"page": page, "dictionary": "pca@resid_post.1", "row": 1},
            "prompts_logits": {"page": page, "positive": 5, "negative": 7, "row": 1},
        }
        yield session, args
    patch.undo()


ARROW = {"kind": "pca", "site": "resid_post.1", "weights": {"1": 1.0}}
TEXT = {
    "kind": "typed",
    "name": "t.txt",
    "text": "\n\n".join(f"the {n} paragraph of {n * n} words or so" for n in range(80)),
}


def test_every_query_has_a_case(asked: tuple[Session, dict[str, Any]]) -> None:
    assert asked[1].keys() == QUERIES.keys()


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_answers_and_changes_nothing(asked: tuple[Session, dict[str, Any]], name: str) -> None:
    session, args = asked
    before = session.snapshot()
    answer = session.query(name, args[name])
    assert session.snapshot() == before
    if name in TENSORS:
        assert isinstance(answer, bytes)
        assert load(answer)
    else:
        assert isinstance(answer, dict)
        json.dumps(answer, allow_nan=False)  # as the wire has it


@pytest.mark.parametrize("name", QUERIES)
@pytest.mark.parametrize("args", [[], 3, "x", {"nonsense": 1}, {"run": None, "name": 7, "id": {}, "of": []}])
def test_arguments_that_do_not_parse_are_refused_with_what_is_taken(
    asked: tuple[Session, dict[str, Any]], name: str, args: Any
) -> None:
    with pytest.raises(MalformedJSON, match=f"the arguments of {name} do not parse"):
        asked[0].query(name, args)


@pytest.mark.parametrize("name", [name for name in QUERIES if name not in ("manifest", "tokens")])
def test_what_is_not_there_is_refused_by_a_typed_error(asked: tuple[Session, dict[str, Any]], name: str) -> None:
    """Each text that names something, in turn, names nothing."""
    session, args = asked
    for key, value in args[name].items():
        if (name, key) in (("graph_find", "text"), ("link", "hash"), ("link", "prompt")):  # which need not be there
            continue
        wrong = (
            {"kind": "saved", "name": "nowhere"} if key == "direction" else ["nowhere"] if key == "of" else "nowhere"
        )
        if isinstance(value, str | list) or key == "direction":
            with pytest.raises(ResidscopeError) as refused:
                session.query(name, args[name] | {key: wrong})
            assert "nowhere" in str(refused.value)
