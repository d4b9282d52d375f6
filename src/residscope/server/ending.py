"""Ending: Ctrl-C, or a request to end, stops what runs, and the process is gone within two seconds, whatever it was at."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 1.6  # seconds for what runs to stop by itself
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending(stop: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Until it is left, SIGINT and SIGTERM call `stop`, in a thread of its own, and end the process after GRACE at the latest; a
    second one ends it at once. Gives whether one came. In another than the main thread, which hears no signals, it does nothing.
    """
    told = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:
        if told.is_set():
            os._exit(128 + number)
        told.set()
        threading.Thread(target=stop, name="residscope-ending", daemon=True).start()
        last = threading.Timer(GRACE, leave)
        last.daemon = True
        last.start()

    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    before = {number: signal.signal(number, hear) for number in SIGNALS}
    try:
        yield told.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def at_work() -> bool:
    """Whether a thread of this process is at work still.

    An interpreter that ended in the usual way would end it in the middle of a product of torch's, and abort with
    "terminate called without an active exception".
    """
    return any(thread is not threading.main_thread() for thread in threading.enumerate())


def leave() -> None:
    """End the process now, whatever its threads are at."""
    for child in multiprocessing.active_children():
        child.terminate()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)
