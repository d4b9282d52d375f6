"""What is worked out once: by one thread at a time, and the same answer for all."""

import ast
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import residscope
from residscope.corpus.sources import built_in
from residscope.once import once
from residscope.views.drawn import sheet

WORKERS = 8


class Crowd:
    """Counts how many are in a function at one time."""

    def __init__(self, function):
        self.function, self.inside, self.most, self.calls, self.lock = function, 0, 0, 0, threading.Lock()

    def __call__(self, *args, **named):
        with self.lock:
            self.inside, self.calls = self.inside + 1, self.calls + 1
            self.most = max(self.most, self.inside)
        time.sleep(0.002)  # long enough for the others to come in, where nothing keeps them out
        try:
            return self.function(*args, **named)
        finally:
            with self.lock:
                self.inside -= 1


def together(function):
    begin = threading.Barrier(WORKERS)

    def ask(_):
        begin.wait(10)
        return function()

    with ThreadPoolExecutor(WORKERS) as pool:
        return [*pool.map(ask, range(WORKERS))]


def test_what_many_threads_ask_for_is_worked_out_once():
    crowd = Crowd(lambda n: [n])
    asked = once(lambda n: crowd(n))
    found = together(lambda: asked(3))
    assert (crowd.most, crowd.calls) == (1, 1)
    assert all(one is found[0] for one in found)


def test_what_fails_is_asked_again():
    answers = iter([ValueError("not yet"), 2])

    @once
    def ask():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with pytest.raises(ValueError, match="not yet"):
        ask()
    assert ask() == 2


def test_a_corpus_read_by_many_threads_parses_one_file_at_a_time(monkeypatch, tmp_path):
    for i in range(6):
        (tmp_path / f"m{i}.py").write_text(f'"""{"word " * 60}{i}"""')
    crowd = Crowd(ast.parse)
    monkeypatch.setattr(ast, "parse", crowd)
    monkeypatch.setattr(built_in.sysconfig, "get_path", lambda _: str(tmp_path))
    found = together(lambda: [*built_in.python_docs()])
    assert crowd.most == 1
    assert found[0][-6:] == [f"{'word ' * 60}{i}" for i in range(6)]
    assert all(one == found[0] for one in found)


def test_a_font_measures_one_text_at_a_time(monkeypatch):
    crowd = Crowd(sheet.drawable)
    monkeypatch.setattr(sheet, "drawable", crowd)
    texts = [f"text {i} of {'m' * i}" for i in range(12)]
    together(lambda: [sheet.text_width(one, 12.25) for one in texts])
    assert (crowd.most, crowd.calls) == (1, len(texts))


def test_no_module_keeps_what_it_worked_out_without_a_lock_unless_it_is_a_plain_value():
    """Where two threads at once do no harm: the same plain value twice, of the arguments alone."""
    harmless = {"align.py", "certificate.py", "memory.py", "passes.py", "versions.py", "once.py", "kept.py"}
    source = Path(residscope.__file__).parent
    files = {file.name for file in source.rglob("*.py") if "from functools import cache\n" in file.read_text()}
    files |= {file.name for file in source.rglob("*.py") if "lru_cache" in file.read_text()}
    assert files <= harmless
