"""Directions out of files: whole or refused, of this model or refused, with all that the file says of where they came from."""

import json
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from residscope import directions
from residscope.errors import DamagedFile, MalformedTensors, ResidscopeError, WrongModel
from residscope.session import Session
from residscope.store import exchange
from residscope.store.entries import ModelKey
from session import worlds

KEY = ModelKey.of(worlds.model("llama"))
ELSEWHERE = ModelKey("e" * 64, "another-llama", -KEY.signature)
TOLD = {"method": "pca", "n": 3, "nested": {"of": [1, 2.5, None]}, "model": KEY.hash}


def exported(key: ModelKey = KEY, **facts: object) -> bytes:
    read, write = torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    direction = directions.Direction(
        read, write, **{"site": "resid_post.1", "name": "mine", "provenance": TOLD} | facts
    )
    return exchange.to_file(exchange.Sent(direction, key, "fires on -s"))


def parts(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return load(data), json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def resolved(session: Session, data: bytes) -> directions.Direction:
    return session.reads.resolve(session.import_direction(data))[0]


def test_an_exported_direction_keeps_its_provenance(one: Session) -> None:
    assert dict(resolved(one, exported()).provenance) == {**TOLD, "imported": "mine"}
    wide = resolved(one, _wide())
    assert wide.read.dtype == torch.float32
    assert wide.provenance["imported"] == "in float64"


def _wide() -> bytes:
    vector = torch.linspace(-1, 1, 32).double()
    return exchange.to_file(exchange.Sent(directions.Direction(vector, vector, "embed", name="in float64"), KEY, None))


def test_a_direction_of_another_model_is_refused_in_the_pages_words(one: Session) -> None:
    before = one.state
    with pytest.raises(
        WrongModel, match=r"mine was found in another model.*another-llama \(eeeeeeeeeeee\).*load another-llama"
    ):
        one.import_direction(exported(ELSEWHERE))
    with pytest.raises(WrongModel):  # before its site or its width is asked about, which are that model's
        one.import_direction(exported(ELSEWHERE, site="resid_post.77"))
    assert one.state is before
    other_dtype = ModelKey("f" * 64, "the same in bfloat16", KEY.signature.bfloat16().float())
    assert resolved(one, exported(other_dtype)).name == "mine"


def test_a_file_of_another_program_says_that_nothing_proves_its_model(one: Session) -> None:
    plain = save({"read": torch.ones(32)}, metadata={"name": "theirs", "site": "resid_post.1"})
    found = dict(resolved(one, plain).provenance)
    assert found["imported"] == "theirs"
    assert "nothing in the file proves" in found["unchecked"]
    assert "unchecked" not in resolved(one, exported()).provenance
    tensors, facts = parts(exported(ELSEWHERE, name="claimed"))
    del tensors["signature"], facts["sha256"]
    assert "another-llama" in resolved(one, save(tensors, metadata=facts)).provenance["unchecked"]
    odd = save({"read": torch.ones(32)}, metadata={"name": "odd", "site": "embed", "about": "made by hand"})
    assert set(resolved(one, odd).provenance) == {"imported", "unchecked"}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["read", "write", "signature", "name", "site", "space", "offset", "about", "sha256", "residscope"]),
    st.data(),
)
def test_a_sha256_is_verified_wherever_it_stands(what: str, data: st.DataObject) -> None:
    """Any part of a sealed file changed, or the seal itself, and it is refused."""
    tensors, facts = parts(exported(space="centred", offset=0.5))
    if what in tensors:
        tensors[what][data.draw(st.integers(0, len(tensors[what]) - 1))] += data.draw(
            st.sampled_from([1.0, -0.5, 1e-3])
        )
    else:
        other = {
            "about": json.dumps({"provenance": {}, "model": {}}),
            "site": "embed",
            "space": "raw",
            "residscope": "other",
        }
        facts[what] = other.get(what, "0.25")
    with worlds.session() as session, pytest.raises(DamagedFile, match="sha256"):
        session.import_direction(save(tensors, metadata=facts))


@pytest.mark.parametrize(
    "about", ["5", "[]", "{", "[" * 100_000, '{"provenance": [["a", 1]]}', '{"model": 5}', '{"provenance": null}']
)
def test_what_is_said_of_it_in_another_shape_is_refused(one: Session, about: str) -> None:
    tensors, facts = parts(exported())
    del facts["sha256"]
    with pytest.raises(MalformedTensors, match="does not parse"):
        one.import_direction(save(tensors, metadata=facts | {"about": about}))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["name", "site", "space", "offset", "scale", "head", "about", "residscope", "sha256"]),
    st.text(max_size=12),
)
def test_any_text_for_any_fact_is_taken_or_refused_with_a_type(fact: str, text: str) -> None:
    tensors, facts = parts(exported())
    del facts["sha256"]
    data = save(tensors, metadata=facts | {fact: text})
    with worlds.session() as session:
        for take in (session.import_direction, exchange.from_file):
            with suppress(ResidscopeError):
                take(data)


def test_tensors_of_other_shapes_are_refused(one: Session) -> None:
    tensors, facts = parts(exported())
    del facts["sha256"]
    for name in ("read", "write", "signature"):
        for other in (
            torch.ones(()),
            torch.ones(2, 16),
            torch.ones(32, dtype=torch.int64),
            torch.ones(31),
            torch.ones(0),
        ):
            changed = save({**tensors, name: other}, metadata=facts)
            for take in (one.import_direction, exchange.from_file):
                with pytest.raises(ResidscopeError):
                    take(changed)
