"""A sweep whose metric reads one position leaves the last MLP out elsewhere, and gives the numbers of plain runs."""

import pytest
import torch
from families import FAMILIES

import residscope as rs
from residscope import edits

PROMPTS = [[5, 9, 3, 17, 8, 2, 11], [4, 8, 15, 16]]


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_the_last_mlp_is_for_the_positions_that_are_read(name):
    model = rs.load((FAMILIES[name].build().float(), None))
    n, metric = model.n_layers, rs.logit_diff(5, 7)
    cells = [[edits.ablate(f"z.{layer}", head=head)] for layer in range(n) for head in range(2)]
    mlp = model.layout.blocks[n - 1].mlp
    assert mlp is not None
    stock, reads = mlp.forward, []
    mlp.forward = lambda x: reads.append(x.shape) or stock(x)
    try:
        plan = rs.sweep(model, PROMPTS, cells, metric)
        reads.clear()
        plan.run(progress=False)
    finally:
        del mlp.forward
    assert {shape[1] for shape in reads} == {1}
    found = rs.sweep(model, PROMPTS, cells, metric).run(progress=False).values
    told = torch.stack([metric(model.run(PROMPTS, metric.sites, edits=cell)) for cell in cells])
    torch.testing.assert_close(found, told, atol=1e-5, rtol=1e-5)


def test_where_its_neurons_are_changed_it_runs_whole():
    model = rs.load((FAMILIES["llama"].build().float(), None))
    n, metric = model.n_layers, rs.logit_diff(5, 7)
    cells = [[edits.ablate(f"mlp_post.{n - 1}", neuron=3)], [edits.ablate(f"z.{n - 1}", head=1)]]
    found = rs.sweep(model, PROMPTS, cells, metric).run(progress=False).values
    told = torch.stack([metric(model.run(PROMPTS, metric.sites, edits=cell)) for cell in cells])
    torch.testing.assert_close(found, told, atol=1e-5, rtol=1e-5)
