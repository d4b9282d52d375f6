"""Readers of files of our own: items, and what a long run leaves to go on from."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import residscope as rs
from hostile.whole import Files, Reader, folder_of, model
from residscope import directions, edits
from residscope.corpus.harvest.checkpoint import Checkpoint
from residscope.corpus.harvest.statistics.store import LISTS, FeatureStore
from residscope.corpus.sources.ids import Ids, Shard, _file, _loaded
from residscope.sae.training import checkpoint

EYE = torch.eye(3, 16)


def item(make: Callable[[Path], Any], ending: str = "safetensors") -> Callable[[], Files]:
    def files() -> Files:
        return folder_of(lambda folder: make(folder / f"it.{ending}"))

    return files


def _result(path: Path) -> None:
    rs.Result(torch.tensor([[0.0, 1.5]]), ("layer", "pos"), low=torch.zeros(1, 2), high=torch.ones(1, 2)).save(path)


def _direction() -> rs.Direction:
    return rs.Direction(EYE[0], EYE[1], "resid_pre.1", name="some", provenance={"of": [1, {"a": None}]})


def _dictionary() -> rs.Dictionary:
    return rs.Dictionary("some", "resid_pre.1", EYE, EYE * 2, torch.zeros(16), sd=torch.ones(3), names=("a", "b", "c"))


def _edits() -> list[Any]:
    steer = edits.steer("resid_pre.1", _direction(), 2.0)
    return [edits.scale("z.1", 2.0, head=1), steer, edits.noise("embed", 0.1), edits.ablate("z.0", torch.ones(8))]


def _load_item(folder: Path) -> Any:
    return rs.load_item(folder / "it.safetensors", model())


def _graph(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rs.causal_graph(model(), "the store", _dictionary(), tokens=1).save(path)


HARVEST = {"model": "tiny", "sizes": {"tokens": 8}}
TRAINING = {"site": "resid_post.0", "seed": 0}


def _feature_store() -> Files:
    """Two features, which fire at four of six tokens."""
    lists = {
        "token": [0, 3, 1, 5],
        "activation": [1, 2, 3, 4],
        "ids": [7, 8, 9, 7, 8, 9],
        "starts": [0, 3],
        "offsets": [0, 2, 4],
    }
    sizes = {name: len(held) for name, held in lists.items()}
    told = {"place": "sae@resid_post.0", "features": 2, "rows": 4, "tokens": 6, "sizes": sizes}

    def write(folder: Path) -> None:
        for name, held in lists.items():
            np.save(folder / f"{name}.npy", np.array(held, dtype=LISTS[name]))
        (folder / "store.json").write_text(json.dumps(told))

    return folder_of(write)


def _read_store(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.of(0)
    store.context(int(store.of(0)[0][0]))


def _training() -> Files:
    return folder_of(lambda folder: checkpoint.write(folder, TRAINING, {"W_dec": EYE}, {"step": 3}))


def _ids(path: Path) -> None:
    shard = Shard()
    shard.add(Ids([5, 6, 7], 12, 0, {"kind": "a"}))
    shard.last = True
    shard.write(path)


RESULT = item(_result)
OWN = {
    "a result": Reader(RESULT, _load_item, sealed=True),
    "a direction": Reader(item(lambda path: _direction().save(path)), _load_item),
    "a dictionary": Reader(item(lambda path: _dictionary().save(path)), _load_item, sealed=True),
    "dictionaries": Reader(item(lambda path: directions.save(path, _dictionary(), model())), _load_item, sealed=True),
    "prompts": Reader(item(lambda path: rs.PromptSet(("the store", "to")).save(path)), _load_item, sealed=True),
    "a recording": Reader(
        item(lambda path: rs.save_recording(model().run([1, 5, 6], ["z"], edits=_edits()[:2]), path)),
        _load_item,
        sealed=True,
    ),
    "a file of edits": Reader(
        item(lambda path: edits.save(path, _edits())),
        lambda folder: edits.load(folder / "it.safetensors"),
        sealed=True,
    ),
    "edits as JSON": Reader(
        lambda: {"it.json": edits.to_json(_edits()).encode()},
        lambda folder: edits.from_json((folder / "it.json").read_text("utf-8", "surrogateescape")),
        held=True,
    ),
    "a graph": Reader(item(_graph, "json"), lambda folder: rs.load_item(folder / "it.json")),
    "a store of features": Reader(_feature_store, _read_store),
    "a harvest begun": Reader(
        lambda: {"harvest.json": json.dumps(HARVEST).encode()}, lambda folder: Checkpoint(folder, HARVEST)
    ),
    "a training begun": Reader(_training, lambda folder: checkpoint.read(folder, TRAINING), sealed=True),
    "ids kept": Reader(
        lambda: folder_of(lambda folder: _ids(_file(folder, 0))), lambda folder: _loaded(folder, 0), sealed=True
    ),
}
