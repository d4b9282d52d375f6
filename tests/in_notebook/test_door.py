"""The door: a page says hello until it is answered, is told everything in order, and what is asked never waits for the model."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from residscope import edits
from residscope.notebook.door import Door
from residscope.session import Session
from residscope.session.from_code import edits_of, put_edits
from session import worlds
from session.conftest import _components as _components
from session.conftest import one as one

ABLATE = {"kind": "ablate", "site": "z.1", "head": 2}


class Front:
    """What a front end hears."""

    def __init__(self, session: Session) -> None:
        self.heard: list[tuple[dict[str, Any], list[bytes]]] = []
        self.news = threading.Condition()
        self.door = Door(session, self.hear)

    def hear(self, message: dict[str, Any], octets: Any) -> None:
        with self.news:
            self.heard.append((json.loads(json.dumps(message, allow_nan=False)), list(octets)))
            self.news.notify_all()

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> tuple[dict[str, Any], list[bytes]]:
        with self.news:
            found = lambda: next((one for one in self.heard if wanted(one[0])), None)  # noqa: E731
            assert self.news.wait_for(lambda: found() is not None, 30)
            return found()  # type: ignore[return-value]

    def ask(self, id: int, **message: Any) -> tuple[dict[str, Any], list[bytes]]:
        self.door.hear({"page": "p", "id": id, **message})
        return self.until(lambda one: one.get("id") == id)


@pytest.fixture
def front(one: Session) -> Iterator[Front]:
    made = Front(one)
    yield made
    made.door.close()


def test_nothing_is_said_to_nobody_and_a_hello_brings_the_whole_state(one: Session, front: Front) -> None:
    one.intent("set_prompt", {"text": "before anybody listens"})
    assert one.wait(60)
    time.sleep(0.1)
    assert front.heard == []
    front.door.hear({"page": "p", "hello": True})
    told, _ = front.until(lambda message: "state" in message)
    assert told["to"] == "p"
    assert (told["seq"], told["state"]) == one.snapshot()


def test_news_follow_the_state_without_a_gap(one: Session, front: Front) -> None:
    front.door.hear({"page": "p", "hello": True})
    first, _ = front.until(lambda message: "state" in message)
    for text in ("one", "two", "three"):
        one.intent("set_prompt", {"text": text})
    one.intent("set_edits", {"edits": [ABLATE]})
    assert one.wait(60)
    last = one.snapshot()[0]
    front.until(lambda message: message.get("seq") == last)
    patches = [message for message, _ in front.heard if "patch" in message]
    assert [patch["seq"] for patch in patches] == list(range(first["seq"] + 1, last + 1))
    state = dict(first["state"])
    for patch in patches:
        state |= patch["patch"]
    assert state == one.snapshot()[1]


def test_tensors_of_a_run_come_before_the_news_of_it(one: Session, front: Front) -> None:
    front.door.hear({"page": "p", "hello": True})
    front.until(lambda message: "state" in message)
    one.intent("set_edits", {"edits": [ABLATE]})
    assert one.wait(60)
    run = one.state.edited
    front.until(lambda message: (message.get("patch") or {}).get("current", {}).get("b") == run)
    kinds = [
        "pushed" if message.get("pushed", {}).get("args", {}).get("run") == run else "news"
        for message, _ in front.heard
        if message.get("pushed", {}).get("args", {}).get("run") == run
        or (message.get("patch") or {}).get("current", {}).get("b") == run
    ]
    assert kinds == ["pushed", "pushed", "news"]
    (pushed,) = [
        (m, o)
        for m, o in front.heard
        if m.get("pushed", {}).get("query") == "stream" and m["pushed"]["args"]["run"] == run
    ]
    assert torch.equal(load(pushed[1][0])["norm"], load(one.reads.stream(str(run), next="last"))["norm"])


def test_answers_and_refusals(one: Session, front: Front) -> None:
    run = str(one.state.baseline)
    assert front.ask(1, intent="add_edit", args={"edit": ABLATE})[0] == {
        "to": "p",
        "id": 1,
        "ok": True,
        "value": {"id": "e1"},
    }
    head, octets = front.ask(2, query="coef", args={"run": run, "dictionary": "pca@resid_post.1"})
    assert head == {"to": "p", "id": 2, "ok": True, "tensors": True}
    assert load(octets[0])["coef"].shape[0] == one.model.n_layers + 1
    refused = front.ask(3, intent="set_prompt", args={"text": ""})[0]
    assert (refused["to"], refused["error"]["type"]) == ("p", "EmptyPrompt")
    assert front.ask(4, query="no such thing")[0]["error"]["type"] == "NotFound"
    for id, wrong in enumerate([{}, {"intent": "undo", "query": "manifest"}, {"intent": 3}, {"file": 3}], start=5):
        assert front.ask(id, **wrong)[0]["error"]["type"] == "MalformedJSON"
    for nonsense in (None, "text", [], {"hello": True}, {"page": 3, "hello": True}, {"page": "x" * 100, "hello": True}):
        front.door.hear(nonsense)
    front.door.hear({"page": "p", "ping": 17})
    assert front.until(lambda message: "pong" in message)[0] == {"to": "p", "pong": 17}
    assert front.door.pages == 0


def test_files_go_both_ways(one: Session, front: Front) -> None:
    read = torch.randn(one.model.d_model)
    file = save({"read": read}, metadata={"name": "mine", "site": "resid_post.1"})
    front.door.hear({"page": "p", "id": 1, "intent": "import_direction", "args": {}}, [memoryview(file)])
    assert front.until(lambda message: message.get("id") == 1)[0]["value"] == {"kind": "saved", "name": "mine"}
    assert torch.equal(one.state.directions["mine"].read, read)
    from residscope.results import Result

    one.keep("kept", Result(torch.arange(3.0), ("pos",), name="kept"))
    head, octets = front.ask(2, file={"name": "kept", "ending": ".csv"})
    assert head["value"].endswith(".csv")
    assert octets[0].decode().splitlines()[0].split(",")[0] == "pos"
    assert front.ask(3, file={"name": "no", "ending": ".csv"})[0]["error"]["type"] == "NotFound"


def test_intents_keep_their_order_and_a_slow_question_holds_nobody() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        session.intent("set_prompt", {"text": "a small prompt"})
        assert session.wait(60)
        front = Front(session)
        front.door.hear({"page": "p", "hello": True})
        front.until(lambda message: "state" in message)
        slow.gate.clear()
        session.intent("set_prompt", {"text": "another"})  # its run stands still
        began = time.monotonic()
        for id in range(20):
            front.door.hear(
                {"page": "p", "id": id, "intent": "set_edits", "args": {"edits": [{**ABLATE, "head": id % 4}]}}
            )
        assert time.monotonic() - began < 0.5
        front.until(lambda message: message.get("id") == 19)
        assert front.ask(50, query="manifest")[0]["ok"]
        slow.gate.set()
        assert session.wait(60)
        assert [edit.head for edit in session.state.edits] == [3]
        answered = [message["id"] for message, _ in front.heard if message.get("id", 99) < 20]
        assert answered == list(range(20))
        front.door.close()


def test_several_pages_and_the_end(one: Session, front: Front) -> None:
    for page in ("a", "b"):
        front.door.hear({"page": page, "hello": True})
        front.until(lambda message, page=page: message.get("to") == page and "state" in message)
    assert front.door.pages == 2
    front.door.hear({"page": "a", "bye": True})
    assert front.door.pages == 1
    front.door.close()
    assert front.heard[-1] == ({"ended": True}, [])
    count = len(front.heard)
    one.intent("set_prompt", {"text": "nobody hears"})
    front.door.hear({"page": "b", "hello": True})
    time.sleep(0.1)
    assert len(front.heard) == count


def test_a_front_end_that_is_gone_stops_nothing(one: Session) -> None:
    def gone(message: Any, octets: Any) -> None:
        raise OSError("nobody there")

    door = Door(one, gone)
    door.hear({"page": "p", "hello": True})
    one.intent("set_prompt", {"text": "goes on"})
    assert one.wait(60)
    assert one.state.prompt is not None
    assert one.state.prompt.text == "goes on"
    door.close()


def test_ten_pages_and_code_come_to_one_state(one: Session) -> None:
    """Whoever changes what at once: every page's mirror is the session's state in the end."""
    fronts = [Front(one) for _ in range(10)]
    for front in fronts:
        front.door.hear({"page": "p", "hello": True})
        front.until(lambda message: "state" in message)

    def change(who: int) -> None:
        for turn in range(5):
            edit = {"kind": "scale", "site": f"mlp_out.{turn % 4}", "factor": float(who)}
            fronts[who].door.hear({"page": "p", "id": turn, "intent": "add_edit", "args": {"edit": edit}})
            one.change(
                lambda state: put_edits(state, (*edits_of(state)[-3:], edits.ablate("z.1", head=who % 4))), "code"
            )
            fronts[who].door.hear({"page": "p", "id": 50 + turn, "intent": "undo", "args": {}})

    hands = [threading.Thread(target=change, args=(who,)) for who in range(10)]
    for hand in hands:
        hand.start()
    for who, hand in enumerate(hands):
        hand.join(60)
        fronts[who].until(lambda message: message.get("id") == 54)
    assert one.wait(60)
    seq, state = one.snapshot()
    for front in fronts:
        front.until(lambda message: message.get("seq") == seq)
        mirror: dict[str, Any] = {}
        for message, _ in front.heard:
            mirror = dict(message["state"]) if "state" in message else mirror | message.get("patch", {})
        assert mirror == state
        front.door.close()
    shown = one.state.run(one.state.edited or one.state.baseline)
    assert shown is not None
    assert torch.equal(
        shown.last, one.model.run([[*shown.prompt.ids]], edits=list(edits_of(one.state))).logits_at(-1)[0].float()
    )
