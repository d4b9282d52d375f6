"""Results: what is saved comes back, long form holds every value under its labels, and damage is refused by name."""

import copy
import json
import math
import os
import pickle
import string
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residscope import Result
from residscope.errors import BadResult, DamagedFile, FileNotThere, UnknownLabel
from residscope.files import write_tensors

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
LABELS = st.one_of(
    st.integers(-9, 99), st.text(min_size=1, max_size=4), st.floats(-5, 5, allow_nan=False).map(lambda x: x + 0.5)
)


@st.composite
def parts(draw):
    """Parts of any result: up to four dimensions, from length 0, labels and columns of every kind, NaNs, intervals or none."""
    names = draw(st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=5), max_size=4, unique=True))
    names = [name for name in names if name not in ("value", "low", "high")]
    sizes = [draw(st.integers(0, 3)) for _ in names]
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    values = (torch.randn(sizes, generator=generator) * 3).to(dtype)
    if dtype.is_floating_point and values.numel() and draw(st.booleans()):
        values.view(-1)[0] = math.nan
    coords = {}
    for name, n in zip(names, sizes, strict=True):
        if draw(st.booleans()):
            coords[name] = tuple(draw(st.lists(LABELS, min_size=n, max_size=n, unique=True)))
    along = {}
    for i in range(draw(st.integers(0, 2)) if names else 0):
        dim = draw(st.sampled_from(range(len(names))))
        along[f"Column {i}"] = names[dim]
        coords[f"Column {i}"] = tuple(draw(st.lists(LABELS, min_size=sizes[dim], max_size=sizes[dim])))
    ends = {"low": values, "high": values} if draw(st.booleans()) else {}
    exact = draw(st.sampled_from([True, "gradient", "bf16 <screened>"]))
    provenance = {"method": "made up", "seed": 3, "nested": {"notes": ["a", None, 1.5]}}
    about = {
        "name": "some effect",
        "exact": exact,
        "provenance": provenance,
        "unit": draw(st.sampled_from(["", "nats"])),
    }
    return {"values": values, "dims": tuple(names), "coords": coords, "along": along, **ends, **about}


def same(a, b):
    for name in ("values", "low", "high"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None)
        if x is not None:
            assert x.dtype == y.dtype
            torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
    for name in ("dims", "name", "exact", "unit"):
        assert getattr(a, name) == getattr(b, name)
    for name in ("coords", "along", "provenance"):
        assert dict(getattr(a, name)) == dict(getattr(b, name))


@settings(max_examples=40, deadline=None)
@given(parts=parts())
def test_what_is_saved_comes_back(parts, tmp_path_factory):
    result = Result(**parts)
    path = tmp_path_factory.mktemp("results") / "effect.safetensors"
    result.save(path)
    same(Result.load(path), result)


@settings(max_examples=40, deadline=None)
@given(parts=parts())
def test_a_copy_is_equal_and_its_own(parts):
    result = Result(**parts)
    for copied in (copy.deepcopy(result), copy.copy(result), pickle.loads(pickle.dumps(result))):
        same(copied, result)
        assert copied == result
        assert hash(copied) == hash(result)
        if result.values.numel():
            assert copied.values.data_ptr() != result.values.data_ptr()


def test_results_that_differ_in_any_part_are_not_equal():
    result = grid()
    others = [
        replace(result, values=result.values + 1, low=result.low, high=result.high + 1),
        replace(result, values=result.values.double(), low=result.low.double(), high=result.high.double()),
        replace(result, name="other"), replace(result, unit="nats"), replace(result, exact="estimated"),
        replace(result, low=None, high=None), replace(result, coords={**result.coords, "layer": (3, 8)}),
        replace(result, provenance={"seed": 1}), result.values,
    ]  # fmt: skip
    assert result == grid()
    assert all(result != other for other in others)


