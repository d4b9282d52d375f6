"""The reference itself: the stock model where nothing is edited, and hand-made edits where something is."""

import pytest
import torch
from families import FAMILIES
from torch import Tensor

from attack.cases import world

IDS = [5, 17, 33, 8, 60, 2, 9]


@pytest.fixture(params=FAMILIES)
def here(request):
    return world(request.param)


@torch.no_grad()
def stock(here, ids: list[int] = IDS) -> Tensor:
    return here.model.hf(input_ids=torch.tensor([ids]), use_cache=False).logits


def test_without_edits_it_is_the_stock_model_and_sees_every_site(here):
    values = here.reference.unedited(IDS)
    torch.testing.assert_close(values["logits"], stock(here), atol=1e-6, rtol=1e-6)
    assert set(here.wiring.every()) <= values.keys()
    for site in here.wiring.every():
        sizes = {"batch": 1, "pos": len(IDS), "query": len(IDS), "key": len(IDS)}
        shape = [sizes.get(axis) or here.wiring.size(axis) for axis in here.wiring.axes(site)]
        assert list(values[site].shape) == shape, site


def test_it_leaves_no_hook_and_no_weight_behind(here):
    spec = {
        "kind": "overlay",
        "site": here.wiring.family.unembed,
        "A": torch.ones(32, 1).double(),
        "B": torch.ones(1, 97).double(),
    }
    (edited,) = here.reference.runs([IDS], [spec])
    assert not torch.allclose(edited["logits"], stock(here))
    for wiring in (here.reference.wiring, here.reference.second):
        assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in wiring.hf.modules())
        with torch.no_grad():
            again = wiring.hf(input_ids=torch.tensor([IDS]), use_cache=False).logits
        torch.testing.assert_close(again, stock(here), atol=1e-6, rtol=1e-6)


def test_a_head_is_taken_out_as_its_slice_of_the_projection(here):
    d, projection = here.wiring.sizes.d_head, here.model.hf.get_submodule(here.wiring.family.blocks)[1]
    projection = projection.get_submodule(here.wiring.family.block.attn_proj)

    def zero(module, args):
        z = args[0].clone()
        z[..., 2 * d : 3 * d] = 0
        return (z,)

    handle = projection.register_forward_pre_hook(zero)
    expected = stock(here)
    handle.remove()
    for site in ("z.1", "result.1"):
        (got,) = here.reference.runs([IDS], [{"kind": "ablate", "site": site, "to": "zero", "head": [2]}])
        torch.testing.assert_close(got["logits"], expected, atol=1e-6, rtol=1e-6)


def test_a_path_is_the_change_of_one_reading(here):
    """From the embedding to the last norm: the stream plus the difference of two embeddings, by hand."""
    other = [5, 17, 33, 8, 61, 2, 9]
    path = {"kind": "path", "site": "final_norm", "sender": "embed", "source": (tuple(other),)}
    (got,) = here.reference.runs([IDS], [path])
    a, b = here.reference.unedited(IDS), here.reference.unedited(other)
    stream = a[f"resid_post.{here.wiring.n_layers - 1}"] + b["embed"] - a["embed"]
    with torch.no_grad():
        expected = here.model.hf.get_submodule(here.wiring.family.final_norm)(stream)
    torch.testing.assert_close(got["final_norm"], expected, atol=1e-6, rtol=1e-6)
    assert not torch.allclose(got["logits"][0, 4], a["logits"][0, 4])
    torch.testing.assert_close(got["logits"][0, :4], a["logits"][0, :4], atol=1e-6, rtol=1e-6)
