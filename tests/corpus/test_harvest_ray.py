"""A harvest over a Ray cluster of a head and two workers on the loopback: the same to the bit, through a kill -9 too."""

import os
import signal

import pytest
import torch

import residscope as rs
from corpus.readings import model, texts
from residscope import errors
from residscope.corpus.harvest import cluster
from residscope.corpus.harvest.statistics import MomentsOf, TopTokens

ray = pytest.importorskip("ray")

TEXTS = texts(3, 60)


def harvest(**more):
    wanted = [MomentsOf("resid_post.1"), TopTokens("mlp_post.1", k=4)]
    return rs.harvest(model(), TEXTS, wanted, tokens=10_000, shard=6, progress=more.pop("progress", False), **more)


@pytest.fixture(scope="module")
def address():
    """A head without a processor of its own, and two workers with one each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
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