def test_the_unit_is_shown_wherever_the_values_are(tmp_path):
    result = replace(grid(), unit="nats")
    assert "0 to 23 nats" in repr(result)
    assert all(view.unit == "nats" for view in result.view().views)
    assert result.select(layer=3, head=0).view().unit == "nats"
    assert replace(result, values=result.values, exact="estimated").mean("pos").unit == "nats"
    table = Result(torch.zeros(1, 1, 1, 1), ("a", "b", "c", "d"), unit="nats").view()
    assert table.columns[-1] == "value (nats)"
    attrs = result.to_dataframe().attrs
    assert attrs == {"name": "value", "unit": "nats", "exact": True}


def test_a_file_of_before_there_were_units_opens(tmp_path):
    about = {"dims": ["pos"], "name": "effect", "exact": True, "coords": {}, "along": {}}
    for provenance, unit in (({}, ""), ({"unit": "logits"}, "logits"), ({"unit": 3}, "")):
        path = tmp_path / "old.safetensors"
        write_tensors(path, "result", {"values": torch.zeros(2)}, about | {"provenance": provenance})
        assert Result.load(path).unit == unit
    write_tensors(path, "result", {"values": torch.zeros(2)}, about | {"provenance": {}, "unit": None})
    with pytest.raises(DamagedFile, match=r"old\.safetensors"):
        Result.load(path)


@settings(max_examples=40, deadline=None)
@given(parts=parts())
def test_long_form_holds_every_value_under_its_labels(parts):
    result = Result(**parts)
    table = result.to_dataframe()
    assert len(table) == result.values.numel()
    extra = [] if result.low is None else ["low", "high"]
    assert {*table.columns} == {*result.coords, "value", *extra}
    for row in table.to_dict("records"):
        one = result.select(**{dim: row[dim] for dim in result.dims})
        assert one.values.ndim == 0
        torch.testing.assert_close(
            one.values, torch.tensor(row["value"]).to(one.values.dtype), rtol=0, atol=0, equal_nan=True
        )
        place = [result.coords[dim].index(row[dim]) for dim in result.dims]
        for column, dim in result.along.items():
            assert row[column] == result.coords[column][place[result.dims.index(dim)]]


def grid():
    values = torch.arange(24.0).reshape(2, 3, 4)
    tokens = ("<s>", " Mary", " and", " Mary")
    return Result(
        values,
        ("layer", "head", "pos"),
        {"layer": (3, 7), "token": tokens},
        {"token": "pos"},
        low=values - 1,
        high=values + 1,
    )


def test_select_takes_the_labelled_part():
    result = grid()
    one = result.select(layer=7, head=1)
    assert one.dims == ("pos",)
    torch.testing.assert_close(one.values, result.values[1, 1])
    torch.testing.assert_close(one.low, result.values[1, 1] - 1)
    assert one.coords["token"] == result.coords["token"]
    assert one.provenance["selected"] == {"layer": 7, "head": 1}
    mary = result.select(token=" Mary")
    assert mary.coords["pos"] == (1, 3)
    torch.testing.assert_close(mary.values, result.values[..., [1, 3]])
    turned = result.select(head=[2, 0])
    assert turned.coords["head"] == (2, 0)
    torch.testing.assert_close(turned.values, result.values[:, [2, 0]])


