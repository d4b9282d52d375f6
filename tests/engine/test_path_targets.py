"""Which paths the map offers: the list that the page is held to (web/tests/paths.test.ts) is what `edits.path` takes."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES as TINY

import residscope as rs
from residscope import edits
from residscope.errors import ResidscopeError

LIST = Path(__file__).parents[1] / "path_targets.json"
FAMILIES = ("llama", "gpt2", "phi", "gpt_neox", "gpt_neox, one by one", "olmo2", "mixtral", "toy, attention only")
"""Blocks one after the other, beside each other, with norms behind them, with experts, without an MLP."""


def ends(model: rs.Model) -> list[str]:
    """As the map names them: `embed`, `1.2`, `mlp 1`, `logits`."""
    rows = [[*(f"{layer}.{head}" for head in range(model.n_heads)), f"mlp {layer}"] for layer in range(model.n_layers)]
    return ["embed", *itertools.chain(*rows), "logits"]


def taken(model: rs.Model, sender: str, receiver: str) -> bool:
    """Whether some path of the library leads from one end of the map to another."""
    group = model.n_heads // model.n_kv_heads
    if sender == "logits" or receiver == "embed":
        return False
    sent: dict[str, Any] = {"sender": "embed"}
    if sender.startswith("mlp"):
        sent = {"sender": f"mlp_out.{sender[4:]}"}
    elif sender != "embed":
        layer, head = map(int, sender.split("."))
        sent = {"sender": f"z.{layer}", "sender_head": head}
    wanted: list[dict[str, Any]] = [{"receiver": "final_norm"}]
    if receiver.startswith("mlp"):
        wanted = [{"receiver": f"mlp_in.{receiver[4:]}"}]
    elif receiver != "logits":
        layer, head = map(int, receiver.split("."))
        wanted = [
            {"receiver": f"q.{layer}", "head": head},
            *({"receiver": f"{name}.{layer}", "kv_head": head // group} for name in "kv"),
        ]
    for one in wanted:
        try:
            edits.path(**sent, **one, source="x").places(model.sites)
        except ResidscopeError:
            continue
        return True
    return False


def listed(family: str) -> dict[str, Any]:
    model = rs.load((TINY[family].build(), None))
    names = ends(model)
    return {
        "family": family,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "n_kv_heads": model.n_kv_heads,
        "absent": sorted(model.sites.absent),
        "ends": names,
        "reads": ["".join("01"[taken(model, sender, receiver)] for receiver in names) for sender in names],
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_the_list_that_the_page_is_held_to_is_true(family: str) -> None:
    (kept,) = [one for one in json.loads(LIST.read_text()) if one["family"] == family]
    assert kept == listed(family)
    assert {row.count("1") for row in kept["reads"]} > {0}


if __name__ == "__main__":
    lines = ",\n".join(json.dumps(listed(family)) for family in FAMILIES)
    LIST.write_text(f"[\n{lines}\n]\n")
