"""Items: each kind shows itself, is one file, comes back equal, and is opened by what its file says it is."""

import copy
import json
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from bundles import MAKERS, fitted, llama, probed, spelling
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import labelled
from readers import drawn
from safetensors import safe_open
from safetensors.torch import save_file

import residscope as rs
from residscope import directions, errors, views
from residscope.files import digest, write_plain
from residscope.reports import HOMES, RECORDS, VERSION, Record, Report
from residscope.same_values import same

REPORTS = [name for name in MAKERS if name not in ("compare", "probe sweep")]


def made(name):
    """An item by its name; of a report's kinds those of `bundles`, and what stands in them."""
    return {
        "result": lambda: MAKERS["ablation sweep"](), "direction": lambda: fitted()[2], "dictionary": fitted,
        "probe": lambda: probed()[0], "prompts": lambda: labelled(6), "badge": lambda: MAKERS["evidence"]().used,
        "projection": lambda: MAKERS["look"]().projections[0],
    }.get(name, MAKERS.get(name))()  # fmt: skip


NAMES = ["result", "direction", "dictionary", "probe", "prompts", "badge", "projection", *REPORTS]


@pytest.mark.parametrize("name", NAMES)
def test_it_comes_back_equal(name, tmp_path):
    item, path = made(name), tmp_path / "some.safetensors"
    assert isinstance(item, rs.Item)
    item.save(path)
    for back in (type(item).load(path), rs.load_item(path), copy.deepcopy(item), pickle.loads(pickle.dumps(item))):
        assert type(back) is type(item)
        assert same(back, item)
        assert back == item
        assert name == "prompts" or hash(back) == hash(item)
        assert back is not item
        assert back.view().to_dict() == item.view().to_dict()
        assert (back.nbytes > 0) == (item.nbytes > 0)
        assert same(dict(back.provenance), dict(item.provenance))
    assert isinstance(item.view(), views.View)
    assert type(item.kind) is str


def test_every_report_is_made_here_and_has_a_home():
    """So that no report is left out of the tests above, and each file finds its class in a process that has not met it."""
    kinds = {made(name).kind for name in NAMES}
    own = {
        kind for kind, cls in RECORDS.items() if issubclass(cls, Report) and cls.__module__.startswith("residscope.")
    }
    assert own <= kinds
    assert {kind.removeprefix("report:") for kind in own} == HOMES.keys()
    for kind in own:
        assert RECORDS[kind].__module__ == f"residscope.{HOMES[kind.removeprefix('report:')]}"
    for cls in RECORDS.values():
        assert cls.__eq__ is Record.__eq__, cls  # eq=False: a dataclass's own compares tensors


def test_a_file_is_opened_in_a_process_that_has_met_nothing(tmp_path):
    import subprocess
    import sys

    MAKERS["evidence"]().save(tmp_path / "found.safetensors")
    code = f"import residscope as rs; print(rs.load_item({str(tmp_path / 'found.safetensors')!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == repr(MAKERS["evidence"]())


def test_reports_that_differ_in_one_part_are_not_equal():
    one = MAKERS["removal cost"]()
    for other in (
        replace(one, direction="other"),
        replace(
            one,
            cost=replace(
                one.cost, values=one.cost.values.nextafter(torch.tensor(9.0, dtype=torch.float64)), low=None, high=None
            ),
        ),
        replace(one, p={**one.p, "KL": 0.5}),
        replace(one, provenance={}),
        MAKERS["dose response"](),
    ):
        assert one != other
        assert not same(one, other)
    assert one == replace(one)


def test_a_table_is_that_of_the_main_result():
    look, dose = MAKERS["look"](), MAKERS["dose response"]()
    assert look.to_dataframe().equals(look.accuracy.to_dataframe())
    assert dose.to_dataframe().attrs["unit"] == "nats"
    with pytest.raises(errors.BadResult, match=r"evidence is no one table.*dose, removal"):
        MAKERS["evidence"]().to_dataframe()


def test_what_was_generated_is_kept(tmp_path):
    one = llama().generate([[5, 6, 7], [8, 9]], max_new_tokens=4, temperature=1.0, seed=3, stop=())
    assert isinstance(one, rs.Item)
    one.save(tmp_path / "said")
    back = rs.load_item(tmp_path / "said")
    assert back.rows == one.rows
    assert len(back.rows[1].ids) == 4
    assert back.provenance == one.provenance
    assert (back.provenance["model"], back.provenance["seed"]) == ("llama", 3)
    first, _ = back.view().views
    assert first.values == tuple(-token.log_prob for token in one.rows[0].tokens)
    one.save(tmp_path / "said.png")
    tokens = [(1, "a", -0.5, 0)]
    good = {"rows": 1, "provenance": {}, "tokens": tokens}
    for wrong in (
        {"tokens": [(1, "a", -0.5, 1)]},
        {"tokens": [("a",)]},
        {"rows": 0},
        {"rows": True},
        {"provenance": 3},
    ):
        write_plain(tmp_path / "said", "generation", {"generation": good | wrong})
        with pytest.raises(errors.DamagedFile, match="said holds no generation"):
            rs.load_item(tmp_path / "said")


