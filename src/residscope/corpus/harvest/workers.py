"""Shards over local processes: each writes its partials to the folder itself; one that dies loses the shard that it was at."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from residscope import errors
from residscope.corpus.harvest.checkpoint import Checkpoint
from residscope.corpus.harvest.copies import open_model, save_model
from residscope.corpus.harvest.mapping import read_shard
from residscope.corpus.harvest.shards import Shard
from residscope.corpus.harvest.statistics.base import Statistic
from residscope.engine.model import Model
from residscope.errors import HarvestError, ResidscopeError, WorkerLost
from residscope.progress import Tell

AHEAD = 2  # shards that a process is given: the one it is at, and the next
TRIES = 3  # processes that one shard, or a start, may end
ASK = 0.1  # seconds between two looks at whether to stop


def serve(
    connection: Connection, weights: str, told: dict[str, Any], statistics: Sequence[Statistic], folder: str, batch: int,
    threads: int,
) -> None:  # fmt: skip
    """What a process does: reads the shards that it is sent until there is nothing more, or nobody who sends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    checkpoint = Checkpoint(folder)
    try:
        model = open_model(Path(weights), told)
        connection.send(("ready",))
        while (sent := connection.recv()) is not None:
            shard = Shard(*sent)

            def read(tokens: int, number: int = shard.number) -> None:
                connection.send(("read", number, tokens))

            checkpoint.write(shard, read_shard(model, shard, statistics, batch=batch, read=read))
            connection.send(("done", shard.number))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except ResidscopeError as error:
        connection.send(("failed", type(error).__name__, error.failed, error.received, error.allowed, error.fix))
    except Exception as error:
        connection.send(
            ("failed", "HarvestError", f"a process failed: {type(error).__name__}: {error}", None, None, None)
        )


class Worker:
    """One process, and the shards that it was given and has not finished."""

    def __init__(self, start: Callable[[Connection], Any]) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self.process = start(theirs)
        theirs.close()
        self.given: deque[Shard] = deque()
        self.ready = False

    def give(self, shard: Shard) -> None:
        self.given.append(shard)
        self.connection.send((shard.number, shard.first, shard.token, shard.rows))

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class Processes:
    """Local processes with a copy of the model each. `pids`: of those at work."""

    def __init__(
        self, model: Model, statistics: Sequence[Statistic], checkpoint: Checkpoint, weights: Path, *, count: int,
        batch: int, threads: int,
    ) -> None:  # fmt: skip
        context = multiprocessing.get_context("spawn")
        told = save_model(model, weights)
        arguments = (str(weights), told, tuple(statistics), str(checkpoint.folder), batch, threads)

        def start(theirs: Connection) -> Any:
            process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
            process.start()
            return process

        self._start, self.count = start, count
        self.workers: list[Worker] = []
        self._deaths: dict[int, int] = {}

    @property
    def pids(self) -> list[int]:
        return [worker.process.pid for worker in self.workers]

    def read(self, todo: Iterator[Shard], read: Callable[[int, int], object], tell: Tell) -> Iterator[Shard]:
        """Each shard once its partial is written, in any order. read: told (number of the shard, tokens of it read).

        Raises WorkerLost; what a process says that it failed of; what `tell` raises.
        """
        back: deque[Shard] = deque()
        try:
            while True:
                while len(self.workers) < self.count:
                    self.workers.append(Worker(self._start))
                for worker in self.workers:
                    while len(worker.given) < AHEAD and (shard := back.popleft() if back else next(todo, None)):
                        self._give(worker, shard)
                if not any(worker.given for worker in self.workers):
                    return
                tell()
                for connection in wait([worker.connection for worker in self.workers], ASK):
                    worker = next(w for w in self.workers if w.connection is connection)
                    try:
                        yield from self._heard(worker, read)
                    except (EOFError, ConnectionResetError):
                        back.extend(self._buried(worker))
        finally:
            for worker in self.workers:
                worker.stop()
            self.workers = []

    def _give(self, worker: Worker, shard: Shard) -> None:
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # it has died: its end of the pipe says so at the next look
            worker.give(shard)

    def _heard(self, worker: Worker, read: Callable[[int, int], object]) -> Iterator[Shard]:
        what, *rest = worker.connection.recv()
        if what == "ready":
            worker.ready = True
        elif what == "read":
            read(*rest)
        elif what == "done":
            yield worker.given.popleft()
        else:
            name, failed, received, allowed, fix = rest
            raise getattr(errors, name, HarvestError)(failed, received=received, allowed=allowed, fix=fix)

    def _buried(self, worker: Worker) -> list[Shard]:
        """The shards that a process which died had not finished. Raises WorkerLost where others died of the same."""
        worker.process.join(5)
        self.workers.remove(worker)
        worker.connection.close()
        left = list(worker.given)
        at = left[0].number if worker.ready and left else -1
        self._deaths[at] = self._deaths.get(at, 0) + 1
        if self._deaths[at] >= TRIES:
            where = f"shard {at}" if at >= 0 else "the start"
            raise WorkerLost(
                f"{TRIES} processes ended at {where} without a word",
                received=f"exit code {worker.process.exitcode}"
                + (" (killed)" if worker.process.exitcode == -9 else ""),
                fix="give them more memory: fewer processes, or a smaller batch",
            )
        return left
