"""Every kind of edit there is, written and read again by every way: the same run to the last bit, or a typed refusal."""

import copy
import json
import os
import pickle
import pkgutil
import subprocess
import sys
import types
from collections import OrderedDict
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import residscope as rs
from methods.clouds import cloud, fitted
from residscope import edits, errors
from residscope.edits.base import BaseEdit
from residscope.edits.saved import LATER
from residscope.engine.model import Model
from residscope.methods._lib.controls import as_far
from residscope.methods.probes.das import Das
from residscope.probes.lrqp import random_control
from tiny_models import tiny_llama

for _, name, _ in pkgutil.walk_packages(rs.__path__, "residscope."):
    if not name.startswith("residscope.store.migrations") and not name.endswith("__main__"):
        import_module(name)

MODEL = Model(tiny_llama(), name="llama")
D, ROWS = 32, torch.randint(2, 97, (3, 9), generator=torch.Generator().manual_seed(5))
PROMPTS = rs.PromptSet(
    tuple(map(tuple, ROWS.tolist())),
    answers=((10, 60), (11, 61), (12, 62)),
    labels={"kind": ("c0", "c1", "c1")},
    positions={"END": (3, 5, 8)},
)
OTHER, PROBE = MODEL.run(ROWS.flip(1)), fitted(d=D, n=160)
MORE = torch.randint(2, 97, (5, 11), generator=torch.Generator().manual_seed(6))
JOINED = {"Isolates", "Paths", "Held", "Sourced", "ConceptEdit", "BaseEdit"}  # several of one run, and what kinds share


def vectors(n, seed):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)).double()


def direction(seed, **facts):
    read = vectors(1, seed)[0]
    return rs.Direction(read, read + vectors(1, seed + 1)[0] / 4, "resid_pre.2", scale=1.5, **facts)


def dictionary(**facts):
    return rs.Dictionary("some", "resid_pre.1", *vectors(8, 7).view(2, 4, D), vectors(1, 8)[0], **facts)


# One line or more for each kind: what a field of it can hold. `pos` is a position of every prompt.
MAKERS = {
    "ablate": [
        lambda pos: edits.ablate("z.1", head=[0, 2], pos=pos),
        lambda pos: edits.ablate("mlp_out.1", "mean", over=MORE).prepare(MODEL),
        lambda pos: edits.ablate("mlp_out.2", vectors(3, 1).T[:, 1].bfloat16(), pos=pos),
    ],
    "scale": [lambda pos: edits.scale("resid_mid.1", 0.3, pos=pos)],
    "noise": [lambda pos: edits.noise("embed", 0.2, seed=7, pos=pos)],
    "steer": [
        lambda pos: edits.steer("resid_pre.2", direction(1, provenance={"a": (1, [2])}), 1.5, unit="sd", pos=pos),
        lambda pos: edits.steer("resid_pre.2", vectors(1, 3)[0].half(), -2.0),
    ],
    "clamp": [lambda pos: edits.clamp("resid_mid.2", direction(1, offset=0.3, space="centred"), 2.0, pos=pos)],
    "project_out": [lambda pos: edits.project_out("resid_post.1", [direction(1), vectors(1, 4)[0]], pos=pos)],
    "freeze": [lambda pos: edits.freeze("norms"), lambda pos: edits.freeze("pattern.1", head=1)],
    "isolate": [lambda pos: edits.isolate("z.2", head=[3, 1], pos=pos), lambda pos: edits.isolate("v.1", kv_head=1)],
    "patch": [
        lambda pos: edits.patch("resid_pre.1", OTHER, pos=pos),
        lambda pos: edits.patch("mlp_out.0", MORE[:1, :6].tolist(), align={8: 0, 1: 3}),
        lambda pos: edits.patch("mlp_out.0", MORE[:1, :6], align=[{1: 1}, {2: 1, 0: 0}, {}]),
        lambda pos: edits.patch("resid_pre.1", OTHER, feature=[0, 2], dictionary=dictionary()),
    ],
    "path": [lambda pos: edits.path("z.0", "q.2", OTHER, sender_head=1, head=[0, 3], pos=pos)],
    "feature": [lambda pos: edits.feature(dictionary(names=("a", "b", "c", "d"), sd=torch.ones(4)), [3, 1], 0.5, pos=pos)],
    "overlay": [lambda pos: edits.overlay("model.layers.2.mlp.down_proj", (torch.ones(48) * 0.1, vectors(1, 2)[0].float()))],
    "resample": [lambda pos: edits.ablate("z.3", "resample", over=MORE, seed=4).prepare(MODEL)],
    "lrqp": [
        lambda pos: rs.lrqp(PROBE, to="other"),
        lambda pos: rs.lrqp(PROBE, to="c1", alpha=30.0, pos=[pos]),
        lambda pos: random_control(rs.lrqp(PROBE, to=["true", "other", "neutral"]), PROBE, seed=1),
    ],
    "set_concept": [
        lambda pos: rs.concepts.mean_difference(PROBE),
        lambda pos: rs.concepts.leace(PROBE),
        lambda pos: rs.concepts.project_out(PROBE, to="c0", pos=[pos]),
        lambda pos: rs.concepts.constant_dose(PROBE, dose=3.0),
        lambda pos: Das(vectors(1, 9)[0] / vectors(1, 9)[0].norm(), (), PROBE).edit("c1"),
    ],
    "as_far": [
        lambda pos: as_far(rs.concepts.leace(PROBE), PROBE, seed=2),
        lambda pos: as_far(rs.lrqp(PROBE, to="other"), PROBE, seed=3),
    ],
}  # fmt: skip
EVERY = [(kind, i) for kind, makers in MAKERS.items() for i in range(len(makers))]