def test_tensors_that_stand_twice_are_written_once(tmp_path):
    vector = torch.randn(100_000, dtype=torch.float64)
    direction = replace(drawn(1), read=vector, write=vector)
    one = rs.Dictionary("some", "resid_post.1", vector[None], vector[None], vector, provenance={"again": vector})
    one.save(tmp_path / "some")
    assert (tmp_path / "some").stat().st_size < 1.2 * vector.nbytes
    assert rs.load_item(tmp_path / "some") == one
    direction.save(tmp_path / "direction")
    assert rs.load_item(tmp_path / "direction") == direction


def test_bytes_are_those_of_the_tensors_each_counted_once():
    x = torch.zeros(10, dtype=torch.float64)
    assert rs.Result(x, ("pos",), low=x, high=x).nbytes == 3 * 80
    assert replace(drawn(1), read=x, write=x).nbytes == 2 * 80
    assert rs.Dictionary("some", "resid_post.1", x[None], x[None], x).nbytes == 80
    assert replace(MAKERS["flips"](), provenance={"of": x, "again": [x]}).nbytes == 80
    assert rs.PromptSet("a b").nbytes == 0


def test_a_recording_and_dictionaries_are_opened_with_their_model(tmp_path):
    rec, path = llama().run([[5, 6, 7], [8, 9]], ["resid_post", "logits"]), tmp_path / "run"
    rec.save(path)
    back = rs.load_item(path, llama())
    assert same({str(s): x for s, x in back.held.items()}, {str(s): x for s, x in rec.held.items()})
    assert same(rs.Recording.load(path, llama()).logits, rec.logits)
    directions.save(tmp_path / "several", [fitted()], spelling())
    (one,) = rs.load_item(tmp_path / "several", spelling()).values()
    torch.testing.assert_close(one.read, fitted().read)
    for place, said in (
        (path, "recording of a model, and none is given"),
        (tmp_path / "several", "dictionaries of a model"),
    ):
        with pytest.raises(errors.WrongModel, match=said):
            rs.load_item(place)
        with pytest.raises(errors.WrongModel):
            rs.load_item(place, rs.Model(type(llama().hf)(llama().hf.config).double(), name="other"))
    with pytest.raises(errors.WrongModel, match="none is given"):
        rs.Recording.load(path)
    assert isinstance(rec, rs.Item)
    assert rec.provenance["sites"] == ["resid_pre.1", "resid_pre.2", "resid_pre.3", "resid_post.3", "logits"]
    heat, table = rec.view().views
    torch.testing.assert_close(torch.tensor(heat.values[1]), rec["resid_pre.2"][0].norm(dim=-1).float())
    assert len(table.rows) == len(rec.sites)
    assert len(llama().run([[5, 6]], ["logits"]).view().views) == 1


@pytest.mark.parametrize("name", ["result", "direction", "dictionary", "probe", "prompts", "removal cost"])
def test_one_changed_byte_is_refused_by_the_files_name(name, tmp_path):
    item, path = made(name), tmp_path / "some.safetensors"
    item.save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 150)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        for load in (type(item).load, rs.load_item):
            with pytest.raises(errors.DamagedFile, match=r"some\.safetensors"):
                load(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.DamagedFile, match=r"some\.safetensors"):
        rs.load_item(path)


def test_another_version_s_report_is_refused_by_name(tmp_path):
    path, flips = tmp_path / "some.safetensors", MAKERS["flips"]()
    write_plain(path, flips.kind, {"version": VERSION + 1, "residscope": "9.0", "report": flips})
    with pytest.raises(errors.DamagedFile, match=r"some\.safetensors.*another version.*version 2, by residscope 9\.0"):
        rs.load_item(path)
    told = {"version": VERSION, "residscope": "0.1.0"}
    fields = {"right": 1, "flipped": 1, "interval": [0.0, 1.0], "mean_shift": 0.0, "mean_absolute_shift": 0.0}
    for kind, parts, said in (
        (flips.kind, fields | {"speed": 3}, "another version's report:flips.*speed"),
        (
            flips.kind,
            {name: x for name, x in fields.items() if name != "right"},
            "another version's report:flips.*right",
        ),
        (flips.kind, fields, "interval of a Flips is something else"),
        ("report:tomorrow", fields, "no such report"),
    ):
        record = {"$record": {"kind": kind, "fields": parts}}
        plain = json.dumps(told | {"report": record})
        save_file({}, path, metadata={"residscope": kind, "about": plain, "sha256": digest(kind, {}, plain)})
        with pytest.raises(errors.DamagedFile, match=rf"some\.safetensors(?s:.*){said}"):
            rs.load_item(path)
    write_plain(path, "report:look", told | {"report": flips})
    for load in (rs.load_item, Report.load, MAKERS["look"]().load):
        with pytest.raises(errors.DamagedFile, match=r"some\.safetensors"):
            load(path)


