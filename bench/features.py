"""The Features tab as the page asks for it: a page out of an atlas, and a prompt's active features beside a plain forward."""

import time
from collections.abc import Iterator

import torch

import residscope as rs
from bench.harness import Row, pair
from residscope import features
from residscope.directions import EncoderDictionary
from residscope.session import Session

FEATURES, LAYERS, REACH = 2_304, (4, 8, 12, 16, 20, 24), 0.300
TEXT = "When John and Mary went to the store, John gave a bottle of milk to"


def encoder(model: rs.Model, layer: int) -> EncoderDictionary:
    """A random one of four features for each dimension, a few of which are active at a token."""
    d, draw = model.d_model, torch.Generator().manual_seed(layer)
    write = torch.nn.functional.normalize(torch.randn(FEATURES, d, generator=draw), dim=1)
    zero = torch.zeros(d)
    parts = {"mean": zero, "bias": torch.zeros(FEATURES), "base": zero}
    return EncoderDictionary("sae", f"resid_post.{layer}", write, write, **parts, activation="topk", k=32)


def wait(seconds: float) -> None:
    """What a page may take, as the other side of a pair."""
    time.sleep(seconds)


def rows(*, quick: bool = False) -> Iterator[Row]:
    """A feature's page against 300 ms; the strongest features of six layers of an unseen prompt against its plain forward."""
    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    session.wait(120)
    for layer in LAYERS:
        sae = encoder(model, layer)
        session.keep(f"sae {layer}", sae)
        session.keep(f"atlas {layer}", features.gather(model, "python-docs", sae, tokens=3_000, k=12, progress=False))
    session.intent("set_prompt", {"text": TEXT})
    session.wait(120)
    run, ids = session.state.baseline, [*session.state.prompt.ids]
    number = iter(range(10**6))

    def page() -> object:
        return session.query("feature", {"atlas": "atlas 8", "index": next(number) % FEATURES})

    def plain() -> object:
        with torch.no_grad():
            return model.hf(torch.tensor([ids]))

    def active() -> object:
        session.features.forget()
        return session.query("features_on", {"run": run, "atlases": [f"atlas {layer}" for layer in LAYERS]})

    pairs = 5 if quick else 41
    note = f"with its examples, of {FEATURES:,} features of SmolLM2; against {1000 * REACH:.0f} ms"
    yield pair("a feature's page from the atlas", page, lambda: wait(REACH), pairs=pairs, reach=1.0, note=note)
    note = f"the strongest of {FEATURES:,} at each, {len(ids)} tokens; against the model's plain forward of them"
    yield pair("a prompt's active features over six layers", active, plain, pairs=pairs, reach=1.3, note=note)
    session.close()