def test_mean_over_a_dimension_leaves_its_columns_and_the_intervals_out():
    mean = grid().mean("pos")
    torch.testing.assert_close(mean.values, grid().values.mean(2))
    assert mean.dims == ("layer", "head")
    assert "token" not in mean.coords
    assert mean.low is None
    assert mean.provenance["mean over"] == {"pos": 4}
    assert Result(torch.tensor([True, False]), ("prompt",)).mean("prompt").values.item() == 0.5


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"layer": 4}, "no such layer. Received: 4. Allowed: 3, 7"),
        ({"neuron": 4}, "no such dimension or column. Received: neuron. Allowed: layer, head, pos, token"),
        ({"token": " John"}, "no such token. Received: ' John'"),
        ({"layer": [3, 5]}, "no such layer. Received: 5"),
    ],
)
def test_a_label_that_is_not_there_is_refused(wanted, said):
    with pytest.raises(UnknownLabel) as caught:
        grid().select(**wanted)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"dims": ("layer",)}, "do not name the axes"),
        ({"dims": ("pos", "pos")}, "do not name the axes"),
        ({"dims": ("value", "pos")}, "do not name the axes"),
        ({"coords": {"pos": (1, 1, 2)}}, "two places along pos have one label. Received: 1"),
        ({"coords": {"pos": (1, 2)}}, "pos does not label every place along pos. Received: 2. Allowed: 3"),
        ({"coords": {"token": ("a", "b", "c")}}, "'token' stands along no dimension"),
        ({"along": {"token": "pos"}}, "columns that are not there. Received: token"),
        ({"coords": {"pos": (None, 1, 2)}}, "a label is a number or a text. Received: None"),
        ({"low": torch.zeros(3)}, "not the values' shape"),
        ({"low": torch.zeros(2, 3)}, "two ends"),
        ({"exact": False}, "says what approximates it"),
        ({"provenance": {"model": object()}}, "no plain value"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, said):
    with pytest.raises(BadResult) as caught:
        Result(**({"values": torch.zeros(2, 3), "dims": ("layer", "pos")} | parts))
    assert said in str(caught.value)


def test_a_name_or_unit_that_is_no_text_is_refused():
    """In a process of its own: under pytest the annotations are checked before."""
    code = (
        "import torch, residscope as rs\n"
        "for parts in ({'unit': None}, {'name': 3}, {'unit': 1.0}):\n"
        "    try: rs.Result(torch.zeros(2), ('pos',), **parts)\n"
        "    except rs.errors.BadResult as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    told = "the unit of a result is words. Received: None|the name of a result is words. Received: 3|Received: 1.0"
    assert all(part in line for part, line in zip(told.split("|"), run.stdout.splitlines(), strict=True))


def test_it_owns_what_it_holds():
    values, provenance = torch.zeros(2), {"notes": ["one"]}
    result = Result(values, ("pos",), provenance=provenance)
    values += 1
    provenance["notes"].append("two")
    assert not result.values.any()
    assert result.provenance["notes"] == ["one"]
    with pytest.raises(TypeError):
        result.coords["pos"] = (5, 6)


def test_repr_shows_name_sizes_range_and_what_is_not_a_number():
    values = torch.tensor([[1.0, math.nan], [-2.5, math.inf]])
    result = Result(values, ("layer", "pos"), name="a < b", exact="gradient")
    assert repr(result) == "Result(a < b: layer 2 x pos 2; -2.5 to 1, 2 not finite; gradient)"


def test_one_changed_byte_anywhere_is_refused_by_name(tmp_path):
    path = tmp_path / "effect.safetensors"
    Result(torch.arange(3.0), ("pos",), {"pos": ("a", "b", "c")}).save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedFile, match=r"effect\.safetensors"):
            Result.load(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=r"effect\.safetensors"):
            Result.load(path)
    path.write_bytes(whole)
    Result.load(path)


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotThere, match="no file gone"):
        Result.load(tmp_path / "gone")
    save_file({"values": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(DamagedFile, match=r"other\.safetensors holds no result.*another program's"):
        Result.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotThere, match="no such folder"):
        grid().save(tmp_path / "nowhere" / "effect.safetensors")


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "effect.safetensors"
    grid().save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("residscope.drafts.sync", full)
    with pytest.raises(OSError, match="No space"):
        grid().mean("pos").save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_file_is_the_users_to_share(tmp_path):
    before = os.umask(0o022)
    try:
        grid().save(tmp_path / "effect.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "effect.safetensors").stat().st_mode & 0o777 == 0o644


def test_importing_it_loads_no_pandas():
    code = "import sys, json, residscope.results; print(json.dumps([m for m in ('pandas', 'transformers') if m in sys.modules]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
