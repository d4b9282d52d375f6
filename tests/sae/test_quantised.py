"""Dictionaries in 8 bits: how far a row may be off, and that what is read is what was written."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus import readings
from residscope.directions import EncoderDictionary
from residscope.errors import DamagedFile, WrongModel
from residscope.sae.quantised import quantised, read, restored, write
from tiny_models import tiny_gpt2


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.floats(1e-6, 1e6))
def test_an_entry_is_off_by_half_a_scale_at_most(seed: int, size: float) -> None:
    rows = size * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    q, scale = quantised(rows)
    assert ((restored(q, scale) - rows).abs() <= scale[:, None] * 0.5001).all()
    again, _ = quantised(restored(q, scale))
    assert torch.equal(again, q)


def test_a_row_of_zeros_stays_one() -> None:
    assert restored(*quantised(torch.zeros(2, 3))).tolist() == [[0.0] * 3] * 2


def transcoder(d: int) -> EncoderDictionary:
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(20, d, generator=draw) for _ in range(2)]
    return EncoderDictionary(
        "transcoder", "mlp_in.1", *rows, mean=torch.randn(d), bias=torch.randn(20), base=torch.randn(d), written="mlp_out.1",
        activation="jumprelu", threshold=torch.rand(20), skip=torch.randn(d, d), provenance={"corpus": "texts"},
    )  # fmt: skip


def test_a_file_comes_back_as_it_is(tmp_path: Path) -> None:
    model = readings.model()
    one = transcoder(model.d_model)
    write(tmp_path / "some.safetensors", {"transcoder@mlp_in.1": one}, model)
    (back,) = read(tmp_path / "some.safetensors", model).values()
    assert torch.equal(back.bias, one.bias)
    assert torch.equal(back.threshold, one.threshold)
    assert (back.written, back.activation, back.provenance) == (one.written, one.activation, one.provenance)
    for part in ("read", "write", "skip"):
        torch.testing.assert_close(getattr(back, part), restored(*quantised(getattr(one, part))))
    write(tmp_path / "again.safetensors", {"transcoder@mlp_in.1": back}, model)
    (again,) = read(tmp_path / "again.safetensors", model).values()
    assert again.hash == back.hash, "written once more it is the same"


def test_another_models_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    import residscope as rs

    model = readings.model()
    file = tmp_path / "some.safetensors"
    write(file, {"one": transcoder(model.d_model)}, model)
    with pytest.raises(WrongModel):
        read(file, rs.load((tiny_gpt2(), None)))
    held = bytearray(file.read_bytes())
    held[-3] ^= 4
    file.write_bytes(held)
    with pytest.raises(DamagedFile):
        read(file, model)
