"""What many pages are told: each change once, together where they come fast, and everybody ends with the state as it is."""

import asyncio
import json
import random
from itertools import pairwise
from typing import Any

import pytest

from residscope.server import spoken
from residscope.server.boxes import Outbox, Told
from residscope.server.changes import Change
from residscope.server.spoken import Pictures, Spoken, together
from residscope.server.threads import Threads
from residscope.session import Session
from session import worlds


class Reader:
    """A page: takes a state, then changes by the rule of the wire."""

    def __init__(self, hub: Spoken) -> None:
        self.box, self.seq, self.state, self.heard = Outbox(), -1, dict[str, Any](), 0
        hub.join(self.box)

    async def read(self, until: int) -> None:
        while self.seq < until:
            message = await asyncio.wait_for(self.box.get(), 10)
            assert isinstance(message, Told)
            self.take(json.loads(message.text))

    def take(self, message: dict[str, Any]) -> None:
        self.heard += 1
        if "state" in message:
            self.state = message["state"]
        else:
            assert message.get("after", message["seq"] - 1) <= self.seq < message["seq"]
            self.state |= message["patch"]
            for key, part in message.get("parts", {}).items():
                kept = [one for one in self.state[key] if one["id"] not in {new["id"] for new in part["new"]}]
                found = sorted((*kept, *part["new"]), key=lambda one: one["id"])
                self.state[key] = [next(one for one in found if one["id"] == id) for id in part["ids"]]
        self.seq = message["seq"]


def plain(session: Session) -> tuple[int, Any]:
    seq, state = session.snapshot()
    return seq, json.loads(json.dumps(state))


@pytest.mark.parametrize("few", [0, 100])
def test_whoever_comes_when_hears_all_that_changes(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "FEW", few)
    order = random.Random(few)

    async def main() -> None:
        hub, readers = Spoken(session), list[Reader]()
        for n in range(60):
            if n < 20:
                readers.append(Reader(hub))
            session.notify(f"news {n}")
            if order.random() < 0.3:
                await asyncio.sleep(0)
        seq, state = plain(session)
        await asyncio.gather(*(reader.read(seq) for reader in readers))
        assert all(reader.state == state for reader in readers)
        most = max(reader.heard for reader in readers)
        assert most > 50 if few else most < 20
        for reader in readers:
            hub.leave(reader.box)
        session.notify("nobody listens")

    with worlds.session() as session:
        asyncio.run(main())


def test_changes_as_one_are_the_last_of_each_part() -> None:
    news = [(4, Change({"a": 1, "b": 1})), (5, Change({"a": 2})), (6, Change({"c": 3}))]
    assert json.loads(together(news).text) == {"seq": 6, "after": 3, "patch": {"a": 2, "b": 1, "c": 3}}
    assert json.loads(together(news[:1]).text) == {"seq": 4, "patch": {"a": 1, "b": 1}}


def test_however_lists_change_every_page_ends_with_them() -> None:
    order = random.Random(5)

    def drawn() -> Any:
        if order.random() < 0.2:
            return order.choice(([], [1, 2], "text", None, [{"id": "a"}, {"id": "a", "n": 1}], [{"n": 1}]))
        return [{"id": id, "n": order.randrange(2)} for id in order.sample("abcd", order.randrange(5))]

    for _ in range(2000):
        states = [{"runs": drawn(), "jobs": drawn()} for _ in range(order.randrange(2, 6))]
        news = [(n, Change.since(old, new)) for n, (old, new) in enumerate(pairwise(states), 1)]
        start = order.randrange(
            len(news)
        )  # a page that came meanwhile has a later state than the first of what is told
        page = Reader.__new__(Reader)
        page.state, page.seq, page.heard = json.loads(json.dumps(states[start])), start, 0
        page.take(json.loads(together(news).text))
        assert page.state == states[-1]


def test_a_run_more_is_told_without_those_before() -> None:
    before = [{"id": f"r{n}", "text": "x" * 1000} for n in range(50)]
    now = [*before[1:], {"id": "r50", "text": "y"}]
    said = together([(1, Change.since({"runs": before}, {"runs": now}))]).text
    assert len(said) < 600
    assert json.loads(said)["parts"]["runs"]["new"] == [{"id": "r50", "text": "y"}]


def test_the_pictures_of_a_run_are_read_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "When Mary"})
        assert session.wait(60)
        run, read, calls = session.state.baseline, session.reads.pictures, list[Any]()

        def counted(*args: Any) -> Any:
            calls.append(args)
            return read(*args)

        monkeypatch.setattr(session.reads, "pictures", counted)
        assert run is not None

        async def main() -> list[dict[str, bytes]]:
            pictures = Pictures(session, Threads())
            return await asyncio.gather(*(pictures.of(run) for _ in range(50)))

        first, *others = asyncio.run(main())
        assert len(calls) == 1
        assert [answer.split()[0] for answer in first] == ["stream", "logits"]
        assert all(frames == first for frames in others)


def test_what_cannot_be_written_lets_everybody_come_anew() -> None:
    with worlds.session() as session:

        async def main() -> None:
            hub = Spoken(session)
            readers = [Reader(hub) for _ in range(3)]
            hub._hear(10**6, {"notices": {1, 2}})
            await asyncio.sleep(0.05)
            assert all(reader.box.overflowed.is_set() for reader in readers)

        asyncio.run(main())
