"""Jobs: every one ends, says how, and lets the next one run; what it had finished stays, and says that it was cut short."""

import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from residscope.errors import (
    BadArguments,
    BadText,
    Cancelled,
    GridEdge,
    ModelNotFound,
    NotFound,
    ResidscopeError,
    WrongModel,
)
from residscope.progress import stage, warn
from residscope.reports import Report
from residscope.results import Result
from residscope.session import Session, intents
from residscope.session import session as session_module
from residscope.shelf import items as shelf_module
from residscope.shelf.parts import parts_of, wanting
from session import worlds
from session.asked import WAIT, Gate, declared, jobs, result, shelf, start


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even its words")


class Unwritable(Result):
    """An item that cannot be written down."""

    def save(self, path: Any) -> None:
        raise RuntimeError("no form in files")


@dataclass(frozen=True, eq=False)
class Small(Report):
    """A report that holds results somewhere inside."""

    kind = "report:small"
    tables: list[Result]
    provenance: Any = field(default_factory=dict)

    def view(self) -> Any:
        return self.tables[0].view()


def raising(error: BaseException) -> Any:
    def run(model: Any) -> Any:
        raise error

    return run


FAILURES = [
    ValueError("a bad value"), KeyError("lost"), ZeroDivisionError(), MemoryError("out of memory"), RecursionError("too deep"),
    StopIteration("stopped"), AssertionError(), NotImplementedError("later"), torch.OutOfMemoryError("no memory on the card"),
    ResidscopeError("it cannot be", received=3, allowed="1 or 2", fix="say 2"), SystemExit(3), KeyboardInterrupt(),
    GeneratorExit("gone"), Mute(), BaseException("anything"),
]  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_whatever_a_method_raises_is_said_and_the_next_job_runs(one: Session, failure: BaseException) -> None:
    with declared(bad=raising(failure), good=lambda model: result()):
        bad, good = start(one, "bad"), start(one, "good")
        assert one.wait(WAIT)
        told = jobs(one)
    assert told[bad]["phase"] == "failed"
    assert told[bad]["error"]["message"].strip()
    if type(failure) is not Mute:
        assert (
            type(failure).__name__ in told[bad]["error"]["message"]
            or told[bad]["error"]["type"] != "ResidscopeError"
            or (isinstance(failure, ResidscopeError))
        )
    assert (told[good]["phase"], told[good]["items"]) == ("done", ["Good"])
    assert shelf(one) == ["Good"]


@pytest.mark.parametrize("thing", [3, "words", torch.ones(2), object, {"a": 1}, (result(), 5), [None], b"", True, 1.5])
def test_what_is_no_item_is_refused_in_words_and_nothing_of_it_is_kept(one: Session, thing: Any) -> None:
    with declared(odd=lambda model: thing):
        job = start(one, "odd")
        assert one.wait(WAIT)
        told = jobs(one)[job]
    assert told["phase"] == "failed"
    assert told["error"]["type"] == "BadResult"
    assert "nothing that can be kept" in told["error"]["message"]
    assert shelf(one) == []


@pytest.mark.parametrize("thing", [None, (), [], {}])
def test_nothing_is_said_to_be_nothing(one: Session, thing: Any) -> None:
    with declared(odd=lambda model: thing):
        job = start(one, "odd")
        assert one.wait(WAIT)
        assert (jobs(one)[job]["phase"], jobs(one)[job]["items"]) == ("done", [])
        assert jobs(one)[job]["note"] == "It gave nothing to keep."


def test_several_items_are_kept_each_by_what_tells_it_apart(one: Session) -> None:
    with declared(pair=lambda model: (result(), result(3.0)), named=lambda model: {"first": result(), 7: result()}):
        pair, named = start(one, "pair"), start(one, "named", name="Mine")
        assert one.wait(WAIT)
        told = jobs(one)
    assert told[pair]["items"] == ["Pair, 1", "Pair, 2"]
    assert told[named]["items"] == ["Mine, first", "Mine, 7"]
    assert shelf(one) == ["Pair, 1", "Pair, 2", "Mine, first", "Mine, 7"]


