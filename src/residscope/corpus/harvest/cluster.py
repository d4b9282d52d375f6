"""Shards over a Ray cluster: actors read them and send partials back, which are written where the harvest was asked for."""

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from residscope import errors
from residscope.corpus.harvest.checkpoint import Checkpoint, flat, named, unflat
from residscope.corpus.harvest.copies import open_model, save_model
from residscope.corpus.harvest.mapping import read_shard
from residscope.corpus.harvest.shards import Shard
from residscope.corpus.harvest.statistics.base import Statistic
from residscope.corpus.harvest.workers import ASK, TRIES
from residscope.engine.model import Model
from residscope.errors import HarvestError, MissingExtra, ResidscopeError, WorkerLost
from residscope.progress import Tell

LOCAL = "local"


def ray_module() -> Any:
    """Raises MissingExtra."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("a cluster needs Ray", received="ray=", fix="`pip install residscope[ray]`") from error
    return ray


@contextmanager
def connected(address: str, count: int) -> Iterator[Any]:
    """Ray, joined to a cluster (or to one of this machine's own, for "local"); left as it was where it was joined already.

    Raises MissingExtra; HarvestError where no cluster answers.
    """
    ray = ray_module()
    if ray.is_initialized():
        yield ray
        return
    own = {"num_cpus": count, "include_dashboard": False, "object_store_memory": 1 << 28} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HarvestError(
            f"no Ray cluster answers: {str(error)[:200]}", received=f"ray={address!r}",
            allowed='"auto", "local", or the address of a head', fix="`ray start --head` on one machine",
        ) from error  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()


class Reader:
    """An actor: a copy of the model, out of the object store."""

    def __init__(
        self, files: dict[str, Any], told: dict[str, Any], statistics: Sequence[Statistic], batch: int, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content.tobytes())
            self.model = open_model(Path(folder), told)
        self.statistics, self.batch = statistics, batch

    def pid(self) -> int:
        return os.getpid()

    def read(self, number: int, first: int, token: int, rows: list[list[int]]) -> tuple[str, Any]:
        """("done", the partials as a safetensors file's bytes), or ("failed", an error's name and words)."""
        from safetensors.torch import save

        from residscope.files import unshared

        try:
            partials = read_shard(self.model, Shard(number, first, token, rows), self.statistics, batch=self.batch)
        except ResidscopeError as error:
            return "failed", (type(error).__name__, error.failed, error.received, error.allowed, error.fix)
        return "done", save(unshared(flat(partials)))


class Cluster:
    """Actors of a Ray cluster, `count` of them."""

    def __init__(
        self, ray: Any, model: Model, statistics: Sequence[Statistic], checkpoint: Checkpoint, weights: Path, *,
        count: int, batch: int, threads: int,
    ) -> None:  # fmt: skip
        told = save_model(model, weights)
        files = {path.name: np.fromfile(path, dtype=np.uint8) for path in weights.iterdir() if path.is_file()}
        arguments = (ray.put(files), told, tuple(statistics), batch, threads)
        needs = {"num_gpus": 1} if model.device.type == "cuda" else {}
        kind = ray.remote(num_cpus=1, max_restarts=0, **needs)(Reader)
        self.ray, self.statistics, self.checkpoint, self.count = ray, statistics, checkpoint, count
        self._start: Callable[[], Any] = partial(kind.remote, *arguments)
        self.actors: list[Any] = []
        self._deaths: dict[int, int] = {}

    def read(self, todo: Iterator[Shard], read: Callable[[int, int], object], tell: Tell) -> Iterator[Shard]:
        """As `workers.Processes.read`."""
        from safetensors.torch import load

        back: deque[Shard] = deque()
        under: dict[Any, tuple[Any, Shard]] = {}
        idle: deque[Any] = deque()
        lost = (self.ray.exceptions.RayActorError, self.ray.exceptions.WorkerCrashedError)
        try:
            while True:
                while len(self.actors) < self.count:
                    self.actors.append(self._start())
                    idle.append(self.actors[-1])
                while idle and (shard := back.popleft() if back else next(todo, None)):
                    actor = idle.popleft()
                    under[actor.read.remote(shard.number, shard.first, shard.token, shard.rows)] = actor, shard
                if not under:
                    return
                tell()
                ready, _ = self.ray.wait(list(under), timeout=ASK)
                for ref in ready:
                    actor, shard = under.pop(ref)
                    try:
                        what, sent = self.ray.get(ref)
                    except lost as error:
                        self.actors.remove(actor)
                        back.append(self._again(shard, error))
                        continue
                    if what == "failed":
                        name, failed, received, allowed, fix = sent
                        raise getattr(errors, name, HarvestError)(failed, received=received, allowed=allowed, fix=fix)
                    idle.append(actor)
                    self.checkpoint.write(shard, named(unflat(load(sent)), self.statistics))
                    read(shard.number, shard.tokens)
                    yield shard
        except self.ray.exceptions.RayError as error:
            words = str(error)[:400]
            raise HarvestError(f"the cluster failed: {words}", fix="harvest again: finished shards are kept") from error
        finally:
            for actor in self.actors:
                self.ray.kill(actor)
            self.actors = []

    def _again(self, shard: Shard, error: Exception) -> Shard:
        self._deaths[shard.number] = self._deaths.get(shard.number, 0) + 1
        if self._deaths[shard.number] >= TRIES:
            raise WorkerLost(f"{TRIES} actors ended at shard {shard.number}", received=str(error)[:200])
        return shard
