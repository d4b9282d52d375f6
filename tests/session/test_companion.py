"""The companion: the prompt beside the live one, aligned with it token by token."""

import functools
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residscope.edits.align import by_tokens
from residscope.errors import EmptyPrompt, NotFound
from residscope.session import Session

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
    pairs = [*by_tokens(to, source).items()]
    assert all(a < b and c < d for (a, c), (b, d) in pairwise(pairs))
    assert by_tokens(to, to) == {i: i for i in range(len(to))}
    exchanged = sum(to[i] != source[j] for i, j in pairs)
    assert exchanged + len(to) - len(pairs) + len(source) - len(pairs) == fewest_changes(to, source)