def test_a_part_with_a_long_name_is_kept(one: Session) -> None:
    with declared(long=lambda model: {"x" * 500: result(), "y" * 500: result()}):
        job = start(one, "long", name="n" * 80)
        assert one.wait(WAIT)
        assert len(jobs(one)[job]["items"]) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_counted(one: Session, value: float) -> None:
    single, several, report = result(1.0, value, value), (result(1.0), result(value, 1.0)), Small([result(value, 1.0)])
    with declared(single=lambda model: single, several=lambda model: several, report=lambda model: report):
        first, second, third = start(one, "single"), start(one, "several"), start(one, "report")
        assert one.wait(WAIT)
        told = jobs(one)
    assert told[first]["note"] == "2 of its 3 values are no numbers (NaN or infinite)."
    assert told[second]["note"] == "1 of its 3 values are no numbers (NaN or infinite)."
    assert told[third]["note"] == "1 of its 2 values are no numbers (NaN or infinite)."
    assert all(told[job]["phase"] == "done" for job in told)


def test_whole_numbers_are_not_complained_of() -> None:
    assert wanting(Result(torch.tensor([1, 2]), ("pos",))) == ""
    assert wanting(None) == ""
    assert list(parts_of(None)) == []


def test_an_item_that_cannot_be_written_is_on_the_shelf_and_said_so(tmp_path: Any) -> None:
    with worlds.session(folder=tmp_path) as one:
        made = Unwritable(torch.ones(2), ("pos",))
        with declared(odd=lambda model: made, good=lambda model: result()):
            first, second, good = start(one, "odd", name="x"), start(one, "odd", name="x"), start(one, "good")
            assert one.wait(WAIT)
            told = jobs(one)
        assert (told[first]["phase"], told[first]["items"]) == ("done", ["x"])
        assert told[second]["items"] == ["x (2)"]
        assert "could not be written down" in told[first]["note"]
        assert "no form in files" in told[first]["note"]
        assert told[good]["note"] == ""
        assert shelf(one) == ["x", "x (2)", "Good"]
        written = [*(tmp_path / "items").rglob("*.safetensors")]
    assert len(written) == 1


def test_a_full_shelf_is_said_and_the_others_are_kept(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one._items, "_budget", 1000)
    large = Result(torch.ones(1000), ("pos",))
    with declared(large=lambda model: {"a": result(), "b": large, "c": result()}):
        job = start(one, "large")
        assert one.wait(WAIT)
        told = jobs(one)[job]
    assert told["phase"] == "done"
    assert told["items"] == ["Large, a", "Large, c"]
    assert "the shelf is full" in told["note"]
    assert "Large, b" in told["note"]


# ── order, progress, states ─────────────────────────────────────────────────────────────────────────────────


def test_cheap_jobs_go_first_and_equals_in_order(one: Session) -> None:
    gate, ran = Gate(), []

    def made(name: str, tokens: float | None) -> Any:
        def run(model: Any) -> Result:
            ran.append(name)
            return result()

        if tokens is not None:
            run.tokens = lambda model: tokens  # type: ignore[attr-defined]
        return run

    methods = {
        "gate": gate.stand,
        "dear": made("dear", 1e12),
        "cheap": made("cheap", 1.0),
        "free": made("free", 0.0),
        "same": made("same", 1.0),
    }
    with declared(**methods):
        start(one, "gate")
        assert gate.entered.wait(WAIT)
        order = [start(one, id) for id in ("dear", "cheap", "same", "free")]
        assert [jobs(one)[id]["phase"] for id in order] == ["waiting"] * 4
        gate.leave.set()
        assert one.wait(WAIT)
    assert ran == ["free", "cheap", "same", "dear"]


