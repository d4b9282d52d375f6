"""A dictionary of all heads end to end in a session: loaded by its method, coloured, its strongest named."""

from pathlib import Path

import torch
from safetensors.torch import load

import residscope as rs
from session import worlds
from session.asked import jobs, start

HEADS = str(Path(__file__).parent / "peers" / "saelens5-heads")


def test_features_of_all_heads_colour_a_run():
    with worlds.session() as session:
        session.intent("set_prompt", {"text": "hello"})
        job = start(session, "sae-load", source=HEADS, check=False)
        assert session.wait(60)
        assert jobs(session)[job]["error"] is None
        sae, model, run = rs.sae.load(HEADS), session.state.model.model, session.state.baseline
        wanted = sae.encode(model.run("hello", ["z.2"])["z.2"].flatten(-2).float())[0]
        found = load(session.query("coef", {"run": run, "dictionary": "sae@z.2", "indices": [3, 7]}))["coef"]
        torch.testing.assert_close(found[2], wanted[:, [3, 7]], atol=1e-4, rtol=1e-4)
        top = session.query("strongest", {"run": run, "dictionary": "sae@z.2", "row": 2, "pos": 1})["top"]
        assert top[0]["index"] == int(wanted[1].argmax())
