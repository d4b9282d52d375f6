"""Colouring a run by one feature of a large encoder, as the page asks for it, beside one principal component."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import residscope as rs
from bench.harness import Row, pair
from residscope import directions
from residscope.directions import EncoderDictionary
from residscope.session import Session

MANY, FEATURE = 24_576, 20_000
TEXT = "When John and Mary went to the store, John gave a bottle of milk to"
PC = "pca@resid_post.23"


def encoder(model: rs.Model) -> EncoderDictionary:
    """A random one, of the stream."""
    d, draw = model.d_model, torch.Generator().manual_seed(0)
    read, write = (torch.randn(MANY, d, generator=draw) / d**0.5 for _ in range(2))
    zero = torch.zeros(d)
    return EncoderDictionary("sae", "resid_post.23", read, write, mean=zero, bias=torch.zeros(MANY), base=zero)


def rows(*, quick: bool = False) -> Iterator[Row]:
    """The answers to the queries `coef` of both, and to `strongest`, which reads every feature at one cell."""
    model = rs.load("smollm2-135m")
    session = Session(load=lambda name, **_: model)
    session.load(model.name)
    session.wait(120)
    session.intent("set_prompt", {"text": TEXT})
    with TemporaryDirectory() as folder:
        file = Path(folder) / "sae.safetensors"
        directions.save(file, encoder(model), model)
        session.import_item(file.read_bytes(), "features")
    session.wait(120)
    run = str(session.state.baseline)
    (sae,) = (id for id in session.state.model.dictionaries if id.startswith("sae"))

    def component() -> object:
        return session.query("coef", {"run": run, "dictionary": PC})

    def feature() -> object:
        return session.query("coef", {"run": run, "dictionary": sae, "indices": [FEATURE]})

    def strongest() -> object:
        return session.query("strongest", {"run": run, "dictionary": sae, "row": 24, "pos": 15})

    pairs, tokens = (5 if quick else 101), model.tokens(TEXT).shape[1]
    note = f"what the page asks for, of one feature of {MANY:,} against one principal component's dictionary"
    yield pair(f"colouring by a feature, {tokens} tokens", feature, component, pairs=pairs, reach=1.5, note=note)
    note = f"the strongest of {MANY:,} at one cell, against the same"
    yield pair("the strongest features here", strongest, component, pairs=pairs, note=note)
    session.close()