def test_progress_counts_up_within_a_stage_and_says_the_time_left(one: Session) -> None:
    seen: list[dict[str, Any]] = []

    def slow(model: Any, progress: Any = None) -> Result:
        for i in range(5):
            progress("Reading", i, 5)
            time.sleep(0.11)
        progress("Writing", 0, 0)
        return result()

    def note(seq: int, patch: dict[str, Any]) -> None:
        seen.extend(patch.get("jobs", []))

    _, _, stop = one.subscribe(note)
    with declared(slow=slow):
        start(one, "slow")
        assert one.wait(WAIT)
    stop()
    reading = [job for job in seen if job["stage"] == "Reading"]
    shares = [job["progress"] for job in reading]
    assert shares == sorted(shares)
    assert len(set(shares)) == 5
    assert all(job["left"] > 0 for job in reading if job["progress"])
    assert list(dict.fromkeys(job["phase"] for job in seen)) == ["waiting", "running", "done"]
    last = seen[-1]
    assert (last["progress"], last["left"], last["stage"]) == (None, None, "")
    assert last["seconds"] >= 0.5


def test_a_method_that_tells_its_progress_a_thousand_times_a_second_does_not_flood_the_page(one: Session) -> None:
    patches: list[Any] = []

    def eager(model: Any, progress: Any = None) -> Result:
        for i in range(3000):
            progress("Counting", i, 3000)
            progress("Counting", 0, 0)
        return result()

    _, _, stop = one.subscribe(lambda seq, patch: patches.append(patch))
    with declared(eager=eager):
        start(one, "eager")
        assert one.wait(WAIT)
    stop()
    assert len(patches) < 100


def test_partial_items_come_coarse_to_fine_and_only_the_whole_one_is_kept(one: Session) -> None:
    gate = Gate()

    def growing(model: Any) -> Iterator[Result]:
        yield result(1.0, name="coarse")
        gate.stand(model)
        yield result(1.0, 2.0, name="fine")

    with declared(growing=growing):
        job = start(one, "growing")
        assert gate.entered.wait(WAIT)
        shown = one.query("job", {"job": job})
        assert (shown["revision"], shown["done"], shown["table"]["n"]) == (1, False, 1)
        assert shelf(one) == []
        gate.leave.set()
        assert one.wait(WAIT)
        shown = one.query("job", {"job": job})
    assert (shown["done"], shown["table"]["n"]) == (True, 2)
    assert shelf(one) == ["Growing"]


# ── stopping ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_job_cancelled_while_it_waits_never_runs(one: Session) -> None:
    gate, ran = Gate(), []
    with declared(gate=gate.stand, other=lambda model: ran.append(1) or result()):
        start(one, "gate")
        assert gate.entered.wait(WAIT)
        other = start(one, "other")
        one.intent("cancel", {"job": other})
        assert jobs(one)[other]["phase"] == "cancelled"
        gate.leave.set()
        assert one.wait(WAIT)
        assert (jobs(one)[other]["phase"], ran, shelf(one)) == ("cancelled", [], ["Gate"])
        one.intent("cancel", {"job": other})  # and once more: off the list
        assert other not in jobs(one)
        with pytest.raises(NotFound):
            one.intent("cancel", {"job": other})


def test_a_job_cancelled_between_two_items_keeps_the_one_it_had(one: Session) -> None:
    gate = Gate()

    def growing(model: Any) -> Iterator[Result]:
        yield result(1.0)
        gate.stand(model)
        yield result(1.0, 2.0)
        raise AssertionError("it was cancelled")

    with declared(growing=growing):
        job = start(one, "growing")
        assert gate.entered.wait(WAIT)
        one.intent("cancel", {"job": job})
        gate.leave.set()
        assert one.wait(WAIT)
    assert (jobs(one)[job]["phase"], jobs(one)[job]["items"]) == ("cancelled", ["Growing, cut short"])
    assert one.query("item", {"name": "Growing, cut short"})["table"]["n"] == 2
    one.intent("rename_item", {"name": "Growing, cut short", "to": "mine"})
    told = next(item for item in one.snapshot()[1]["items"]["items"] if item["name"] == "mine")
    assert told["cut"], "whatever it is called, it is no whole result"


def test_a_job_cancelled_where_it_looks_keeps_what_it_says_is_finished(one: Session) -> None:
    gate = Gate()

    def sweep(model: Any, cancel: Any = None) -> Result:
        gate.stand(model)
        if cancel():
            raise Cancelled("stopped", partial=result(5.0, float("nan")))
        return result()

    with declared(sweep=sweep):
        job = start(one, "sweep")
        assert gate.entered.wait(WAIT)
        one.intent("cancel", {"job": job})
        gate.leave.set()
        assert one.wait(WAIT)
    told = jobs(one)[job]
    assert (told["phase"], told["items"]) == ("cancelled", ["Sweep, cut short"])
    assert "1 of its 2 values" in told["note"]