def ways(stack, run, folder):
    """The stack after each way there and back, by its name."""
    tensors: dict = {}
    lean = edits.to_json(stack, tensors)
    assert '"data"' not in lean
    edits.save(folder / "stack.safetensors", stack)
    rs.save_recording(run, folder / "run.safetensors")
    return {
        "JSON": edits.from_json(edits.to_json(stack)),
        "JSON, again": edits.from_json(edits.to_json(edits.from_json(edits.to_json(stack)))),
        "JSON and tensors": edits.from_json(lean, tensors),
        "dicts": tuple(edits.from_dict(json.loads(json.dumps(edit.to_dict(), allow_nan=False))) for edit in stack),
        "file": edits.load(folder / "stack.safetensors"),
        "a run's own": edits.from_json(edits.to_json(run.edits)),
        "deep copy": tuple(copy.deepcopy(stack)),
        "copy": tuple(map(copy.copy, stack)),
        "pickle": pickle.loads(pickle.dumps(tuple(stack))),
        "recording": tuple(rs.load_recording(folder / "run.safetensors", MODEL).edits),
    }


def test_every_kind_has_a_maker_here_and_a_home_that_is_imported_when_it_is_read():
    own = {kind: cls for kind, cls in edits.KINDS.items() if cls.__module__.startswith("residscope.")}
    assert own.keys() == MAKERS.keys(), "a kind of edit without a line in MAKERS"
    assert {k: c.__module__ for k, c in own.items() if not c.__module__.startswith("residscope.edits.")} == LATER

    def below(cls):
        return {cls, *(c for sub in cls.__subclasses__() for c in below(sub))}

    mine = {cls for cls in below(BaseEdit) if cls.__module__.startswith("residscope.")}
    assert {cls.__name__ for cls in mine if cls not in own.values()} == JOINED


@pytest.mark.parametrize(("kind", "i"), EVERY)
@settings(max_examples=3, deadline=None)
@given(pos=st.integers(-9, 8))
def test_every_kind_comes_back_by_every_way(kind, i, pos):
    edit = MAKERS[kind][i](pos)
    assert edit.kind == kind
    run = MODEL.run(PROMPTS, ["logits", "resid_pre"], edits=[edit])
    plain = MODEL.run(PROMPTS, ["logits"])
    assert kind == "freeze" or pos in (0, -9) or not torch.equal(run.logits, plain.logits)
    with TemporaryDirectory() as folder:
        for way, back in ways([edit], run, Path(folder)).items():
            assert type(back[0]) is type(edit), way
            assert torch.equal(MODEL.run(PROMPTS, ["logits"], edits=back).logits, run.logits), way
        found = rs.load_recording(Path(folder) / "run.safetensors", MODEL)
        for site in ("pattern.3", "mlp_post.2", "z.3"):  # recomputed, with the edits that came back
            assert torch.equal(found[site], run[site]), site


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from(EVERY), min_size=2, max_size=4, unique=True), st.integers(0, 8))
def test_stacks_come_back_too(chosen, pos):
    stack = [MAKERS[kind][i](pos) for kind, i in chosen]
    try:
        run = MODEL.run(PROMPTS, ["logits", "resid_pre"], edits=stack)
    except errors.ClashingEdits:
        return
    with TemporaryDirectory() as folder:
        for way, back in ways(stack, run, Path(folder)).items():
            assert torch.equal(MODEL.run(PROMPTS, ["logits"], edits=back).logits, run.logits), way


