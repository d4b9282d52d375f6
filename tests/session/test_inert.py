"""An edit is called inert only where leaving it out changes nothing, which is checked on the model itself."""

import itertools

import pytest
import torch

from residscope.world.inert import find_inert
from residscope.world.loaded import Loaded
from residscope.world.session_world import SessionWorld
from residscope.world.stack import parse_edits
from session import worlds

POOL = [
    {"kind": "freeze", "site": "pattern.2"},
    {"kind": "freeze", "site": "resid_pre.2"},
    {"kind": "freeze", "site": "resid_post.1", "pos": [2]},
    {"kind": "freeze", "site": "attn_scale.1"},
    {"kind": "freeze", "site": "norms"},
    {"kind": "ablate", "site": "z.1"},
    {"kind": "ablate", "site": "z.1", "head": 0},
    {"kind": "scale", "site": "mlp_out.1", "factor": 2.0},
    {"kind": "scale", "site": "resid_post.3", "factor": 2.0, "pos": [0, 1]},
    {"kind": "scale", "site": "k.3", "factor": 2.0, "pos": [0]},
    {"kind": "scale", "site": "z.3", "factor": 1.0},
    {"kind": "scale", "site": "final_norm", "factor": 2.0, "pos": 0},
]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return Loaded(worlds.model(), {})


def test_what_is_called_inert_is(loaded: Loaded) -> None:
    prompt = loaded.prompt("abcd")
    claimed = 0
    for stack in itertools.permutations(POOL, 2):
        specs = parse_edits(stack)
        made = dict(zip((str(s.id) for s in specs), SessionWorld(loaded, prompt).made(specs), strict=True))
        inert = find_inert([*made.items()], loaded.model.sites, n_pos=4)
        for id in inert:
            with_it, without = (
                loaded.model.run(list(prompt.ids), ["logits"], edits=chosen).logits[0, -1]
                for chosen in ([*made.values()], [edit for other, edit in made.items() if other != id])
            )
            torch.testing.assert_close(with_it, without, atol=1e-9, rtol=1e-9)
            claimed += 1
    assert claimed > 100


def test_what_matters_is_not(loaded: Loaded) -> None:
    scale, freeze = POOL[7], POOL[0]
    world = SessionWorld(loaded, loaded.prompt("abcd"))

    def inert(stack: list[dict]) -> dict[str, str]:
        specs = parse_edits(stack)
        return find_inert(
            [(str(s.id), e) for s, e in zip(specs, world.made(specs), strict=True)], loaded.model.sites, n_pos=4
        )

    assert not inert([scale, freeze])
    (reason,) = inert([freeze]).values()
    assert "upstream" in reason
