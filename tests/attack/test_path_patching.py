"""Path patching of every head in one sweep, beside the reference's run of each path: every family, receivers of every kind."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from attack.cases import as_edit, world
from tiny_models import VOCAB

ROWS = ((5, 17, 33, 8, 60, 2, 9), (41, 3, 12, 30))
SOURCE = tuple(tuple((t * 7 + 3) % (VOCAB - 2) + 2 for t in row) for row in ROWS)


class Ends:
    """Some of the logits at each prompt's end."""

    sites = ("logits",)

    def __call__(self, recording):
        return recording.logits_at(-1, [5, 7, 20])


@pytest.mark.parametrize("family", FAMILIES)
def test_path_patching_of_every_head_is_the_references(family):
    w = world(family)
    n, heads = w.model.n_layers, w.model.n_heads
    receivers = {"final_norm": (n, {}), f"q.{n - 1}": (n - 1, {"head": [1]}), f"v.{n - 1}": (n - 1, {"kv_head": [0]})}
    if "mlp_in" in w.wiring.names:
        receivers[f"mlp_in.{n - 1}"] = n - 1, {"pos": [0, -1]}
    specs = [
        {"kind": "path", "site": site, "sender": f"z.{layer}", "sender_head": [head], "source": SOURCE, **where}
        for site, (before, where) in receivers.items()
        for layer in range(before)
        for head in range(0, heads, 1 if site == "final_norm" else 3)
    ]
    rows = [list(row) for row in ROWS]
    cells = [as_edit(spec, w.model, ROWS) for spec in specs]
    plan = rs.sweep(w.model, rows, cells, Ends())
    found = plan.run(False).values
    assert plan.cost.passes <= 2
    told = torch.stack(
        [torch.stack([run["logits"][0, -1, [5, 7, 20]] for run in w.reference.runs(rows, [spec])]) for spec in specs]
    )
    torch.testing.assert_close(found, told, atol=1e-5, rtol=1e-5)
    assert ((told - plan.base).abs().amax((1, 2)) > 1e-6).float().mean() > 0.8