def test_one_whole_item_is_not_called_cut_short_by_a_late_cancel(one: Session) -> None:
    gate = Gate()  # looks at no cancel
    with declared(gate=gate.stand):
        job = start(one, "gate")
        assert gate.entered.wait(WAIT)
        one.intent("cancel", {"job": job})
        gate.leave.set()
        assert one.wait(WAIT)
    assert (jobs(one)[job]["phase"], shelf(one)) == ("done", ["Gate"])


def test_a_job_that_fails_late_keeps_what_it_had_shown(one: Session) -> None:
    def growing(model: Any) -> Iterator[Result]:
        yield result(1.0)
        raise ValueError("too far")

    with declared(growing=growing):
        job = start(one, "growing")
        assert one.wait(WAIT)
    told = jobs(one)[job]
    assert (told["phase"], told["items"]) == ("failed", ["Growing, cut short"])
    assert "too far" in told["error"]["message"]


def test_closing_stops_a_job_that_looks_and_a_closed_session_has_no_thread(one: Session) -> None:
    entered = threading.Event()

    def endless(model: Any, progress: Any = None) -> Result:
        while True:
            entered.set()
            progress("Going on", 0, 0)
            time.sleep(0.005)

    with declared(endless=endless):
        start(one, "endless")
        start(one, "endless")
        assert entered.wait(WAIT)
        began = time.monotonic()
        one.close()
        assert time.monotonic() - began < 3
    thread = one._jobs._thread
    assert thread is not None
    assert not thread.is_alive()


def test_a_job_waiting_for_the_live_run_can_be_cancelled() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        gate = Gate()

        def looking(model: Any, progress: Any = None) -> Result:
            gate.stand(model)
            progress("On", 0, 1)
            return result()

        with declared(looking=looking):
            job = start(session, "looking")
            assert gate.entered.wait(WAIT)
            slow.gate.clear()
            slow.entered.clear()
            session.intent("set_prompt", {"text": "another prompt"})
            assert slow.entered.wait(WAIT)
            gate.leave.set()
            time.sleep(0.05)
            assert jobs(session)[job]["phase"] == "running"  # it waits: the live run goes first
            session.intent("cancel", {"job": job})
            assert session._jobs.wait(5)
            assert jobs(session)[job]["phase"] == "cancelled"
            slow.gate.set()
            assert session.wait(WAIT)


# ── other models, other sessions ────────────────────────────────────────────────────────────────────────────


def test_another_model_stops_the_jobs_and_gets_none_of_their_items() -> None:
    gate, ran = Gate(), []
    with worlds.session() as session, declared(gate=gate.stand, other=lambda model: ran.append(1) or result()):
        start(session, "gate")
        assert gate.entered.wait(WAIT)
        start(session, "other")
        session.load(worlds.model("gpt2"))
        deadline = time.monotonic() + WAIT
        while session.state.model.model is not worlds.model("gpt2") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert jobs(session) == {}
        assert any("2 stopped" in notice for notice in session.state.notices)
        gate.leave.set()
        assert session.wait(WAIT)
        assert (ran, shelf(session)) == ([], [])
        assert session._items.items == {}


def test_a_job_ending_while_the_next_model_s_shelf_is_read_keeps_its_item_off_it(
    tmp_path: Any, monkeypatch: Any
) -> None:
    reading, go_on = threading.Event(), threading.Event()
    read = shelf_module.ItemShelf.read

    def slowly(self: Any, model: Any) -> Any:
        opened = read(self, model)
        if model is worlds.model("gpt2"):
            reading.set()
            assert go_on.wait(WAIT)
        return opened

    monkeypatch.setattr(shelf_module.ItemShelf, "read", slowly)
    gate = Gate()
    with worlds.session(folder=tmp_path) as session, declared(gate=gate.stand):
        start(session, "gate")
        assert gate.entered.wait(WAIT)
        session.load(worlds.model("gpt2"))
        assert reading.wait(WAIT)
        gate.leave.set()
        assert session._jobs.wait(WAIT)
        assert shelf(session) == ["Gate"]  # the model it is of is still the session's
        go_on.set()
        assert session.wait(WAIT)
        assert shelf(session) == []
        session.load(worlds.model())
        assert session.wait(WAIT)
        assert shelf(session) == ["Gate"]


