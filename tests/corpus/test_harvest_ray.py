"""A harvest over a Ray cluster of a head and two workers on the loopback: the same to the bit, through a kill -9 too."""

import os
import signal
import subprocess
import sys

import pytest
import torch

import residscope as rs
from corpus.readings import model, texts
from residscope import errors
from residscope.corpus.harvest import cluster
from residscope.corpus.harvest.statistics import MomentsOf, TopTokens

ray = pytest.importorskip("ray")

TEXTS = texts(3, 60)
PATIENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": "120"}


def harvest(**more):
    wanted = [MomentsOf("resid_post.1"), TopTokens("mlp_post.1", k=4)]
    return rs.harvest(model(), TEXTS, wanted, tokens=10_000, shard=6, progress=more.pop("progress", False), **more)


@pytest.fixture(scope="module")
def address():
    """A head without a processor of its own, and two workers with one each."""
    os.environ |= PATIENT
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 1 << 27}
    one = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    try:
        for _ in range(2):
            one.add_node(num_cpus=1, **small)
        assert one.address.startswith("127.0.0.1:") or os.environ.get("RAY_NODE_IP") is None
        yield one.address
    finally:
        ray.shutdown()
        one.shutdown()


def test_actors_give_the_same_to_the_bit_also_when_one_is_killed(address, tmp_path, monkeypatch):
    """kill -9 of the process of one actor, by its pid, once two shards are done; its shard is read by another."""
    pools, killed = [], []
    start = cluster.Cluster.__init__

    def remembered(self, *rest, **named):
        start(self, *rest, **named)
        pools.append(self)

    monkeypatch.setattr(cluster.Cluster, "__init__", remembered)

    def progress(what, done, total):
        if not killed and len([*tmp_path.glob("out/shard-*")]) >= 2:
            killed.append(ray.get(pools[0].actors[0].pid.remote()))
            os.kill(killed[0], signal.SIGKILL)

    threads = torch.get_num_threads()
    found = harvest(ray=address, processes=2, threads=threads, folder=tmp_path / "out", progress=progress)
    assert found == harvest()
    assert len(killed) == 1
    assert not ray.is_initialized()
    assert len([*tmp_path.glob("out/shard-*")]) == 10


HEAD_KILLED = """
import os, signal, sys
sys.path[:0] = {paths}
from ray.cluster_utils import Cluster
small = {{"object_store_memory": 1 << 27}}
one = Cluster(initialize_head=True, head_node_args={{"num_cpus": 0, "include_dashboard": False, **small}})
one.add_node(num_cpus=1, **small)
one.add_node(num_cpus=1, **small)
from corpus.test_harvest_ray import harvest
killed = []
def progress(what, done, total):
    if not killed and len([name for name in os.listdir(sys.argv[1]) if name.startswith("shard-")]) >= 2:
        for processes in one.head_node.all_processes.values():
            for each in processes:
                killed.append(each.process.pid)
                os.kill(each.process.pid, signal.SIGKILL)
        print("killed", len(killed), flush=True)
try:
    harvest(ray=one.address, processes=2, threads=1, folder=sys.argv[1], progress=progress)
finally:
    print("over", flush=True)
    for node in one.worker_nodes:
        node.kill_all_processes(check_alive=False, allow_graceful=False)
    os._exit(0)
"""


def test_a_head_that_is_killed_costs_what_was_under_way(tmp_path):
    """kill -9 of all processes of the head. Whether Ray goes on, raises or hangs, what was finished is kept, and used."""
    script, out = tmp_path / "harvest.py", tmp_path / "out"
    out.mkdir()
    script.write_text(HEAD_KILLED.format(paths=[path for path in sys.path if "tests" in path or path.endswith("src")]))
    environment = {**os.environ, **PATIENT, "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    process = subprocess.Popen([sys.executable, str(script), str(out)], env=environment, start_new_session=True)
    try:
        process.wait(240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shard-*")}
    assert len(before) >= 2
    assert harvest(folder=out) == harvest()
    assert all((out / name).stat().st_mtime_ns == when for name, when in before.items()), "nothing is read twice"


def test_no_cluster_is_said(monkeypatch):
    def init(**_):
        raise ConnectionError("nobody listens")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(errors.HarvestError, match="no Ray cluster answers"):
        harvest(ray="127.0.0.1:9")


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(errors.MissingExtra, match=r"residscope\[ray\]"):
        harvest(ray="local")