def test_edits_that_a_run_joined_recompute_from_a_file_as_they_ran(tmp_path):
    paths = [edits.path("z.0", "q.2", OTHER, sender_head=h, head=1) for h in (0, 1)]
    for stack in ([edits.isolate("z.1", head=2), edits.isolate("z.1", head=0)], paths):
        run = MODEL.run(PROMPTS, ["resid_pre.0"], edits=stack)
        rs.save_recording(run, tmp_path / "run")
        found = rs.load_recording(tmp_path / "run", MODEL)
        for site in ("z.1", "q.2", "logits"):
            assert torch.equal(found[site], run[site])
        assert not torch.equal(found.logits, MODEL.run(PROMPTS).logits)
        with pytest.raises(errors.BadEdit, match=r"edits\.to_json"):
            run.edits[0].to_dict()


def test_a_recording_keeps_the_answers_of_its_prompts(tmp_path):
    run = MODEL.run(PROMPTS, ["logits"])
    rs.save_recording(run, tmp_path / "run")
    found = rs.load_recording(tmp_path / "run", MODEL)
    assert found.batch.answers == PROMPTS.answers
    assert torch.equal(rs.logit_diff()(found), rs.logit_diff()(run))


# ── tensors ─────────────────────────────────────────────────────────────────────────────────────────────────────

DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool,
)  # fmt: skip
VIEWS = {
    "whole": lambda x: x,
    "turned": lambda x: x.transpose(0, -1) if x.ndim > 1 else x,
    "every other": lambda x: x[::2] if x.ndim else x,
    "spread": lambda x: x.unsqueeze(0).expand(3, *x.shape),
    "part": lambda x: torch.cat([x.reshape(-1), x.reshape(-1)])[x.numel() :].view(x.shape),
}


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(DTYPES), st.sampled_from([(), (0,), (1,), (5,), (0, 3), (3, 0, 2), (2, 3), (2, 1, 4)]),
    st.sampled_from(sorted(VIEWS)),
)  # fmt: skip
def test_tensors_of_every_dtype_and_shape_come_back(dtype, shape, view):
    size = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    raw = torch.arange(size, dtype=torch.uint8) % (2 if dtype is torch.bool else 60)
    x = VIEWS[view](raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype))
    stack, tensors = [edits.ablate("z.1", x), edits.ablate("z.2", x.clone())], {}
    with TemporaryDirectory() as folder:
        edits.save(Path(folder) / "some", stack)
        lean = edits.to_json(stack, tensors)
        for back in (
            edits.from_json(edits.to_json(stack)),
            edits.from_json(lean, tensors),
            edits.load(f"{folder}/some"),
        ):
            for edit in back:
                assert (edit.to.dtype, edit.to.shape) == (dtype, x.shape)
                bytes_of = [
                    y.contiguous().as_strided((y.numel(),), (1,)).view(torch.uint8).tolist() for y in (edit.to, x)
                ]
                assert bytes_of[0] == bytes_of[1]


def test_parts_of_one_tensor_are_saved_together(tmp_path):
    whole = torch.arange(16.0)
    edits.save(tmp_path / "some", [edits.ablate("z.1", part) for part in (whole[:8], whole[8:], whole)])
    assert [edit.to.tolist() for edit in edits.load(tmp_path / "some")] == [[*range(8)], [*range(8, 16)], [*range(16)]]
    leaf = torch.ones(8, requires_grad=True)
    (back,) = edits.from_json(edits.to_json([edits.ablate("z.1", leaf * 2)]))
    assert back.to.tolist() == [2.0] * 8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_tensors_on_a_card_come_back():
    (back,) = edits.from_json(edits.to_json([edits.ablate("z.1", torch.arange(8.0).cuda())]))
    assert back.to.tolist() == [*range(8)]