def test_a_job_is_of_the_model_it_was_asked_of(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    method_code = session_module.method_code

    def slowly(*args: Any) -> str:
        one.load(worlds.model("gpt2"))
        one._load_thread.join(WAIT)
        return str(method_code(*args))

    monkeypatch.setattr(session_module, "method_code", slowly)
    with declared(good=lambda model: result()), pytest.raises(WrongModel, match="another model was loaded meanwhile"):
        start(one, "good")
    assert jobs(one) == {}
    assert one._jobs._asked == {}


def test_without_a_model_a_job_is_refused() -> None:
    session = Session(load=lambda name, **_: worlds.model())
    try:
        with declared(good=lambda model: result()), pytest.raises(ModelNotFound):
            start(session, "good")
    finally:
        session.close()


def test_two_sessions_on_one_model_run_side_by_side() -> None:
    gate = Gate()
    with worlds.session() as first, worlds.session() as second, declared(gate=gate.stand, good=lambda model: result()):
        start(first, "gate")
        assert gate.entered.wait(WAIT)
        start(second, "good")
        assert second.wait(WAIT)
        assert (shelf(second), shelf(first)) == (["Good"], [])
        gate.leave.set()
        assert first.wait(WAIT)


def test_a_page_that_comes_later_sees_every_job(one: Session) -> None:
    gate = Gate()
    with declared(gate=gate.stand, bad=raising(ValueError("no"))):
        bad = start(one, "bad")
        assert one.wait(WAIT)
        running = start(one, "gate")
        assert gate.entered.wait(WAIT)
        _, state, stop = one.subscribe(lambda seq, patch: None)
        stop()
        told = {job["id"]: job["phase"] for job in state["jobs"]}
        gate.leave.set()
        assert one.wait(WAIT)
    assert told == {bad: "failed", running: "running"}


def test_twenty_jobs_from_ten_threads_all_end_and_none_is_lost(one: Session) -> None:
    ids: list[str] = []

    def tab() -> None:
        ids.extend(start(one, "good", name="same") for _ in range(2))

    with declared(good=lambda model: result()):
        tabs = [threading.Thread(target=tab) for _ in range(10)]
        for thread in tabs:
            thread.start()
        for n in range(10):
            one.intent("set_prompt", {"text": f"prompt {n}"})
        for thread in tabs:
            thread.join(WAIT)
        assert one.wait(60)
    told = jobs(one)
    assert len({*ids}) == 20
    assert {told[id]["phase"] for id in ids} == {"done"}
    names = [name for id in ids for name in told[id]["items"]]
    assert len({*names}) == 20
    assert sorted(names) == sorted(shelf(one))


# ── what is refused before it runs ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["a\nb", "   ", "x" * 90, "\u202eevil", "\u200b", "\x00"])
def test_a_name_that_no_item_can_have_is_refused_at_once(one: Session, name: str) -> None:
    with declared(good=lambda model: result()), pytest.raises(BadText):
        start(one, "good", name=name)
    assert (jobs(one), one._jobs._asked) == ({}, {})


def test_a_refused_job_leaves_no_trace(one: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("residscope.session.jobs.MOST_JOBS", 0)
    with declared(good=lambda model: result()):
        with pytest.raises(ResidscopeError, match="too many jobs wait"):
            start(one, "good")
        with pytest.raises(BadArguments):
            start(one, "good", nonsense=3)
    assert (jobs(one), one._jobs._asked, one._jobs._queue) == ({}, {}, [])


def test_a_cancel_overtaken_by_the_start_of_the_job_stays_a_cancel(one: Session) -> None:
    """The state says cancelled before the job's thread has heard of it."""
    gate = Gate()
    with declared(gate=gate.stand):
        job = start(one, "gate")
        assert gate.entered.wait(WAIT)
        state = one.state
        one._commit(replace(state, jobs=tuple(replace(j, phase="cancelled") for j in state.jobs)))
        one._jobs._tell(job, phase="running", stage="Starting")
        assert jobs(one)[job]["phase"] == "cancelled"
        gate.leave.set()
        assert one.wait(WAIT)


def test_names_of_intents_are_as_ever() -> None:
    assert {"start", "cancel", "rename_item", "delete_item", "restore_item"} <= {*intents.INTENTS}


# ── beside the live run ─────────────────────────────────────────────────────────────────────────────────────


def test_a_live_run_does_not_wait_for_a_pass_under_way_nor_the_pass_for_it(one: Session) -> None:
    """A pass that waited for the live run with the model in its hands would wait for ever."""
    ran, stop = [], threading.Event()

    def long(model: Any, cancel: Any = None) -> Result:
        with stage("Passing", 1000, False, cancel) as tell:
            for i in range(1000):
                ran.append(model.run(f"number {i % 10}", ["logits"]).logits[0, -1, 5])
                tell(i)
                if stop.is_set():
                    break
        return Result(torch.stack(ran), ("pass",))

    with declared(long=long):
        job = start(one, "long")
        for n in range(30):
            one.intent("set_prompt", {"text": f"prompt {n}"})
            assert one._worker.wait(20), "the live run waits for the job, and the job for it"
        stop.set()
        assert one.wait(WAIT)
    assert jobs(one)[job]["phase"] == "done", jobs(one)[job]["error"]
    model, values = worlds.model(), one.query("item", {"name": "Long"})["table"]["rows"]
    alone = [float(model.run(f"number {i}", ["logits"]).logits[0, -1, 5]) for i in range(10)]
    assert [row[-1] for row in values[:20]] == [alone[i % 10] for i in range(len(values[:20]))]


def test_a_slider_dragged_without_end_does_not_starve_a_job(one: Session) -> None:
    done = threading.Event()

    def long(model: Any, cancel: Any = None) -> Result:
        with stage("Passing", 10, False, cancel) as tell:
            for i in range(10):
                model.run("a prompt", ["logits"])
                tell(i)
        done.set()
        return result()

    with declared(long=long):
        start(one, "long")
        one.intent("add_edit", {"edit": {"kind": "scale", "site": "mlp_out.1", "factor": 1.0}})
        for n in range(5000):
            one.intent("set_edits", {"edits": [{"kind": "scale", "site": "mlp_out.1", "factor": n / 1000}]})
            if done.wait(0.001):
                break
        assert done.is_set()
        assert one.wait(60)


def test_what_a_job_warns_of_is_kept_with_it_and_its_item_and_with_no_other(tmp_path: Any) -> None:
    both = threading.Barrier(2)

    def warned(model: Any) -> Result:
        both.wait(WAIT)  # two jobs of two sessions at once: each hears its own alone
        for _ in range(2):
            warn("C stands at the end of its grid", GridEdge)
        both.wait(WAIT)
        return result()

    def silent(model: Any) -> Result:
        both.wait(WAIT)
        both.wait(WAIT)
        return result()

    wanted = ["C stands at the end of its grid"]
    with (
        warnings.catch_warnings(),
        declared(warned=warned, silent=silent),
        worlds.session(folder=tmp_path) as one,
        worlds.session() as other,
    ):
        warnings.simplefilter("ignore")  # what Python does with a warning decides nothing here
        first, second = start(one, "warned"), start(other, "silent")
        assert one.wait(WAIT)
        assert other.wait(WAIT)
        told, quiet = jobs(one)[first], jobs(other)[second]
        assert (told["phase"], told["warnings"]) == ("done", wanted)
        assert (quiet["phase"], quiet["warnings"]) == ("done", [])
        assert one.reads.item(told["items"][0])["warnings"] == wanted
        assert other.reads.item(quiet["items"][0])["warnings"] == []
    with worlds.session(folder=tmp_path) as again:
        assert again.reads.item(told["items"][0])["warnings"] == wanted