def test_other_files_are_refused(tmp_path):
    from residscope import edits

    edits.save(tmp_path / "some", [edits.scale("z.1", 2.0)])
    with pytest.raises(errors.DamagedFile, match=r"no item.*rs\.edits\.load"):
        rs.load_item(tmp_path / "some")
    with pytest.raises(errors.FileNotThere, match="none"):
        rs.load_item(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(errors.DamagedFile, match="text is damaged"):
        rs.load_item(tmp_path / "text")
    fitted().save(tmp_path / "some")
    for cls in (rs.Direction, rs.Result, rs.PromptSet, rs.Probe, Report):
        with pytest.raises(errors.DamagedFile, match="some holds no"):
            cls.load(tmp_path / "some")


def test_what_has_no_form_is_refused_when_it_is_written(tmp_path):
    one = replace(MAKERS["flips"](), provenance={"of": {1, 2}})
    with pytest.raises(errors.NotPlain, match=r"provenance.*builtins\.set"):
        one.save(tmp_path / "some")
    assert not [*tmp_path.iterdir()]


# ── what a sealed file may say ──────────────────────────────────────────────────────────────────────────────────

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | st.text(max_size=3)
    | st.sampled_from(["$tuple", "$record", "$view", "$result", "$probe", "report:look", "HeatMap", "View", "save_html"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.text(max_size=3) | st.sampled_from(["$tuple", "$record", "$view", "$result", "$mapping", "kind", "class", "fields"]),
        inner, max_size=2,
    ),
    max_leaves=4,
)  # fmt: skip


def ways(value, at=()):
    """The way to each value within."""
    yield at
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        yield from ways(inner, (*at, key))


def changed(value, way, new):
    if not way:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[way[0]] = changed(value[way[0]], way[1:], new)
    return copied


SEALED = ["flips", "removal cost", "look", "own tokens", "dictionary", "prompts"]


@pytest.mark.parametrize("name", SEALED)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_whatever_a_sealed_file_says_it_is_read_or_refused_with_a_type(name, data, tmp_path_factory):
    """As another version, or a person, may have written it: the hash is right, the contents are not."""
    path = tmp_path_factory.mktemp("odd") / "some"
    made(name).save(path)
    with safe_open(path, "pt") as file:
        facts, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    told, kind = json.loads(facts["about"]), facts["residscope"]
    if tensors and data.draw(st.integers(0, 3)) == 0:
        del tensors[data.draw(st.sampled_from(sorted(tensors)))]
    else:
        told = changed(told, data.draw(st.sampled_from([*ways(told)])), data.draw(VALUES))
    about = json.dumps(told)
    save_file(tensors, path, metadata={"residscope": kind, "about": about, "sha256": digest(kind, tensors, about)})
    try:
        back = rs.load_item(path)
    except errors.DamagedFile:
        return
    repr(back)
    assert same(dict(back.provenance), dict(back.provenance))


def test_a_report_that_lacks_what_it_is_told_by_is_refused(tmp_path):
    path = tmp_path / "some.safetensors"
    replace(made("removal cost"), p={}).save(path)
    with pytest.raises(errors.DamagedFile, match="do not make a report"):
        rs.load_item(path)


def test_a_class_below_a_report_is_not_written_as_it(tmp_path):
    @dataclass(frozen=True, eq=False)
    class Mine(type(MAKERS["flips"]())):
        more: int = 3

    mine = Mine(1, 1, (0.0, 1.0), 0.0, 0.0)
    with pytest.raises(errors.NotPlain, match=r"Mine, which would come back as a class above it"):
        mine.save(tmp_path / "some")


def test_a_report_of_one_s_own(tmp_path):
    @dataclass(frozen=True, eq=False)
    class Own(Report):
        kind = "report:own"
        main = "effect"
        effect: rs.Result
        picture: views.View
        lists: dict[str, list[int]]
        provenance: dict[str, object]

        def view(self):
            return self.picture

    picture = views.Curve([0, 1], [views.Line("a", [1, float("nan")], low=[0, 0], high=[2, 2])])
    own = Own(rs.Result(torch.zeros(2), ("pos",)), picture, {"a": [1, 2]}, {3: (float("inf"), torch.ones(2))})
    own.save(tmp_path / "own")
    assert rs.load_item(tmp_path / "own") == own == copy.deepcopy(own)
    assert own.to_dataframe().equals(own.effect.to_dataframe())
    with pytest.raises(errors.NotPlain, match=r"lists has no form.*Received: dict"):  # what would not be taken back
        replace(own, lists={"a": ["x"]}).save(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    RECORDS.pop("report:own")
    with pytest.raises(errors.DamagedFile, match="no such report"):
        rs.load_item(tmp_path / "own")
