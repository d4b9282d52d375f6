"""The companion: the prompt beside the live one, aligned with it token by token."""

import functools
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import residscope as rs
from residscope import edits
from residscope.edits.align import align_tokens
from residscope.errors import EmptyPrompt, NotFound
from residscope.fields.metrics import LiveMetric
from residscope.session import Session
from residscope.session.from_code import put_edits
from session import worlds

IDS = st.lists(st.integers(0, 3), max_size=12)


def shown(session: Session) -> dict[str, Any]:
    return session.snapshot()[1]


def fewest_changes(to: list[int], source: list[int]) -> int:
    """Levenshtein's recursion, as he wrote it."""

    @functools.cache
    def least(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        kept = least(i - 1, j - 1) + (to[i - 1] != source[j - 1])
        return min(kept, least(i - 1, j) + 1, least(i, j - 1) + 1)

    return least(len(to), len(source))


def test_it_stands_beside_the_prompt_and_starts_no_run(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    live.wait()
    runs = len(shown(live)["runs"])
    live.intent("set_companion", {"text": "abbcd"})
    live.wait()
    companion = shown(live)["companion"]
    assert companion["text"] == "".join(token["text"] for token in companion["tokens"]) == "abbcd"
    ids, own = ([token["id"] for token in shown(live)[part]["tokens"]] for part in ("prompt", "companion"))
    assert [ids[i] for i, _ in companion["pairs"]] == [own[j] for _, j in companion["pairs"]]
    assert len(companion["pairs"]) == 4
    assert len(shown(live)["runs"]) == runs


def test_another_prompt_aligns_it_anew_and_swapping_twice_is_nothing(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    live.intent("set_companion", {"text": "abdd"})
    assert shown(live)["companion"]["pairs"] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    live.intent("set_prompt", {"text": "bdd"})
    assert shown(live)["companion"]["pairs"] == [(0, 1), (1, 2), (2, 3)]
    before = shown(live)
    live.intent("swap_companion")
    assert (shown(live)["prompt"]["text"], shown(live)["companion"]["text"]) == ("abdd", "bdd")
    assert shown(live)["companion"]["pairs"] == [(1, 0), (2, 1), (3, 2)]
    live.intent("swap_companion")
    assert [shown(live)[part] for part in ("prompt", "companion")] == [before[part] for part in ("prompt", "companion")]


def test_it_is_taken_off_and_what_cannot_be_one_is_refused(live: Session) -> None:
    with pytest.raises(NotFound, match="no companion"):
        live.intent("swap_companion")
    live.intent("set_companion", {"text": "abc"})
    with pytest.raises(EmptyPrompt):
        live.intent("set_companion", {"text": ""})
    assert shown(live)["companion"]["text"] == "abc"
    live.intent("set_companion")
    assert shown(live)["companion"] is None


@given(IDS, IDS)
def test_alignment_is_in_order_and_pairs_each_token_once(to: list[int], source: list[int]) -> None:
    pairs = [*align_tokens(to, source).items()]
    assert all(a < b and c < d for (a, c), (b, d) in pairwise(pairs))
    assert align_tokens(to, to) == {i: i for i in range(len(to))}
    exchanged = sum(to[i] != source[j] for i, j in pairs)
    assert exchanged + len(to) - len(pairs) + len(source) - len(pairs) == fewest_changes(to, source)


def test_an_edit_that_is_taken_from_it_names_its_prompt_and_stays(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    patch = {"kind": "patch", "site": "resid_pre.1", "source": {"kind": "companion"}, "align": "tokens"}
    with pytest.raises(NotFound, match="no companion"):
        live.intent("add_edit", {"edit": patch})
    live.intent("set_companion", {"text": "xabbd"})
    live.intent("add_edit", {"edit": patch})
    live.intent("set_companion")
    assert live.wait(60)
    (edit,) = shown(live)["edits"]
    assert edit["source"] == {"kind": "prompt", "text": "xabbd", "bos": None, "edits": [], "ids": None}
    assert edit["error"] is None
    last = live.state.run(live.state.edited).last
    model = live.model
    to, source = model.encode("abcd"), model.encode("xabbd")
    pairs = {0: 1, 1: 2, 2: 3, 3: 4}
    by_hand = model.run([to], edits=[edits.patch("resid_pre.1", [source], align=pairs)])
    assert torch.equal(last, by_hand.logits[0, -1].float())
    assert "align='tokens'" in live.intent("python")["code"]


def test_pairs_from_a_notebook_are_the_pages_own(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    given = edits.patch("resid_pre.1", "xabcd", align={1: 2, 3: 4})
    live.change(lambda state: put_edits(state, [given]), "edits")
    (edit,) = shown(live)["edits"]
    assert (edit["kind"], edit["align"]) == ("patch", [[1, 2], [3, 4]])


def test_a_method_takes_it_as_its_corrupted_prompt(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    live.intent("set_companion", {"text": "abbd"})
    assert live.wait(60)
    args = {"clean": {"kind": "live"}, "corrupted": {"kind": "companion"}, "metric": {"kind": "live"}}
    live.intent("start", {"method": "activation-patching", "args": args, "name": "patched"})
    assert live.wait(60)
    metric = live.state.world().metric(LiveMetric(kind="live"))
    expected = rs.activation_patching(live.model, "abcd", "abbd", metric)
    assert torch.equal(torch.as_tensor(live.items["patched"].values), torch.as_tensor(expected.values))


def test_what_comes_out_of_it_follows_and_is_what_a_run_gives(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    live.intent("set_companion", {"text": "abbd"})
    assert live.wait(60)
    outcome, metric = shown(live)["companion"]["outcome"], shown(live)["metric"]
    with torch.no_grad():
        logits = live.model.hf(torch.tensor([live.model.encode("abbd")])).logits[0, -1].float()
    assert outcome["metric"] == pytest.approx(
        float(logits[metric["positive"]["id"]] - logits[metric["negative"]["id"]]), abs=1e-4
    )
    assert outcome["top"][0]["id"] == int(logits.argmax())
    assert outcome["error"] is None
    live.intent("set_metric", {"positive": "c", "negative": "d"})
    there = shown(live)["companion"]["outcome"]["metric"]
    assert there == pytest.approx(float(logits[live.model.token_id("c")] - logits[live.model.token_id("d")]), abs=1e-4)


def test_after_a_swap_it_is_known_without_another_run() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        session.intent("set_prompt", {"text": "abcd"})
        session.intent("set_companion", {"text": "abbd"})
        assert session.wait(60)
        runs = slow.runs
        session.intent("swap_companion")
        assert shown(session)["companion"]["outcome"] is not None
        assert session.wait(60)
        assert slow.runs == runs + 1  # the new live prompt's own


def test_its_run_becomes_run_a_also_where_it_is_still_to_come() -> None:
    slow = worlds.Slow(worlds.model())
    with worlds.session(slow) as session:
        session.intent("set_prompt", {"text": "abcd"})
        assert session.wait(60)
        slow.gate.clear()
        session.intent("set_companion", {"text": "abbd"})
        before = shown(session)["current"]
        session.intent("compare_companion")
        assert shown(session)["current"] == before
        slow.gate.set()
        assert session.wait(60)
        now = shown(session)
        (run,) = [run for run in now["runs"] if run["id"] == now["current"]["a"]]
        assert (run["prompt"], run["label"], now["current"]["b"]) == ("abbd", "unedited", before["a"])
        assert run["metric"] == now["companion"]["outcome"]["metric"]
        session.query("stream", {"run": run["id"]})
        session.intent("set_companion")
        session.intent("compare_run", {})
        with pytest.raises(NotFound, match="no companion"):
            session.intent("compare_companion")


def test_the_copied_python_runs_it_too(live: Session) -> None:
    live.intent("set_prompt", {"text": "abcd"})
    live.intent("set_companion", {"text": "abbd"})
    assert live.wait(60)
    assert "companion = model.run('abbd')" in live.intent("python")["code"]
