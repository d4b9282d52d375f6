"""A harvest over processes, from a checkpoint, through what goes wrong: the same to the bit, no work lost twice."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

import residscope as rs
from corpus.readings import model, texts
from residscope import errors, files
from residscope.corpus.harvest import checkpoint, copies, mapping, run, workers
from residscope.corpus.harvest.statistics import FeatureStore, MomentsOf, StoreFeatures, TopTokens

TEXTS = texts(3, 60)
SHARD = 6


def statistics():
    return [MomentsOf("resid_post.1"), TopTokens("mlp_post.1", k=4), StoreFeatures("mlp_post.1")]


def harvest(folder, **more):
    given = {"tokens": 10_000, "shard": SHARD, "progress": False} | more
    return rs.harvest(model(), given.pop("texts", TEXTS), given.pop("statistics", statistics()), folder=folder, **given)


@cache
def whole():
    import tempfile

    return harvest(Path(tempfile.mkdtemp()) / "whole")


def same(found):
    """All of it but where it lies."""
    for name, result in whole().results.items():
        if isinstance(result, FeatureStore):
            for feature in (0, 5, 47):
                for a, b in zip(result.of(feature), found[name].of(feature), strict=True):
                    assert a.tobytes() == b.tobytes()
        else:
            assert found[name] == result, name
    assert found.used == whole().used
    assert found.provenance == whole().provenance


def count(folder):
    return len([*Path(folder).glob("shard-*.safetensors")])


SHARDS = -(-len(TEXTS) // SHARD)


# ── from a checkpoint ───────────────────────────────────────────────────────────────────────────────────────


def test_a_harvest_that_is_stopped_goes_on_from_its_last_shard(tmp_path, monkeypatch):
    whole()
    with pytest.raises(errors.Cancelled):
        harvest(tmp_path / "out", cancel=lambda: count(tmp_path / "out") >= 3)
    assert count(tmp_path / "out") == 3
    made = []
    read = run.read_shard
    monkeypatch.setattr(
        run,
        "read_shard",
        lambda model, shard, *rest, **named: made.append(shard.number) or read(model, shard, *rest, **named),
    )
    same(harvest(tmp_path / "out"))
    assert made == [*range(3, SHARDS)]
    made.clear()
    same(harvest(tmp_path / "out"))
    assert made == []


def test_a_damaged_partial_is_made_again(tmp_path):
    harvest(tmp_path / "out")
    first, second = (tmp_path / "out" / f"shard-{n:06d}.safetensors" for n in (2, 4))
    content = bytearray(first.read_bytes())
    content[-100] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:1000])
    same(harvest(tmp_path / "out"))
    assert count(tmp_path / "out") == SHARDS


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"tokens": 900}, "its tokens differ"),
        ({"shard": 3}, "its shard differ"),
        ({"statistics": [MomentsOf("resid_post.2")]}, "its statistics differ"),
        ({"statistics": [MomentsOf("resid_post.1"), TopTokens("mlp_post.1", k=5)]}, "its statistics differ"),
        ({"texts": [*TEXTS[:3], "another text of some length", *TEXTS[4:]]}, "the text is another one"),
        ({"length": 32}, "its length differ"),
    ],
)
def test_a_folder_of_another_harvest_is_refused_by_what_differs(tmp_path, changed, words):
    harvest(tmp_path / "out", tokens=500)
    with pytest.raises(errors.OtherHarvest, match=words):
        harvest(tmp_path / "out", **{"tokens": 500, **changed})


def test_a_folder_of_another_models_harvest_is_refused(tmp_path):
    from tiny_models import tiny_llama

    harvest(tmp_path / "out", tokens=500)
    other = rs.load((tiny_llama(seed=5), model().tokenizer))
    with pytest.raises(errors.OtherHarvest, match="its model differ"):
        rs.harvest(other, TEXTS, statistics(), tokens=500, shard=SHARD, folder=tmp_path / "out")


def test_a_folder_with_something_else_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("-")
    with pytest.raises(errors.OtherHarvest, match="no harvest's"):
        harvest(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_said_and_leaves_whole_files(tmp_path, monkeypatch):
    """The third partial does not fit; nothing of it is left, and the harvest goes on once there is room."""
    write, calls = files.write_told, []

    def full(path, *rest):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *rest)

    monkeypatch.setattr(files, "write_told", full)
    with pytest.raises(errors.HarvestNotWritten, match="No space left"):
        harvest(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "harvest.json", "shard-000000.safetensors", "shard-000001.safetensors",
    ]  # fmt: skip
    same(harvest(tmp_path / "out"))


@pytest.mark.skipif(not Path("/dev/shm").is_dir() or os.geteuid() != 0, reason="needs a small disk of its own")
def test_a_disk_that_is_really_full(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        with pytest.raises(errors.HarvestNotWritten):
            harvest(disk / "out")
        assert not [path for path in (disk / "out").iterdir() if path.name.startswith(".")]
        for path in (disk / "out").glob("shard-*"):
            files.read_tensors(path, checkpoint.KIND)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# ── over processes ──────────────────────────────────────────────────────────────────────────────────────────


def test_two_processes_and_one_killed_in_the_middle_give_the_same_to_the_bit(tmp_path, monkeypatch):
    """kill -9 of one process by its pid, once two shards are done: another takes its place."""
    pools, killed = [], []
    start = workers.Processes.__init__

    def remembered(self, *rest, **named):
        start(self, *rest, **named)
        pools.append(self)

    monkeypatch.setattr(workers.Processes, "__init__", remembered)

    def progress(what, done, total):
        ready = [w for w in pools[0].workers if w.ready and w.given] if pools else []
        if ready and not killed and count(tmp_path / "out") >= 2:
            killed.append(ready[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

    same(harvest(tmp_path / "out", processes=2, threads=torch.get_num_threads(), progress=progress))
    assert len(killed) == 1
    assert killed[0] not in pools[0].pids
    assert count(tmp_path / "out") == SHARDS


class Stub:
    """A process that is a thread: so that what ends it can be chosen, and nothing is imported anew."""

    pid, exitcode = 0, -9

    def __init__(self, target, args, daemon):
        own = Connection(os.dup(args[0].fileno()))
        self.thread = threading.Thread(target=target, args=(own, *args[1:]), daemon=daemon)
        self.start, self.join, self.is_alive = self.thread.start, lambda timeout=None: None, lambda: False

    def terminate(self): ...


@pytest.fixture
def stubs(monkeypatch):
    """What to put in the place of `workers.serve`, in processes that are threads."""
    monkeypatch.setattr(multiprocessing.get_context("spawn").__class__, "Process", Stub)
    return lambda serve: monkeypatch.setattr(workers, "serve", serve)


def test_a_shard_that_ends_every_process_is_named(tmp_path, stubs):
    """A planted fault: whoever is given shard 2 is gone."""

    def serve(connection, weights, told, statistics, folder, batch, threads):
        connection.send(("ready",))
        with suppress(EOFError, OSError):
            while sent := connection.recv():
                shard = mapping.Shard(*sent)
                if shard.number == 2:
                    connection.close()
                    return
                checkpoint.Checkpoint(folder).write(shard, mapping.read_shard(model(), shard, statistics))
                connection.send(("done", shard.number))

    stubs(serve)
    with pytest.raises(errors.WorkerLost, match=r"3 processes ended at shard 2 without a word.*killed"):
        harvest(tmp_path / "out", processes=2)


def test_processes_that_never_start_are_said(tmp_path, stubs):
    stubs(lambda connection, *rest: connection.close())
    with pytest.raises(errors.WorkerLost, match="3 processes ended at the start"):
        harvest(tmp_path / "out", processes=2)


def test_what_a_process_fails_of_is_raised_here(tmp_path, stubs):
    def serve(connection, *rest):
        with suppress(EOFError, OSError):
            connection.send(("ready",))
            connection.recv()
            connection.send(("failed", "HarvestNotWritten", "no room", None, None, None))
            connection.recv()

    stubs(serve)
    with pytest.raises(errors.HarvestNotWritten, match="no room"):
        harvest(tmp_path / "out", processes=2)


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_computes_the_same_to_the_bit_and_leaves_the_model_as_it_was(tmp_path, tied):
    from tiny_models import tiny_gpt2

    one = rs.load((tiny_gpt2(tied=tied), model().tokenizer))
    version, fingerprint = one.weights_version(), one.fingerprint()
    copy = copies.open_model(tmp_path, copies.save_model(one, tmp_path))
    ids = [[*range(2, 40)], [*range(50, 88)]]
    for site, x in one.run(ids).held.items():
        assert torch.equal(x, copy.run(ids)[site]), site
    assert torch.equal(one.run(ids).logits, copy.run(ids).logits)
    assert (one.weights_version(), one.fingerprint()) == (version, fingerprint)


def test_a_copy_that_computes_something_else_is_refused(tmp_path):
    told = copies.save_model(model(), tmp_path)
    told["values"][3] *= 1.01
    with pytest.raises(errors.HarvestError, match="computes something else"):
        copies.open_model(tmp_path, told)


KILLED = """
import sys
sys.path[:0] = {paths}
import residscope as rs
from corpus.readings import model, texts
from residscope.corpus.harvest.statistics import *
rs.harvest(model(), texts(3, 60), [MomentsOf("resid_post.1"), TopTokens("mlp_post.1", k=4), StoreFeatures("mlp_post.1")],
    tokens=10_000, shard=6, folder=sys.argv[1], progress=lambda what, done, total: print(done, flush=True))