# ── other values, in what a direction says of where it came from ─────────────────────────────────────────────────

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["$tensor", "$tuple", "$", "\ud800"])
    | st.sampled_from([np.float32(0.1), np.float64(0.1), np.int32(-3), np.bool_(True), np.float16(np.nan), np.uint8(7)]),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(
        st.text(max_size=3) | st.integers() | st.booleans() | st.sampled_from(["$tensor", "kind"]) | st.tuples(st.integers()),
        inner, max_size=3,
    ),
    max_leaves=8,
)  # fmt: skip


def alike(a, b):
    """Equal in type and value, NaN to NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (a != a and b != b)


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_plain_values_come_back_as_they_were(value):
    edit = edits.steer("resid_pre.2", direction(1, provenance={"here": value}), 1.0)
    text = edits.to_json([edit])
    json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    (back,) = edits.from_json(text)
    assert alike(dict(back.direction.provenance)["here"], value)


def test_other_mappings_and_arrays_come_back():
    array = np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::-1]
    told = {"a": OrderedDict(x=1), "b": MappingProxyType({"y": torch.Size([2])}), "c": array, "d": np.array(2.5)}
    edit = edits.steer("resid_pre.2", direction(1, provenance=MappingProxyType({"a": 1})), 1.0)
    assert copy.deepcopy(edit).direction.provenance == {"a": 1}
    (back,) = edits.from_json(edits.to_json([edits.steer("resid_pre.2", direction(1, provenance=told), 1.0)]))
    found = back.direction.provenance
    assert (found["a"], found["b"]) == ({"x": 1}, {"y": (2,)})
    assert (found["c"].dtype, found["c"].tolist(), found["d"].shape) == (np.int16, array.tolist(), ())


class Unknown:
    pass


ITSELF: list = []
ITSELF.append(ITSELF)
NO_FORM = [
    {1, 2}, b"bytes", Unknown(), Unknown, len, 1j, np.array(["a"]), np.datetime64("2020-01-01"), torch.float32, OTHER, MODEL,
    ITSELF, lambda: torch.ones(2).to_sparse(), lambda: torch.empty(2, device="meta"), range(3), 10**5000,
    torch.ones(2, dtype=torch.complex128),
]  # fmt: skip


@pytest.mark.parametrize("value", NO_FORM, ids=lambda value: type(value).__name__)
def test_what_has_no_form_is_refused_when_it_is_written_by_edit_and_field(value, tmp_path):
    value = value() if isinstance(value, types.FunctionType) else value  # not alive while other tests count tensors
    edit = edits.steer("resid_pre.2", direction(1, provenance={"deep": [0, {"er": value}]}), 1.0, pos=3)
    long = isinstance(value, int)
    words = "no form in JSON" if long else r"direction of steer resid_pre\.2 pos 3\.provenance\['deep'\]\[1\]\['er'\]"
    for write in (lambda: edits.to_json([edit]), lambda: edits.save(tmp_path / "some", [edit])):
        with pytest.raises(errors.BadEdit, match="no form in JSON" if value is ITSELF else words):
            write()
    assert not [*tmp_path.iterdir()]


def test_what_a_field_holds_open_is_refused_by_name(tmp_path):
    @dataclass(frozen=True, eq=False, repr=False)
    class Mine(edits.Scale):
        extra: object = None

    for edit, words in [
        (edits.ablate("z.1", "mean", over=MORE), "prepare"),
        (edits.ablate("z.1", "resample", over=MORE), "prepare"),
        (edits.patch("z.1", PROMPTS), "prepare"),
        (edits.patch("z.1", MORE, align=(PROMPTS, PROMPTS)), "prepare"),
        (edits.patch("z.1", {"z.1": [Unknown()]}), r"source of patch z\.1\['z\.1'\]\[0\].*no form in JSON"),
        (Mine("z.1", factor=2.0), "Mine.*no kind"),
    ]:
        for write in (edit.to_dict, lambda: edits.save(tmp_path / "some", [edit])):  # noqa: B023
            with pytest.raises(errors.BadEdit, match=words):
                write()
    assert edits.KINDS["scale"] is edits.Scale  # a class below it takes nothing over
    with pytest.raises(errors.BadEdit, match="cannot be written down"):
        edits.to_json(Unlike())
    one = edits.scale("z.1", 2.0)
    assert edits.to_json(one) == edits.to_json([one])


class Unlike:
    """Acts as an edit, and is none of ours."""

    needs_unedited = False

    def places(self, table):
        return []

    def reads(self, table):
        return []

    def prepare(self, model):
        return self

    def apply(self, value, at):
        return value


def test_what_older_files_say_is_still_read():
    x = {"$tensor": edits.ablate("z.1", torch.ones(2, D)).to_dict()["to"]["$tensor"]}
    mean = edits.ablate("z.1", torch.zeros(D)).to_dict()["to"]
    told = {"name": "some", "site": "resid_pre.1", "names": ["a", "b"], "provenance": {"shape": [2, 3]}}
    d = told | {"read": x, "write": x, "mean": mean}
    old = [
        {"kind": "patch", "site": "resid_pre.1", "source": [[1, 2]], "align": {"9": 2}},
        {"kind": "patch", "site": "resid_pre.1", "source": "text", "align": [{"9": 2}, {"1": 0}]},
        {"kind": "feature", "site": "resid_pre.1", "dictionary": {"$dictionary": d}, "index": [0], "scale": 0.0},
    ]
    first, second, third = edits.from_json(json.dumps(old))
    assert (first.align, first.source) == ({9: 2}, ([1, 2],))
    assert second.align == ({9: 2}, {1: 0})
    assert third.dictionary.names == ("a", "b")


# ── reading what is none ────────────────────────────────────────────────────────────────────────────────────────

ODD = (
    [None, 5, -1.5, True, "x", [], [1], ["a"], {}, {"a": 1}, {"$tensor": 5}, {"$tensor": {}}, {"$tuple": 3}, {"$mapping": [[1]]},
     {"$mapping": [[[], 1]]}, {"$float": "one"}, {"$what": 1}, {"$tuple": [], "b": 1}, {"$direction": 5},
     {"$direction": {"read": 1}}, {"$dictionary": {}}, {"$edit": 5}, {"$edit": {"kind": "scale"}}, {"$array": {"$tensor": 1}}]
)  # fmt: skip

AS_USERS_RUN = """
import json, sys
from residscope import edits, errors
from residscope.engine.model import Model
from tiny_models import tiny_llama

