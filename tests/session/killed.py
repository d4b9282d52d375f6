"""Kill -9 a process that puts, renames and deletes, many times, and say what the next one finds: folder, hash, rounds."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from residscope.results import Result
from residscope.shelf.items import ItemShelf, Kept


def work(folder: Path, model: Any, seed: int, begun: int) -> None:
    """Changes without end: `old N` is put, `new N` is what it is renamed to, and every third one is deleted."""
    shelf, draw = ItemShelf(folder), random.Random(seed)
    shelf.open(model)
    for number in range(seed * 1000, seed * 1000 + 1000):
        values = torch.full((draw.randint(1, 20_000),), float(number))
        shelf.put(Kept(f"old {number}", Result(values, ("pos",))))
        shelf.rename(f"old {number}", f"new {number}")
        if number % 3 == 0:
            shelf.delete(f"new {number}")
        os.write(begun, b"!")


def found(folder: Path, model: Any) -> dict[str, Any]:
    """What a new process finds: notices, items that are not what they say or stand twice, files that are of no item."""
    shelf = ItemShelf(folder)
    notices = shelf.open(model)
    numbers = [int(name.split()[1]) for name in shelf.items]
    odd = [name for name, kept in shelf.items.items() if {*kept.item.values.tolist()} != {float(name.split()[1])}]
    place = folder / "items" / model.hash
    files = sorted(file.name for file in place.iterdir() if file.name != ".lock") if place.is_dir() else []
    twice = len(numbers) - len({*numbers})
    return {
        "notices": notices,
        "odd": odd,
        "twice": twice,
        "files": len(files) - 2 * len(numbers),
        "items": len(numbers),
    }


def main(folder: Path, hash: str, rounds: int) -> None:
    """Everything is done in forks: a process that has once run torch's threads cannot be forked."""
    model, draw = SimpleNamespace(hash=hash), random.Random(0)
    for seed in range(1, rounds + 1):
        begun, tell = os.pipe()
        child = os.fork()
        if child == 0:
            work(folder, model, seed, tell)
            os._exit(0)
        for _ in range(draw.randint(1, 2)):  # so many it has done, however busy the machine is
            os.read(begun, 1)
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(begun)
        os.close(tell)
        child = os.fork()
        if child == 0:
            print(json.dumps(found(folder, model)), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
