"""Some causal types by RESIDSCOPE_SEED: found by looking, certified, and their runs held to every property."""

import os
import random
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import residscope as rs
from residscope import edits
from residscope.engine.planner.sweep import Sweep
from residscope.engine.tried import found
from residscope.model import tiny
from served.__main__ import widened
from served.page import page, read
from served.properties import PROPERTIES, ROWS, LastLogits, error, held

ROOT = Path(__file__).parents[2]
TOLD = read(ROOT / "docs" / "families-found.json")
SERVED = sorted({row["type"] for row in TOLD["rows"] if row["served"]})
PEERS = 100
DRAWN, FED = 4, "zamba"


def drawn() -> list[tuple[str, str]]:
    """A type whose later positions run whole, and others, each in one of its variants."""
    draw = random.Random(os.environ.get("RESIDSCOPE_SEED"))
    whole = sorted({row["type"] for row in TOLD["rows"] if row["served"] and row["whole"]})
    kinds = [draw.choice(whole), *draw.sample(SERVED, DRAWN - 1)]
    return [
        (kind, draw.choice([r["variant"] for r in TOLD["rows"] if r["type"] == kind and r["served"]])) for kind in kinds
    ]


def model_of(kind: str, variant: str = "default"):
    return found(tiny.build(tiny.variants(kind)[variant], dtype=torch.float32), kind)[0]


def test_a_draw_of_types_is_served_and_holds_every_property():
    seed = os.environ.get("RESIDSCOPE_SEED", "")
    for kind, variant in drawn():
        model = model_of(kind, variant)
        assert {"resid_pre", "resid_post"} <= {*model.sites.names}
        broken = {name: why for name, (_, why) in held(widened(model), f"{seed} {kind}").items() if why is not None}
        assert not broken, f"RESIDSCOPE_SEED={seed}: {kind}, {variant}"


def test_the_table_has_what_it_must_and_its_page_is_of_it():
    assert len(SERVED) >= PEERS
    assert (ROOT / "docs" / "families-found.md").read_text() == page(TOLD["rows"], TOLD["apart"], TOLD["about"])
    known = {row["type"] for row in TOLD["rows"]}
    turned = [row | {"absent": dict(reversed(row["absent"].items()))} for row in TOLD["rows"]]
    assert page(turned, TOLD["apart"], TOLD["about"]) == page(TOLD["rows"], TOLD["apart"], TOLD["about"])
    if TOLD["about"]["transformers"] == version("transformers"):
        assert known | {*TOLD["apart"]} == {*tiny.causal_types()}
    for row in TOLD["rows"]:
        if row["served"]:
            assert {"resid_pre", "resid_post", "logits"} <= {*row["sites"]}
            assert row["worst"] <= 1e-4
            held_to = PROPERTIES.keys() if row["variant"] == "default" else {}.keys()
            assert row["properties"].keys() | row["broken"].keys() == held_to
        else:
            assert len(row["why"]) > 20


@pytest.fixture(scope="module")
def fed():
    """Blocks that are given the embeddings once more, beside the stream."""
    return model_of(FED)


def test_blocks_that_are_given_more_than_the_stream_are_known(fed):
    assert fed.layout.fed
    assert not model_of("llama").layout.fed


def test_a_sweep_of_such_blocks_runs_each_cell_by_itself(fed, monkeypatch):
    ran = []
    own = Sweep._whole
    monkeypatch.setattr(Sweep, "_whole", lambda self, part, strand: ran.append(strand) or own(self, part, strand))
    cells = [[edits.scale("resid_pre.1", 0.5)], [edits.ablate("attn_out.0", pos=[2])]]
    readout = LastLogits()
    swept = rs.sweep(fed, [[*row] for row in ROWS], cells, readout).run(False).values
    assert ran
    for i, cell in enumerate(cells):
        runs = [fed.run([*row], ["logits"], edits=cell)["logits"][0, -1] for row in ROWS]
        assert error(swept[i], torch.stack(runs)) < 1e-5


def test_a_metric_in_a_sweep_of_such_blocks(fed):
    cells = [[edits.scale("resid_pre.1", 0.5)], [edits.scale("embed", 1.3)]]
    metric = rs.logit(7)
    swept = rs.sweep(fed, [[*ROWS[0]], [*ROWS[1]]], cells, metric).run(False).values
    for i, cell in enumerate(cells):
        for j in (0, 1):
            run = fed.run([*ROWS[j]], edits=cell, readout=metric)
            torch.testing.assert_close(swept[i, j], run.readout[0], atol=1e-4, rtol=1e-4)


def test_a_window_above_an_edited_embedding_is_refused_where_blocks_are_given_it(fed):
    base = fed.run([*ROWS[0]], edits=[edits.scale("embed", 1.3)])
    with pytest.raises(rs.errors.BadEdit, match="given the embeddings"):
        fed.run([*ROWS[0]], ["logits"], window=rs.Window(base, 2))
    whole = fed.run([*ROWS[0]], ["logits", "attn_out.3"], edits=[edits.scale("embed", 1.3)])
    assert error(base["attn_out.3"], whole["attn_out.3"]) < 1e-5


def test_a_property_that_does_not_hold_is_named(monkeypatch):
    """A negative control: a planner that forgets a strand's own edits."""
    model = model_of("arcee")
    monkeypatch.setattr("residscope.engine.planner.joined.JoinedPass._own", lambda self, site, rows: [])
    assert held(model, "s", only=("sweeps are runs",))["sweeps are runs"][1].startswith("error")
