"""Progress: a bar where somebody is watching, a function where somebody asked for one."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], object] | bool | None


@contextmanager
def shown(progress: Progress, total: int, what: str) -> Iterator[Callable[[int], object]]:
    """A function to be told how much is done. True: a bar; None: a bar in a terminal or notebook; False: nothing."""
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    if progress is False or (progress is None and not _watched()):
        yield lambda done: None
        return
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, desc=what, leave=False) as bar:
        yield lambda done: bar.update(done - bar.n)


def _watched() -> bool:
    return sys.stderr.isatty() or "ipykernel" in sys.modules
