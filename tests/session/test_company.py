"""Prompts that several people wait for: run together where they are of one length, and to each as if run alone."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from residscope.errors import Cancelled, PromptError
from residscope.session.read.company import Company
from residscope.session.read.prompt_page import Recorded, record
from residscope.world.loaded import Loaded
from residscope.world.values import Prompt
from session import worlds


@pytest.fixture
def loaded() -> Loaded:
    return Loaded.of(worlds.model())


class Asking:
    """Threads that ask for a prompt each, one pass at a time; the first pass begins once all of them wait."""

    def __init__(self, loaded: Loaded, texts: Sequence[str], tokens: int = 256) -> None:
        self.loaded, self.prompts = loaded, [loaded.prompt(text) for text in texts]
        self.company: Company[Recorded] = Company(tokens)
        self.turn, self.all_wait = threading.Lock(), threading.Barrier(len(texts))
        self.passes: list[list[Prompt]] = []

    def run(self, prompts: Sequence[Prompt]) -> Sequence[Recorded]:
        self.passes.append([*prompts])
        return record(self.loaded, prompts, turn=lambda done: None)

    def one(self, prompt: Prompt) -> Recorded | BaseException:
        with self.company.asking(self.loaded.model, [prompt]) as mine:
            self.all_wait.wait(30)
            with self.turn:
                missing = [] if prompt.ids in mine.found else [prompt]
                try:
                    found = mine.found | self.company.run(mine, missing, self.run)
                except BaseException as error:
                    return error
                return found[prompt.ids]

    def all(self) -> list[Recorded | BaseException]:
        with ThreadPoolExecutor(len(self.prompts)) as threads:
            return list(threads.map(self.one, self.prompts))


TEXTS = [f"a {word} sat" for word in ("cat", "dog", "hen", "fox", "cat")]


def test_those_of_one_length_need_one_pass_and_give_what_each_gives_alone(loaded: Loaded) -> None:
    asking = Asking(loaded, [*TEXTS, "a much longer prompt than those"])
    found = asking.all()
    by_length = {len(prompt.tokens) for prompt in asking.prompts}
    assert len(asking.passes) == len(by_length) < len(found)
    for prompt, got in zip(asking.prompts, found, strict=True):
        (alone,) = record(loaded, [prompt], turn=lambda done: None)
        assert isinstance(got, Recorded)
        assert got.prompt.ids == prompt.ids
        torch.testing.assert_close(got.rows, alone.rows, rtol=1e-5, atol=1e-5)
        assert torch.equal(got.next_id, alone.next_id)


def test_a_pass_is_as_long_as_it_would_be_alone(loaded: Loaded) -> None:
    asking = Asking(loaded, TEXTS[:4], tokens=2 * len(loaded.prompt(TEXTS[0]).tokens))
    asking.all()
    assert [len(prompts) for prompts in asking.passes] == [2, 2]


def test_what_cannot_be_run_is_refused_to_who_asked_for_it_alone(loaded: Loaded) -> None:
    asking = Asking(loaded, TEXTS[:4])
    bad = asking.prompts[2].ids

    def run(prompts: Sequence[Prompt], good=asking.run) -> Sequence[Recorded]:
        if any(prompt.ids == bad for prompt in prompts):
            raise PromptError("that one")
        return good(prompts)

    asking.run = run  # type: ignore[method-assign]
    found = asking.all()
    assert [isinstance(got, PromptError) for got in found] == [False, False, True, False]
    assert all(isinstance(got, Recorded) for i, got in enumerate(found) if i != 2)


def test_who_leaves_takes_nobody_along(loaded: Loaded) -> None:
    asking = Asking(loaded, TEXTS[:4])
    left: list[Prompt] = []

    def run(prompts: Sequence[Prompt], stays=asking.run) -> Sequence[Recorded]:
        if not left:
            left.append(prompts[0])
            raise Cancelled("nobody waits")
        return stays(prompts)

    asking.run = run  # type: ignore[method-assign]
    found = asking.all()
    for prompt, got in zip(asking.prompts, found, strict=True):
        assert isinstance(got, Cancelled if prompt is left[0] else Recorded)