entries, odd = json.load(open(sys.argv[1]))
model, taken, bad = Model(tiny_llama()), 0, []
for entry in entries:
    for name in entry:
        for value in odd:
            try:
                back = edits.from_dict(entry | {name: value})
                assert edits.from_json(edits.to_json([back]))
                taken += 1
                model.run([[5, 6, 7, 8, 9, 10, 11, 12, 13]] * 3, edits=[back])
            except errors.ResidscopeError:
                pass
            except Exception as error:
                bad.append(f"{entry['kind']} {name}={value!r}: {type(error).__name__} {error}"[:200])
print(taken > 100, len(bad), *bad, sep="\\n")
"""


def test_a_field_of_another_type_is_a_typed_refusal_or_an_edit(tmp_path):
    """Whatever a file says of an edit: never a bare TypeError, now or when it runs."""
    entries = []
    for kind, i in EVERY:
        entries.append(dict.fromkeys(f.name for f in fields(edits.KINDS[kind])) | MAKERS[kind][i](3).to_dict())
    (tmp_path / "entries").write_text(json.dumps([entries, ODD]))
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", AS_USERS_RUN, str(tmp_path / "entries")],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.stdout == "True\n0\n", done.stdout + done.stderr[-2000:]


def test_texts_that_are_no_json_are_refused():
    for text in (
        "[" * 100_000,
        "",
        "nan",
        '[{"kind": "scale", "site": "z.1", "factor": 1e999}]',
        "[5]",
        '[{"kind": []}]',
    ):
        with pytest.raises(errors.BadEdit):
            edits.from_json(text)


def test_a_control_without_its_edit_is_refused():
    control = as_far(rs.concepts.leace(PROBE), PROBE, seed=0)
    with pytest.raises(errors.BadEdit, match="goes as far as"):
        replace(control, inner=None)
    moved = control.moved(cloud(d=D)[0], torch.zeros(120).long(), None)
    assert torch.isfinite(moved).all()