"""


def test_a_harvest_that_is_killed_goes_on_where_it_was(tmp_path):
    """kill -9 of the process that harvests, while it reads."""
    script = tmp_path / "harvest.py"
    script.write_text(KILLED.format(paths=[path for path in sys.path if "tests" in path or path.endswith("src")]))
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    while count(tmp_path / "out") < 2 and process.poll() is None:
        process.stdout.readline()
    process.kill()
    process.wait()
    done = count(tmp_path / "out")
    assert 2 <= done < SHARDS
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("shard-*")}
    same(harvest(tmp_path / "out"))
    assert all(path.stat().st_mtime_ns == when for path, when in before.items()), "what was done is not done again"


def test_a_store_is_whole_or_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(StoreFeatures, "_fill", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(errors.HarvestNotWritten, match="full"):
        harvest(tmp_path / "out")
    assert not [path for path in (tmp_path / "out").iterdir() if "store" in path.name]
    monkeypatch.undo()
    same(harvest(tmp_path / "out"))


def test_a_shard_knows_its_rows():
    one = mapping.Shard(0, 0, 0, [[1, 2, 3]])
    assert one.digest == mapping.Shard(7, 0, 0, [[1, 2, 3]]).digest
    for other in ([[1, 2], [3]], [[1, 2, 4]], [[3, 2, 1]]):
        assert mapping.Shard(0, 0, 0, other).digest != one.digest
